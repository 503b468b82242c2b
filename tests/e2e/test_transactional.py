"""Readers of committed records see everything once, whoever is killed, stopped, replaced or joined by others."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from streams.core.events import Example, Outcome, Prediction, Review
from streams.core.topics import partition_of
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that
from tests.e2e.test_process import ROLES, Flow, partitions

MORE = 'delivery="transactional", partitions=2,'


@pytest.fixture
def make(broker: Kafka, tmp_path: Path, unique: str) -> Iterator[Callable[..., System]]:
    """Makes the test's system, whose loop may have more to it."""
    made: list[System] = []

    def of(more: str = "", **settings: float) -> System:
        system = System(broker.bootstrap, tmp_path, PHISHING, unique, MORE + more, **settings)
        made.append(system)
        for source in system.loop.labels:
            topic = str(source.topic)
            system.admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
        system.prepare()
        return system

    yield of
    for system in made:
        with system:
            pass


def told(system: System) -> dict[str, Counter[str]]:
    """How often readers see each event, or feedback, on each of the topics."""
    return {
        "predictions": Counter(each.event_id for each in system.records("predictions", Prediction)),
        "reviews": Counter(each.event_id for each in system.records("reviews", Review)),
        "examples": Counter(
            source.feedback_id
            for each in system.records("examples", Example)
            for source in each.sources
        ),
        "outcomes": Counter(each.feedback_id for each in system.records("outcomes", Outcome)),
    }


def assert_told_once(system: System, sent: list[str], labels: set[str]) -> None:
    """Everything that was sent is there, once, and the audit finds nothing."""
    feedback = [*(f"f-{event_id}" for event_id in sent), *labels]
    wanted = {"predictions": sent, "reviews": sent, "examples": feedback, "outcomes": feedback}
    system.await_ids("outcomes", feedback, "feedback_id", within_s=60)
    await_that(
        lambda: all(set(wanted[topic]) <= seen.keys() for topic, seen in told(system).items()), 60
    )
    again = [
        (topic, of)
        for topic, seen in told(system).items()
        for of, times in seen.items()
        if times > 1
    ]
    assert again == []
    audited = system.command("audit", system.reference)
    assert audited.returncode == 0, audited.stdout


def test_whoever_is_killed_frozen_joined_or_left_everything_is_told_once(
    make: Callable[..., System], unique: str
) -> None:
    """Frozen is for longer than the session lasts, with outputs that are in no committed transaction."""
    topic = f"{unique}-labels"
    system = make(
        f'labels=[Source("{topic}", event_id="id", label="truth")],', snapshot_interval_s=0.5
    )
    system.start_all()
    firsts = [*(f"{role}-1" for role in ROLES), "intake-1"]
    labels = set[str]()

    def label(event_ids: list[str]) -> None:
        for event_id in event_ids:
            place = system.write(topic, f'{{"id": "{event_id}", "truth": true}}'.encode())
            labels.add("{}-{}-{}".format(topic, *place))

    with Flow(system, 200) as flow:
        seconds = [system.start(role, f"{role}-2") for role in ROLES]
        system.await_running(*seconds)
        label(flow.sent[:30])
        for worker in firsts:
            system.end(worker, signal.SIGKILL)
            system.start(worker[:-2], worker)
        label(flow.sent[30:60])
        system.await_running(*firsts)
        flow.await_more(50)
        for worker in firsts:
            system.send_signal(worker, signal.SIGSTOP)
        await_that(lambda: shares(system, 2) == [2, 4, 1], 60, "the others have taken over")
        flow.await_more(50)
        for worker in firsts:
            system.send_signal(worker, signal.SIGCONT)
        await_that(lambda: shares(system, 1)[:2] == [1, 2], 60, "they take part again")
        flow.await_more(50)
        assert [system.end(worker) for worker in seconds] == [0, 0, 0]
        await_that(lambda: shares(system, 1) == [2, 4, 1], 60, "they are alone again")
        flow.await_more(50)
    assert_told_once(system, flow.sent, labels)
    assert {process.poll() for process in system.processes.values()} == {None}


def shares(system: System, number: int) -> list[int]:
    return [partitions(system, f"{role}-{number}") for role in ROLES]


def test_a_zombie_whose_name_was_taken_ends_with_a_sentence(make: Callable[..., System]) -> None:
    """As if a machine froze, and the same worker was started on another one."""
    system = make()
    system.await_running(system.start("predictor"))
    with Flow(system, 100, verdicts=False) as flow:
        flow.await_more(50)
        system.send_signal("predictor-1", signal.SIGSTOP)
        zombie = system.processes.pop("predictor-1")
        system.processes["zombie"] = zombie
        system.start("predictor", COUNTERPOINT_STATE_DIR=str(system.folder / "elsewhere"))
        system.await_running("predictor-1")
        flow.await_more(50)
        zombie.send_signal(signal.SIGCONT)
        assert zombie.wait(20) == 1
        flow.await_more(50)
    system.await_ids("predictions", flow.sent)
    assert set(told(system)["predictions"].values()) == {1}
    log = (system.folder / "predictor-1.log").read_text()
    assert "another process runs with this --worker name" in log
    del system.processes["zombie"]


def test_what_only_time_decided_is_told_once_though_the_disk_is_lost(
    make: Callable[..., System],
) -> None:
    """Unanswered events: no record follows them, so that nothing but a committed note says how far time has come."""
    system = make("unanswered=False, window=timedelta(seconds=3),", snapshot_interval_s=0.5)
    system.start_all()
    system.send_inputs(ids := [f"e{n:03}" for n in range(40)])
    system.await_ids("examples", ids)
    system.end("joiner-1", signal.SIGKILL)
    shutil.rmtree(system.folder / "state" / system.name / "joiner")
    system.await_running(system.start("joiner"))
    system.send_inputs(more := [f"f{n:03}" for n in range(20)])
    system.await_ids("examples", more)
    seen = Counter(each.event_id for each in system.records("examples", Example))
    assert seen == dict.fromkeys(ids + more, 1)


def test_what_comes_between_a_transaction_that_is_taken_back_and_the_seek_hides_nothing(
    make: Callable[..., System],
) -> None:
    """The consumer waits for records since before it, and takes them after it: from where it stood, which is too far."""
    system = make()
    armed = "transaction.delivered=raise@2;rebalance.fetching=delay:0.01@*"
    system.await_running(system.start("predictor", COUNTERPOINT_FAILPOINTS=armed))
    system.send_inputs(["first"])
    system.await_ids("predictions", ["first"])  # by a transaction of its own
    system.send_inputs(["taken back"])
    await_that(lambda: "a transaction was taken back" in system.log("predictor-1"))
    partition = partition_of(b"taken back", 2)
    names = (f"e{n:03}" for n in range(40))
    system.send_inputs(
        more := [name for name in names if partition_of(name.encode(), 2) == partition]
    )
    ids = ["first", "taken back", *more]
    system.await_ids("predictions", ids)
    assert told(system)["predictions"] == dict.fromkeys(ids, 1)
