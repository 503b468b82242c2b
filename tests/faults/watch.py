"""Watches the outputs of a run as they come: what is answered, when a role recovered, where nothing came for a while."""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from confluent_kafka import Message, TopicPartition

from streams.core.events import DUPLICATE, LEARNED, DeadLetter, Outcome
from streams.core.topics import partition_of
from streams.engine.reader import group_less, partitions_of
from tests.e2e.system import System
from tests.faults.plan import ROLES
from tests.faults.traffic import PARTITIONS, REGIONS

READ = ("predictions", "reviews", "outcomes", "dead-letters")
GAP_S = 1.0
T = TypeVar("T")
LANES: Mapping[str, frozenset[int]] = {
    "predictor": frozenset(range(PARTITIONS)),
    "joiner": frozenset(range(PARTITIONS)),
    "learner": frozenset(partition_of(region.encode(), PARTITIONS) for region in REGIONS),
    "intake": frozenset([0]),
}
"""By role, the partitions whose output shows that it works."""


class Gap(NamedTuple):
    """A time without outputs in a partition where they come many times a second.

    Attributes:
        at_s: When it began, from the begin of the run.
        seconds: How long it was.
    """

    role: str
    partition: int
    at_s: float
    seconds: float


class Watch:
    """Reads in a thread of its own.

    Args:
        labels: The topic of labels, whose name the ids of their feedback begin with.
        sent_at: By an event's number, when it was sent.
    """

    def __init__(self, system: System, labels: str, sent_at: array[float]) -> None:
        self._system, self._labels, self._sent_at = system, labels, sent_at
        self.predicted: set[int] = set()  # by an event's number
        self.again = Counter[str]()  # what came more than once, by topic
        self.ended: set[str] = set()  # feedback with an outcome or a dead letter
        self.statuses: dict[str, int] = defaultdict(int)
        self.dead_letters: list[DeadLetter] = []
        self.gaps: list[Gap] = []
        self._newest: dict[tuple[str, int], tuple[float, float]] = {}  # caused at, came at
        self._came: dict[tuple[str, int], float] = {}
        self._reviewed: set[int] = set()
        self._outcomes: set[tuple[int, int]] = set()  # by the place of the feedback
        self._began = time.time()
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

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

    def recovered(self, role: str, since: float) -> float | None:
        """When each partition of a role had an output that something sent after ``since`` caused; None: not yet."""
        if self._failure is not None:
            raise self._failure
        found = [self._newest.get((role, lane), (0.0, 0.0)) for lane in LANES[role]]
        if any(caused < since for caused, _ in found):
            return None
        return max(came for _, came in found)

    def _run(self) -> None:
        consumer = group_less(self._system.kafka, **{"fetch.wait.max.ms": 20, "log_level": 0})
        try:
            names = {self._system.topic(suffix): suffix for suffix in READ}
            consumer.assign(
                [
                    TopicPartition(name, partition, 0)
                    for name in names
                    for partition in partitions_of(consumer, name)
                ]
            )
            while not self._stop.is_set():
                for message in consumer.consume(5_000, 0.1):
                    if message.error() is None:
                        self._take(names[message.topic() or ""], message)
        except BaseException as error:  # noqa: BLE001  whoever waits is told
            self._failure = error
        finally:
            consumer.close()

    def _take(self, suffix: str, message: Message) -> None:
        key, partition = message.key() or b"", message.partition() or 0
        if suffix == "predictions":
            self._count(suffix, int(key), self.predicted)
            self._note("predictor", partition, key, message)
        elif suffix == "reviews":
            self._count(suffix, int(key), self._reviewed)
            self._note("joiner", partition, key, message)
        elif suffix == "outcomes":
            outcome = self._system.codec.decode_as(Outcome, message.value() or b"")
            self.statuses[outcome.status] += 1
            self._count(suffix, (outcome.partition, outcome.offset), self._outcomes)
            if outcome.status != DUPLICATE:
                self.ended.add(outcome.feedback_id)
            if outcome.status == LEARNED:
                lane = partition_of((outcome.model_key or "").encode(), PARTITIONS)
                self._note("learner", lane, key, message)
            if outcome.feedback_id.startswith(self._labels):
                self._note("intake", 0, key, message)
        else:
            letter = self._system.codec.decode_as(DeadLetter, message.value() or b"")
            self.dead_letters.append(letter)
            if letter.feedback_id is not None:
                self.ended.update(letter.feedback_id.split(", "))

    def _count(self, suffix: str, what: T, seen: set[T]) -> None:
        self.again[suffix] += what in seen
        seen.add(what)

    def _note(self, role: str, lane: int, key: bytes, message: Message) -> None:
        came, where = message.timestamp()[1] / 1000, (role, lane)
        before = self._came.get(where)
        if before is not None and came - before > GAP_S and role != "intake":
            self.gaps.append(Gap(role, lane, before - self._began, came - before))
        self._came[where] = came
        if not key.isdigit():  # about nothing that was sent
            return
        caused = self._sent_at[int(key)]
        if caused > self._newest.get(where, (0.0, 0.0))[0]:
            self._newest[where] = (caused, came)


def worst(gaps: list[Gap]) -> dict[str, float]:
    """By role, the longest time without outputs, in seconds."""
    return {role: max((g.seconds for g in gaps if g.role == role), default=0.0) for role in ROLES}
