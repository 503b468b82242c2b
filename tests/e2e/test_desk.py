"""The desk as a process, on a Kafka and a database of its own: nothing that was confirmed is lost, whatever is killed."""

from __future__ import annotations

import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streams import operate
from streams.broker import Broker
from streams.core.events import DUPLICATE, LEARNED, Outcome
from streams.desk.filters import Filter
from streams.desk.reads import Reads
from streams.desk.store import open_store
from streams.engine.codec import Codec
from streams.opening import desk_url
from tests.e2e.reviewing import Reviewer, free_port, reviewers
from tests.e2e.system import PHISHING, System, await_that

EVENTS = [f"e/{number:02}" for number in range(24)]


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Broker]:
    """A broker that may be killed."""
    with Broker(tmp_path / "kafka") as broker:
        yield broker


@pytest.fixture(params=["sqlite", "postgresql"])
def system(request: pytest.FixtureRequest, kafka: Broker, tmp_path: Path) -> Iterator[System]:
    """A loop that asks about everything, with a desk on each kind of database."""
    more: dict[str, object] = {"desk_port": free_port(), "snapshot_interval_s": 0.5}
    if request.param == "postgresql":
        more["desk_url"] = request.getfixturevalue("postgresql").database()
    folder = tmp_path / "loop"
    folder.mkdir()
    name = f"desk-{uuid.uuid4().hex[:8]}"
    with System(kafka.bootstrap, folder, PHISHING, name, "partitions=2,", **more) as made:
        made.prepare()
        made.start_all()
        yield made


def shown(system: System) -> list[Any]:
    """What Browse shows."""
    with closing(open_store(desk_url(system.loop, system.settings), system.name)) as store:
        return list(Reads(store, Codec().decode, 1).browse(Filter(), limit=200).rows)


def test_nothing_confirmed_is_lost_though_the_desk_and_kafka_are_killed(
    system: System, kafka: Broker
) -> None:
    ann, bob = reviewers(system, "ann", "bob")
    system.start("desk")
    system.send_inputs(EVENTS)
    await_that(lambda: len(ann.ask("GET", "/reviews")) == len(EVENTS), 60.0, "all wait")

    both = threading.Barrier(2)

    def answer(reviewer: Reviewer, count: int) -> None:
        both.wait(60)
        for _ in range(count):
            assert reviewer.answer_next()

    def together(count: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=answer, args=(who, count)) for who in (ann, bob)]
        for thread in threads:
            thread.start()
        return threads

    working = together(6)
    await_that(lambda: len(ann.confirmed) + len(bob.confirmed) >= 4, 60.0)
    system.end("desk-1", signal.SIGKILL)
    system.start("desk")
    for thread in working:
        thread.join(60)
    kafka.kill()
    for thread in together(3):
        thread.join(60)
    system.end("desk-1", signal.SIGKILL)  # with verdicts that Kafka does not have
    system.start("desk")
    for thread in together(3):
        thread.join(60)
    kafka.start()

    assert not set(ann.confirmed) & set(bob.confirmed)
    confirmed = ann.confirmed | bob.confirmed
    assert sorted(confirmed) == EVENTS
    system.await_ids("outcomes", confirmed.values(), "feedback_id", 90.0)
    learned = Counter(
        outcome.feedback_id
        for outcome in set(system.records("outcomes", Outcome))
        if outcome.status == LEARNED
    )
    assert learned == Counter(confirmed.values())
    assert {o.status for o in system.records("outcomes", Outcome)} <= {LEARNED, DUPLICATE}

    def all_told() -> bool:
        rows = ann.ask("GET", "/predictions?limit=200")["rows"]
        return sum(row["truth"] is not None for row in rows) == len(EVENTS)

    await_that(all_told, 60.0, "the verdicts are shown")

    def beats() -> bool:
        told = operate.status(system.loop, system.settings).workers
        return ("desk-1", "running") in {(each.status.worker, each.state) for each in told}

    await_that(beats, 60.0, "the desk shows in status, though Kafka was away")
    assert ann.ask("GET", "/reviews") == []
    assert not ann.answer_next()
    assert system.end("desk-1") == 0
    before = shown(system)
    rebuilt = system.command("desk", "rebuild", system.reference)
    assert (rebuilt.returncode, "records taken in" in rebuilt.stderr) == (0, True), rebuilt.stderr
    assert shown(system) == before
    for reviewer in (ann, bob):
        reviewer.close()
