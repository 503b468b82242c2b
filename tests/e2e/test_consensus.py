"""Several people at a real desk: what enough of them say is learned, once, and what they cannot settle is for a senior."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams import bootstrap
from streams.core.events import LEARNED, NO_CONSENSUS, OUTVOTED, Example, Outcome
from tests.conftest import Kafka
from tests.e2e.reviewing import Reviewer, free_port, reviewers
from tests.e2e.system import PHISHING, System, await_that

MORE = "reviewers=review.Consensus(of=2, agree=2), window=timedelta(seconds=40), partitions=2,"
AGREED, DISPUTED, ALONE = "agreed", "disputed", "alone"


@pytest.fixture
def system(broker: Kafka, tmp_path: Path, unique: str) -> Iterator[System]:
    """A loop that asks two people about everything, and learns what they agree on."""
    settings = {"desk_port": free_port(), "snapshot_interval_s": 0.5}
    with System(broker.bootstrap, tmp_path, PHISHING, unique, MORE, **settings) as made:
        made.prepare()
        made.start_all()
        made.start("desk")
        yield made


def given(person: Reviewer, event_id: str) -> dict[str, Any] | None:
    """What a person is given to answer, if it is this."""
    found = [item for item in person.ask("POST", "/leases", {}) if item["event_id"] == event_id]
    return found[0] if found else None


def answer(person: Reviewer, event_id: str, label: bool) -> None:
    """Is given an event, and answers it."""
    await_that(lambda: given(person, event_id), 30.0, f"{person.name} is asked about {event_id}")
    person.answer(event_id, label)


def test_what_two_people_say_is_learned_once_and_a_senior_settles_what_they_disagree_on(
    system: System,
) -> None:
    ann, bob, cy = reviewers(system, "ann", "bob", "cy")
    (sue,) = reviewers(system, "sue", role="senior")

    system.send_inputs([AGREED])
    answer(ann, AGREED, True)
    assert given(ann, AGREED) is None
    answer(bob, AGREED, True)
    system.send_inputs([DISPUTED])
    answer(ann, DISPUTED, True)
    answer(bob, DISPUTED, False)
    system.send_inputs([ALONE])
    answer(ann, ALONE, True)
    answer(sue, DISPUTED, False)

    agreed = [ann.confirmed[AGREED], bob.confirmed[AGREED]]
    settled = [bob.confirmed[DISPUTED], sue.confirmed[DISPUTED]]
    outvoted, alone = ann.confirmed[DISPUTED], ann.confirmed[ALONE]
    system.await_ids("outcomes", [*agreed, *settled, outvoted], "feedback_id", 30.0)
    assert [item["event_id"] for item in cy.ask("GET", "/reviews")] == [ALONE]
    system.await_ids("outcomes", [alone], "feedback_id", 90.0)
    became = {(each.feedback_id, each.status) for each in system.records("outcomes", Outcome)}
    assert became == {
        *((feedback_id, LEARNED) for feedback_id in (*agreed, *settled)),
        (outvoted, OUTVOTED),
        (alone, NO_CONSENSUS),
    }
    lessons = {
        each.event_id: (each.label, {source.reviewer for source in each.sources})
        for each in system.records("examples", Example)
    }
    assert lessons == {AGREED: (True, {"ann", "bob"}), DISPUTED: (False, {"bob", "sue"})}
    await_that(lambda: not cy.ask("GET", "/reviews"), 30.0, "nothing waits any more")
    assert str(bootstrap.audit(system.loop, system.settings).findings) == "[]"
    for each in (ann, bob, cy, sue):
        each.close()
