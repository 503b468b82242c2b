from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from streams.core.consensus import Consensus
from streams.core.errors import Conflict
from streams.core.events import ACCEPT, CORRECT, REJECT, RETRACT, DeadLetter, Label, Score
from streams.core.verdicts import Rules
from streams.desk import tables
from streams.desk.folding import Read
from streams.desk.store import Store
from tests.desk.desks import HOUR_MS, RULES, Desk, feedback, outcome, prediction, review

LETTER = DeadLetter(
    "tests.inputs", 0, 7, 1, b"a", b"x", [], "predictor", "decode", "no", "a", None, 2
)
SCORE = Score("", 4, 1, {"accuracy": 1.0}, 5)


def everything(store: Store) -> dict[str, list[Any]]:
    """All rows of the projection but the positions."""
    found = {}
    with store.reading() as connection:
        for table in tables.projection.sorted_tables:
            rows = connection.execute(select(table)).all()
            found[table.name] = sorted(map(tuple, rows), key=repr)
    return found


def label(desk: Desk, event_id: str) -> Label | None:
    """What the model said of an event."""
    shown = desk.reads.story(event_id).prediction
    assert shown is not None
    return shown.label


SEVERAL = replace(RULES, reviewers=Consensus(of=2, agree=2))


@pytest.mark.parametrize("rules", [RULES, SEVERAL])
def test_a_rebuild_comes_to_the_same_and_touches_nothing_else(store: Store, rules: Rules) -> None:
    desk = Desk(store, rules)
    asked = prediction("a", route="review")
    accepted, refused = feedback("a"), feedback("b", CORRECT, False, "bob")
    desk.take(asked, review(asked, 1_000, 9_000), prediction("b"), accepted, LETTER, SCORE)
    desk.take(refused, outcome(accepted, 0), outcome(refused, 1, "expired", None))
    late = prediction("late", route="review")
    desk.take(late, review(late, 1_000, 1_500), at=1_000)
    desk.take(prediction("now"), at=2_000)
    desk.say("eve", "b", ACCEPT)
    desk.next("eve")
    before = everything(desk.store)
    assert {name for name, found in before.items() if not found} == (
        {"looked"} if rules.reviewers is None else set()
    )
    held, waiting = desk.work.held(desk.now), desk.outbox.undelivered()
    desk.store.empty_projection()
    desk.fold(desk.came, desk.new_folding())
    assert everything(desk.store) == before
    assert (desk.work.held(desk.now), desk.outbox.undelivered()) == (held, waiting)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), rules=st.sampled_from([RULES, SEVERAL]))
def test_the_order_of_the_topics_and_the_batches_does_not_matter(
    store: Store, rules: Rules, data: Any
) -> None:
    store.empty_projection()
    desk = Desk(store, rules)
    asked = prediction("a", route="review")
    said = [
        feedback("a"),
        feedback("a", RETRACT),
        feedback("a", REJECT, None, "bob"),
        feedback("a"),
    ]
    request = review(asked, 1_000, 9_000)
    again = request._replace(senior=True, reason="those who were asked disagree")
    desk.take(asked, request, again, *said, outcome(said[0], 0))
    expected = everything(desk.store)
    topics: dict[str, list[Any]] = {}
    for each in desk.came:
        topics.setdefault(each.topic, []).append(each)
    order = data.draw(
        st.permutations([topic for t, all_ in topics.items() for topic in [t] * len(all_)])
    )
    came = [topics[topic].pop(0) for topic in order]
    cut = data.draw(st.integers(0, len(came)))
    desk.store.empty_projection()
    folding = desk.new_folding()
    for batch in (came[:cut], came[cut:]):
        desk.fold(batch, folding)
    assert everything(desk.store) == expected


def test_the_first_prediction_counts_until_it_is_forgotten(desk: Desk) -> None:
    desk.take(prediction("a", True), at=1_000)
    desk.take(prediction("a", False), at=2_000)
    assert label(desk, "a") is True
    desk.take(prediction("a", False), at=1_001 + 2 * HOUR_MS)
    assert label(desk, "a") is False


def test_what_was_taken_is_not_taken_again(desk: Desk) -> None:
    desk.take(prediction("a"))
    with pytest.raises(Conflict, match="read by another desk"):
        desk.fold(desk.came)


def test_what_another_desk_has_taken_in_part_is_not_taken(desk: Desk) -> None:
    other = desk.new_folding()
    with desk.store.reading() as connection:
        other.positions(connection)
    desk.take(prediction("a"))
    desk.came.append(desk._came(prediction("b"), desk.now))
    with pytest.raises(Conflict, match="read by another desk"):
        desk.fold(desk.came, other)
    with desk.store.reading() as connection:
        other.positions(connection)
    desk.fold(desk.came[1:], other)


def test_a_topic_that_was_made_anew_is_not_read_on(desk: Desk) -> None:
    folding, other = desk.new_folding(), desk.new_folding()
    folding.topic_ids, other.topic_ids = {"t": "one"}, {"t": "two"}
    with desk.store.projecting() as connection:
        folding.take(connection, [], [Read("t", 0, 5)])
    with desk.store.reading() as connection:
        assert folding.positions(connection) == {("t", 0): 5}
        with pytest.raises(Conflict, match="counterpoint desk rebuild"):
            other.positions(connection)


def test_a_rebuild_keeps_those_of_the_unasked_that_the_desk_has_kept(desk: Desk) -> None:
    desk.keep = 10
    desk.ask("asked")
    for number in range(7):
        desk.take(*(prediction(f"{number}-{n}") for n in range(4)), at=2_000 + number)
    before = everything(desk.store)
    kept = {"asked", *(f"{number}-{n}" for number in (5, 6) for n in range(4)), "4-2", "4-3"}
    assert {row[0] for row in before["predictions"]} == kept
    assert {row[0] for row in before["bodies"]} == kept
    desk.store.empty_projection()
    desk.fold(desk.came, desk.new_folding())
    assert everything(desk.store) == before


def test_bytes_that_are_no_record_and_characters_that_no_database_holds_stop_nothing(
    desk: Desk,
) -> None:
    desk.take(prediction("zero\x00", text="\x00"), feedback("zero\x00", reviewer="\x00"))
    desk.take(prediction("nan", probability=math.nan))
    desk.ask("inf", priority=math.inf)
    broken = desk.came[0]._replace(offset=5, value=b"nonsense")
    desk.fold([broken])
    assert desk.folding.unreadable == 1
    shown = desk.reads.story("zero\ufffd").prediction
    assert shown is not None
    assert shown.event_id == "zero\x00"
