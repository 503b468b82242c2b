"""The joiner on a real broker: what is misrouted, what nobody answers, a disk that is lost, a registry that hangs."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from streams.core.events import (
    DUPLICATE,
    LEARNED,
    DeadLetter,
    Example,
    Feedback,
    Outcome,
    Prediction,
    Review,
)
from streams.core.topics import partition_of
from streams.core.verdicts import UNANSWERED
from streams.engine.codec import Codec
from streams.engine.registry import SchemaRegistry
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that, verdict
from tests.engine.apicurio import Apicurio


@pytest.fixture
def make(broker: Kafka, tmp_path: Path, unique: str) -> Iterator[Callable[..., System]]:
    """Makes the test's system, with what its loop says besides and the settings that it wants."""
    made: list[System] = []

    def of(more: str = "", **settings: object) -> System:
        system = System(broker.bootstrap, tmp_path, PHISHING, unique, more, **settings)
        made.append(system)
        created = system.command("topics", "create", system.reference)
        assert created.returncode == 0, created.stderr
        return system

    yield of
    for system in made:
        with system:
            pass


def predicted(system: System, count: int) -> list[str]:
    """Events that have their predictions."""
    ids = [f"e-{uuid4().hex}" for _ in range(count)]
    system.send_inputs(ids)
    system.await_ids("predictions", ids)
    return ids


def test_feedback_of_a_client_with_another_partitioner_is_sent_on_and_learned_once(
    make: Callable[..., System],
) -> None:
    system = make("partitions=2,")
    system.start_all()
    ids = predicted(system, 20)
    for event_id in ids * 2:  # each twice, with one id
        told, wrong = verdict(event_id, True), 1 - partition_of(event_id.encode(), 2)
        value, key = system.codec.encode("feedback", told), event_id.encode()
        system.write(system.topic("feedback"), value, key, partition=wrong)

    def outcomes() -> list[str]:
        return sorted(each.status for each in system.records("outcomes", Outcome))

    await_that(lambda: len(outcomes()) >= 40, what="an outcome of each copy")
    assert outcomes() == [DUPLICATE] * 20 + [LEARNED] * 20
    sent_on = [
        seen.record
        for seen in system.seen("feedback")
        if partition_of(seen.record.event_id.encode(), 2) == seen.place[0]
    ]
    assert sorted(sent_on) == sorted(verdict(event_id, True) for event_id in ids * 2)


def test_what_nobody_answers_within_the_window_is_learned_as_the_loop_says(
    make: Callable[..., System],
) -> None:
    """Only the broker's clock can tell, and it goes on when no records come."""
    system = make("partitions=2, window=timedelta(seconds=3), unanswered=False,")
    system.start_all()
    silent = predicted(system, 10)
    (answered,) = predicted(system, 1)
    system.send("feedback", [verdict(answered, True)])
    system.await_ids("examples", silent)
    examples = {each.event_id: each for each in system.records("examples", Example)}
    assert {examples[each].label for each in silent} == {False}
    assert {s.channel for each in silent for s in examples[each].sources} == {UNANSWERED}
    assert examples[answered].label is True

    def none_waits() -> bool:
        status = system.status("joiner-1")
        return status is not None and status.numbers.get("pending") == 0

    await_that(none_waits, what="the joiner tells that nothing waits any more")


def test_a_joiner_without_its_disk_reads_it_all_again_and_repeats_nothing(
    make: Callable[..., System],
) -> None:
    system = make("partitions=2,")
    system.start_all()
    ids = predicted(system, 300)
    early = ids[:100]
    system.send("feedback", (verdict(each, True) for each in early))
    system.await_ids("outcomes", early)
    system.await_ids("reviews", ids)
    await_that(lambda: sum(system.committed("joiner", "predictions").values()) == 300)
    await_that(lambda: sum(system.committed("joiner", "feedback").values()) == 100)
    assert system.end("joiner-1") == 0
    shutil.rmtree(system.folder / "state" / system.name / "joiner" / "joiner-1")
    system.await_running(system.start("joiner"))
    assert "reading 400 records into the state, which was behind" in system.log("joiner-1")

    def waiting() -> bool:
        status = system.status("joiner-1")
        return status is not None and status.numbers.get("pending") == 200

    await_that(waiting, what="200 predictions wait")
    system.send("feedback", (verdict(each, True) for each in ids))
    statuses = [LEARNED] * 300 + [DUPLICATE] * 100
    await_that(lambda: len(system.records("outcomes", Outcome)) >= 400, what="400 outcomes")
    found = [each.status for each in system.records("outcomes", Outcome)]
    assert sorted(found) == sorted(statuses)
    assert len(system.records("reviews", Review)) == 300


def test_a_joiner_on_standby_takes_over_what_it_has_copied_and_loses_nothing(
    make: Callable[..., System],
) -> None:
    system = make("partitions=1,")
    joiners = [system.start("joiner", f"joiner-{n}", "--standby") for n in range(2)]
    system.await_running(*joiners, system.start("predictor"), system.start("learner"))
    ids = predicted(system, 300)
    early = ids[:100]
    system.send("feedback", (verdict(each, True) for each in early))
    system.await_ids("outcomes", early)
    system.await_ids("reviews", ids)
    await_that(lambda: sum(system.committed("joiner", "predictions").values()) == 300)
    await_that(lambda: sum(system.committed("joiner", "feedback").values()) == 100)

    def counting(**numbers: float) -> str | None:
        found = ((each, system.status(each)) for each in joiners)
        fits = (each for each, s in found if s and numbers.items() <= s.numbers.items())
        return next(fits, None)

    copying = await_that(lambda: counting(copies=1, copies_behind=0), what="a copy of all")
    owner = next(each for each in joiners if each != copying)
    system.end(owner, signal.SIGKILL)
    system.send("feedback", (verdict(each, True) for each in ids))
    statuses = [LEARNED] * 300 + [DUPLICATE] * 100
    await_that(lambda: len(system.records("outcomes", Outcome)) >= 400, 60, "400 outcomes")
    assert sorted(each.status for each in system.records("outcomes", Outcome)) == sorted(statuses)
    assert len(system.records("reviews", Review)) == 300
    assert "records into the state, which was behind" not in system.log(copying)
    await_that(lambda: counting(pending=0, copies=0) == copying, what="it owns the partition")


@pytest.fixture
def apicurio(tmp_path: Path) -> Iterator[Apicurio]:
    folder = tmp_path / "registry"
    folder.mkdir()
    started = Apicurio(folder)
    started.start()
    yield started
    started.send_signal(signal.SIGCONT)
    started.stop()


@pytest.fixture
def registry(apicurio: Apicurio) -> Iterator[SchemaRegistry]:
    with closing(SchemaRegistry({"url": apicurio.url})) as connected:
        yield connected


def test_a_registry_that_hangs_delays_and_loses_nothing(
    make: Callable[..., System], apicurio: Apicurio, registry: SchemaRegistry
) -> None:
    """Every role meets a schema for the first time while nobody answers for it."""
    system = make("partitions=2,", registry_url=apicurio.url)
    system.codec = Codec(registry)
    ids = [f"e-{uuid4().hex}" for _ in range(10)]
    for suffix, cls in (("feedback", Feedback), ("predictions", Prediction), ("examples", Example)):
        system.codec.encoder(cls, system.topic(suffix))  # so that the tests need it no more
    system.send_inputs(ids)
    system.start("joiner")
    system.start("learner")
    system.await_running("joiner-1", "learner-1")
    apicurio.send_signal(signal.SIGSTOP)
    system.send("feedback", (verdict(each, True) for each in ids))
    await_that(lambda: "trying again" in system.log("joiner-1"), 60, "the joiner waits")
    apicurio.send_signal(signal.SIGCONT)
    system.await_running(system.start("predictor"))
    system.await_ids("outcomes", ids)
    apicurio.send_signal(signal.SIGSTOP)
    more = [f"e-{uuid4().hex}" for _ in range(10)]
    system.send_inputs(more)
    system.send("feedback", (verdict(each, False) for each in more))
    system.await_ids("outcomes", more)  # by now each role knows what it needs
    assert {each.status for each in system.records("outcomes", Outcome)} == {LEARNED}
    assert system.records("dead-letters", DeadLetter) == []
    assert all(process.poll() is None for process in system.processes.values())
