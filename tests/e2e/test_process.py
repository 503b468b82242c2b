"""Processes come, go, are killed and lose their broker, while records flow: nothing is lost, and each verdict is learned once."""

from __future__ import annotations

import signal
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from confluent_kafka.admin import NewTopic

from streams.broker import Broker
from streams.core.events import Example, Input, Outcome, Prediction, Review, Snapshot
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that, event, verdict

ROLES = ("predictor", "joiner", "learner")


class Flow:
    """Sends events, and at once the verdict on each, until it is left."""

    def __init__(self, system: System, per_s: int, *, verdicts: bool = True) -> None:
        self._system, self._pause_s, self._verdicts = system, 10 / per_s, verdicts
        self.sent: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flow")

    def _run(self) -> None:
        system, outputs = self._system, self._system.outputs
        inputs, feedback = system.topic("inputs"), system.topic("feedback")
        while not self._stop.wait(self._pause_s):
            for _ in range(10):
                event_id = f"e{len(self.sent):06}"
                key = event_id.encode()
                outputs.send(inputs, system.codec.encode(inputs, event(event_id)), key)
                if self._verdicts:
                    told = verdict(event_id, len(self.sent) % 3 == 0)
                    headers = [("feedback_id", told.feedback_id.encode())]
                    outputs.send(feedback, system.codec.encode(feedback, told), key, headers)
                self.sent.append(event_id)
            outputs.poll()

    def await_more(self, count: int) -> None:
        """Waits until so many more were sent."""
        enough = len(self.sent) + count
        await_that(lambda: len(self.sent) >= enough, 120)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._system.outputs.flush(60)


@pytest.fixture
def make(broker: Kafka, tmp_path: Path, unique: str) -> Iterator[Callable[..., System]]:
    """Makes the test's system, with the settings that it wants."""
    made: list[System] = []

    def of(**settings: float) -> System:
        system = System(broker.bootstrap, tmp_path, PHISHING, unique, "", **settings)
        made.append(system)
        system.prepare()
        return system

    yield of
    for system in made:
        with system:
            pass


def assert_nothing_lost(system: System, sent: list[str]) -> None:
    """Every input has a prediction, every feedback an outcome and an example."""
    system.await_ids("predictions", sent, within_s=60)
    feedback = [f"f-{event_id}" for event_id in sent]
    system.await_ids("outcomes", feedback, "feedback_id", within_s=60)
    assert {each.status for each in system.records("outcomes", Outcome)} <= {"learned", "duplicate"}
    sources = {s.feedback_id for each in system.records("examples", Example) for s in each.sources}
    assert sources == set(feedback)


def assert_learned_once(system: System, sent: list[str]) -> None:
    """The model that holds the whole log has learned each verdict once."""
    newest = await_that(
        lambda: [
            each
            for each in system.records("models", Snapshot)
            if each.version == len(system.seen("examples"))
        ],
        what="a snapshot of all that was learned",
    )
    assert newest[-1].learned == len(sent)


def counts(system: System) -> dict[str, int]:
    return {
        "inputs": len(system.records("inputs", Input)),
        "predictions": len(system.records("predictions", Prediction)),
        "reviews": len(system.records("reviews", Review)),
        "examples": len(system.records("examples", Example)),
        "outcomes": len(system.records("outcomes", Outcome)),
    }


def test_a_terminated_role_ends_within_5_s_and_reads_nothing_twice_when_it_starts_again(
    make: Callable[..., System],
) -> None:
    """No commit comes by itself within the test, so all of them are those of the end."""
    system = make(commit_interval_s=120, snapshot_interval_s=0.001)
    system.start_all()
    with Flow(system, 200) as flow:
        flow.await_more(200)
        for role in ROLES:
            began = time.monotonic()
            assert system.end(f"{role}-1") == 0
            assert time.monotonic() - began < 5
        flow.await_more(100)
        system.start_all()
        flow.await_more(100)
    assert_nothing_lost(system, flow.sent)
    assert counts(system) == dict.fromkeys(counts(system), len(flow.sent))
    assert system.end("learner-1") == 0
    assert_learned_once(system, flow.sent)


def test_a_role_that_is_terminated_while_it_starts_ends_too(make: Callable[..., System]) -> None:
    system = make()
    for role in ROLES:
        system.start(role)
        await_that(lambda: (system.folder / "state" / system.name / role / f"{role}-1").exists())  # noqa: B023
        assert system.end(f"{role}-1") == 0, system.log(f"{role}-1")


@pytest.mark.parametrize("step", ["commit.captured", "commit.prepared", "commit.committed"])
def test_a_role_whose_commit_fails_ends_with_the_reason(
    make: Callable[..., System], step: str
) -> None:
    """It cannot go on, and a worker that hangs is restarted by nobody."""
    system = make(commit_interval_s=0.3)
    system.start("predictor", COUNTERPOINT_FAILPOINTS=f"{step}=raise@2")
    with Flow(system, 200, verdicts=False):
        code, told = system.await_end("predictor-1", 30.0)
    assert code == 1
    assert f"failpoint {step}" in told


def test_whichever_role_is_killed_under_flow_nothing_is_lost(make: Callable[..., System]) -> None:
    system = make(commit_interval_s=0.3, snapshot_interval_s=0.5)
    system.start_all()
    with Flow(system, 200) as flow:
        for role in ROLES:
            flow.await_more(150)
            system.end(f"{role}-1", signal.SIGKILL)
            flow.await_more(50)
            system.start(role)
        system.await_running(*(f"{role}-1" for role in ROLES))
    assert_nothing_lost(system, flow.sent)
    assert_learned_once(system, flow.sent)


def test_a_role_that_is_killed_before_its_first_commit_starts_again_and_reads_anew(
    make: Callable[..., System],
) -> None:
    """What it told of itself is no sign of offsets that vanished: it had committed nothing."""
    system = make(commit_interval_s=120)
    system.start_all()
    system.send_inputs(ids := [f"e{n:03}" for n in range(40)])
    system.await_ids("predictions", ids)
    system.send("feedback", (verdict(event_id, True) for event_id in ids))
    system.await_ids("outcomes", ids)
    for role in ROLES:
        await_that(lambda: has_told(system, f"{role}-1"), what=f"{role} tells where it is")  # noqa: B023
        system.end(f"{role}-1", signal.SIGKILL)
    system.start_all()
    system.send_inputs(more := [f"e{n:03}" for n in range(40, 60)])
    system.send("feedback", (verdict(event_id, True) for event_id in more))
    assert_nothing_lost(system, ids + more)


def has_told(system: System, worker: str) -> bool:
    status = system.status(worker)
    return status is not None and any(place.position > 0 for place in status.positions)


def test_two_processes_of_a_role_share_its_partitions_and_one_takes_over_from_the_other(
    make: Callable[..., System],
) -> None:
    system = make(snapshot_interval_s=0.5)
    system.start_all()
    with Flow(system, 200) as flow:
        flow.await_more(100)
        system.start("predictor", "predictor-2")
        system.start("joiner", "joiner-2")
        for role, topics in (("predictor", 1), ("joiner", 2)):
            await_that(lambda: shares(system, role) == [2 * topics] * 2, 60, f"two {role}s")  # noqa: B023
        flow.await_more(100)
        assert system.end("predictor-2") == 0
        assert system.end("joiner-1") == 0
        await_that(lambda: partitions(system, "predictor-1") == 4, 60)
        await_that(lambda: partitions(system, "joiner-2") == 8, 60)
        flow.await_more(100)
    assert_nothing_lost(system, flow.sent)
    assert_learned_once(system, flow.sent)
    assert counts(system) == dict.fromkeys(counts(system), len(flow.sent))


def shares(system: System, role: str) -> list[int]:
    return [partitions(system, f"{role}-{number}") for number in (1, 2)]


def partitions(system: System, worker: str) -> int:
    status = system.status(worker)
    return len(status.positions) if status is not None and status.state == "running" else 0


def test_an_intake_that_is_killed_ended_and_helped_loses_no_label_and_none_is_learned_twice(
    broker: Kafka, tmp_path: Path, unique: str
) -> None:
    labels = f"{unique}-labels"
    more = f'labels=[Source("{labels}", event_id="id", label="truth")],'
    with System(
        broker.bootstrap, tmp_path, name=unique, more=more, commit_interval_s=0.3
    ) as system:
        system.admin.create_topics([NewTopic(labels, 3, 1)])[labels].result(30)
        system.prepare()
        system.start_all()
        system.send_inputs(ids := [f"e{n:04}" for n in range(200)])
        system.await_ids("predictions", ids)
        places = set()

        def label(some: list[str]) -> None:
            for event_id in some:
                told = f'{{"id": "{event_id}", "truth": true}}'.encode()
                partition, offset = system.write(labels, told)
                places.add(f"{labels}-{partition}-{offset}")

        label(ids[:50])
        system.await_ids("outcomes", ids[:10])
        system.end("intake-1", signal.SIGKILL)
        label(ids[50:100])
        system.await_running(system.start("intake"), system.start("intake", "intake-2"))
        await_that(lambda: shares(system, "intake") in ([1, 2], [2, 1]), 60, "two intakes")
        label(ids[100:150])
        began = time.monotonic()
        assert system.end("intake-1") == 0
        assert time.monotonic() - began < 5
        label(ids[150:])
        system.await_ids("outcomes", places, "feedback_id")
        statuses = Counter(
            (each.feedback_id, each.status) for each in system.records("outcomes", Outcome)
        )
        assert {place for place, status in statuses if status == "learned"} == places
        assert {status for _, status in statuses} <= {"learned", "duplicate"}
        assert sum(n for (_, status), n in statuses.items() if status == "learned") == 200


def test_the_broker_is_away_for_a_minute_and_every_role_lives_on(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, unique: str
) -> None:
    broker = Broker(tmp_path_factory.mktemp("mortal"))
    with broker, System(broker.bootstrap, tmp_path, name=unique, snapshot_interval_s=0.5) as system:
        system.prepare()
        system.start_all()
        with Flow(system, 100) as flow:
            flow.await_more(100)
            broker.kill()
            flow.await_more(6_000)
            broker.start()
            flow.await_more(100)
        assert_nothing_lost(system, flow.sent)
        assert_learned_once(system, flow.sent)
        assert [process.poll() for process in system.processes.values()] == [None] * 3


# A delay in the worst place ------------------------------------------------------------------------------------------

DELAYED = """
    '''A predictor whose seeks take long: what was fetched before one arrives while it still runs.'''
    import asyncio
    import os
    import sys

    from streams import bootstrap
    from streams.config import Settings
    from streams.engine import transport, worker


    class Consumer(transport.BatchConsumer):
        async def _seek(self):
            starts = await super()._seek()
            await asyncio.sleep(0.4)
            return starts


    class Transport(transport.BatchTransport):
        Consumer = Consumer


    class Worker(worker.RoleWorker):
        def _build(self):
            app = super()._build()
            was = app.transport
            app.transport = Transport(
                was.url, app, checkpoint=was.checkpoint, owner=self, transactions=was.transactions,
                max_batch=was.max_batch, max_queued=was.max_queued,
            )
            return app


    bootstrap.RoleWorker = Worker
    sys.exit(bootstrap.run_role("predictor", sys.argv[1], None, Settings.from_env(os.environ)))
"""


def test_what_arrives_while_a_rebalance_still_seeks_is_not_lost(
    make: Callable[..., System],
) -> None:
    """Without the order of flag, seek and epoch in the transport this loses a few records at each rebalance."""
    system = make()
    program = system.folder / "delayed.py"
    program.write_text(textwrap.dedent(DELAYED))

    def start(worker: str) -> str:
        return system.run(worker, [sys.executable, str(program), system.reference])

    system.await_running(start("predictor-1"))
    with Flow(system, 2000, verdicts=False) as flow:
        for _ in range(2):
            flow.await_more(400)
            start("predictor-2")
            await_that(lambda: [partitions(system, f"predictor-{n}") for n in (1, 2)] == [2, 2], 60)
            flow.await_more(400)
            assert system.end("predictor-2") == 0
            await_that(lambda: partitions(system, "predictor-1") == 4, 60)
    system.await_ids("predictions", flow.sent)
    # One may be there twice, if a commit came too late for its rebalance: at least once is what is promised.
    assert {each.event_id for each in system.records("predictions", Prediction)} == set(flow.sent)
