"""One run: a broker and a loop of its own, the flow, the faults of a plan, rest, and what is then found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import NewTopic

from streams import bootstrap
from streams.audit import Report
from streams.broker import Broker
from streams.core.events import Snapshot
from streams.engine.reader import group_less, partitions_of, to_end, watermarks
from streams.engine.snapshots import parse_key
from streams.loop import AT_LEAST_ONCE, TRANSACTIONAL
from tests.e2e.system import System, await_that
from tests.faults.check import Rebuilt, misjudged, rebuilt
from tests.faults.fleet import REFUSED, Death, Fleet
from tests.faults.inject import SESSION_S, Done, Injector
from tests.faults.plan import Stage, timely
from tests.faults.traffic import PROGRAM, Flow, event_id_of, more_of
from tests.faults.watch import Gap, Watch

NAME = "faults"
LABELS = f"{NAME}-labels"
REST_WITHIN_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run has found."""

    seed: int
    seconds: float
    events: int
    verdicts: Counter[str]
    statuses: dict[str, int]
    lost: list[str]
    audit: Report
    audit_s: float
    rebuilt: Rebuilt
    misjudged: list[str]
    done: list[Done]
    failures: list[str]
    cut_off: list[str]
    deaths: list[Death]
    gaps: list[Gap]
    dead_letters: Counter[str]
    delivery: str
    again: Counter[str]

    def wrong(self) -> list[str]:
        """Everything that must not be, in words; nothing if all is well."""
        found = [f"lost: {each}" for each in self.lost]
        found += [f"audit: {each}" for each in self.audit.findings]
        found += [f"its version answers otherwise: {each}" for each in self.rebuilt.different]
        found += [f"misjudged: {each}" for each in self.misjudged]
        found += [f"dead letters: {n} × {reason}" for reason, n in self.dead_letters.items()]
        found += self.failures
        if self.delivery == TRANSACTIONAL:
            found += [f"written again: {n} {topic}" for topic, n in self.again.items() if n]
        found += [
            f"{death.worker} refused: {death.line}"
            for death in self.deaths
            if death.code == REFUSED
        ]
        return found


def run(
    folder: Path,
    stages: Iterable[Stage],
    *,
    seed: int,
    per_s: float,
    until: float,
    delivery: str = AT_LEAST_ONCE,
    snapshot_interval_s: float = 1.0,
    say: Callable[[str], None],
) -> Result:
    """Runs a plan; no new fault begins after ``until``."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(folder / "kafka"))
        work = folder / "work"
        work.mkdir()
        system = stack.enter_context(
            System(
                broker.bootstrap,
                work,
                PROGRAM,
                NAME,
                more_of(LABELS, delivery),
                session_timeout_s=SESSION_S,
                commit_interval_s=0.3,
                snapshot_interval_s=snapshot_interval_s,
            )
        )
        system.admin.create_topics([NewTopic(LABELS, 2, 1)])[LABELS].result(30)
        system.prepare()
        flow = Flow(system, LABELS, seed, per_s)
        watch = stack.enter_context(Watch(system, LABELS, flow.sent_at))
        fleet = stack.enter_context(Fleet(system))
        began = time.time()
        injector = Injector(fleet, watch, broker, say)
        with flow:
            for role in ("predictor", "joiner", "learner"):
                injector.await_recovered(role, began)
            say("flowing")
            for stage in timely(stages, until):
                injector.run(stage, until)
        say("at rest")
        lost = _come_to_rest(system, fleet, flow, watch)
        audit_began = time.time()
        report = bootstrap.audit(system.loop, system.settings)
        return Result(
            seed=seed,
            seconds=audit_began - began,
            events=len(flow.sent_at),
            verdicts=flow.kinds,
            statuses=dict(watch.statuses),
            lost=lost,
            audit=report,
            audit_s=time.time() - audit_began,
            rebuilt=rebuilt(system, bootstrap.Parts(system.loop, system.settings).model, seed),
            misjudged=misjudged(system),
            done=injector.done,
            failures=injector.failures,
            cut_off=injector.cut_off,
            deaths=fleet.deaths,
            gaps=watch.gaps,
            delivery=delivery,
            again=watch.again,
            dead_letters=Counter(letter.reason for letter in watch.dead_letters),
        )


def _come_to_rest(system: System, fleet: Fleet, flow: Flow, watch: Watch) -> list[str]:
    """Waits until everything is answered and stored; what is not, in words."""
    for worker in fleet.workers:
        fleet.await_running(worker)
    count, feedback = len(flow.sent_at), flow.feedback_ids | _labels(system)

    def missing() -> list[str]:
        inputs = sorted(set(range(count)) - watch.predicted)
        told = [f"input {event_id_of(number)}" for number in inputs]
        return told + [f"feedback {each}" for each in sorted(feedback - watch.ended)]

    def is_answered() -> bool:
        return len(watch.predicted) >= count and feedback <= watch.ended

    try:
        await_that(is_answered, REST_WITHIN_S, "everything is answered")
        await_that(lambda: _is_stored(system), 60, "every model is stored")
    except AssertionError as error:
        return missing() or [str(error)]
    return []


def _labels(system: System) -> set[str]:
    consumer = group_less(system.kafka)
    try:
        ends = {p: watermarks(consumer, LABELS, p)[1] for p in partitions_of(consumer, LABELS)}
    finally:
        consumer.close()
    return {f"{LABELS}-{p}-{offset}" for p, end in ends.items() for offset in range(end)}


def _is_stored(system: System) -> bool:
    """Whether each partition's last lesson is in a stored model."""
    ends: dict[int, int] = {}  # where marks of transactions begin, if there are any
    for message in to_end(system.kafka, system.topic("examples")):
        ends[message.partition()] = message.offset() + 1
    stored: dict[int, int] = {}
    for message in to_end(system.kafka, system.topic("models")):
        if message.value() is not None and parse_key(message.key() or b"").chunk is None:
            snapshot = system.codec.decode_as(Snapshot, message.value() or b"")
            stored[snapshot.partition] = max(stored.get(snapshot.partition, 0), snapshot.version)
    return all(stored.get(p, end) >= end for p, end in ends.items())
