"""The joiner: predictions and feedback in; examples, reviews and outcomes out, exactly once whatever is killed.

The decisions are ``core/join``, the state and its commit protocol ``engine/partition`` and ``engine/state``.  Here is
what ties them to Kafka: which partitions, what the broker's clock says, where outputs go.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import Any, ClassVar, TypeAlias

from faust.types import TP

from streams.core.errors import Unavailable
from streams.core.events import Example, Outcome, Review
from streams.core.topics import partition_of
from streams.engine.codec import Codec
from streams.engine.guard import Guard
from streams.engine.heap import give_back
from streams.engine.partition import Buried, Misrouted, Output, PartitionJoin
from streams.engine.producer import NO_HEADERS, Made, Outputs
from streams.engine.reader import chunks_to_end, group_less, watermarks
from streams.engine.records import by_partition
from streams.engine.standby import OpenPartition, Standby
from streams.engine.state import Captured
from streams.engine.status import Heart, Progress
from streams.engine.transport import Batch
from streams.engine.worker import Role
from streams.failpoints import failpoint

log = logging.getLogger("counterpoint.joiner")

SKEW_MS = 1_000
"""A partition read to its end counts as read to the broker's time less this: brokers' clocks, and the replicas of one
partition, may be so far apart."""
ASK_S = 2.0
"""How long the broker may take to tell its time; then the clock stands until the next heartbeat."""
TOLD_EVERY_S = 2.0
LOOK_EVERY_S = 1.0
"""How often the oldest prediction that waits is looked for."""


Tell: TypeAlias = Callable[[str, float], None]
"""Takes what is done, and the part of it that is, 0 to 1."""


@contextmanager
def logged() -> Iterator[Tell]:
    """Tells how far something is by a line every two seconds."""
    told = monotonic()

    def tell(what: str, part: float) -> None:
        nonlocal told
        if monotonic() - told > TOLD_EVERY_S:
            told = monotonic()
            log.info("read %d %% of %s", 100 * part, what)

    yield tell


class Joiner(Role):
    """See the module.

    Args:
        predictions: Topic of the predictions.
        feedback: Topic of the feedback.
        partitions: How many partitions each of them has.
        examples: Topic of the examples.
        outcomes: Topic of the outcomes.
        reviews: Topic of the reviews.
        open_partition: Opens the join of a partition.
        kafka: Connection settings, in librdkafka's names.
        prepares: Whether a crash is decided by what was prepared; with transactions it is by the committed notes.
        watched: Shows how far it is with reading into a state that was behind.
        standby: Keeps copies of the partitions that others own.
    """

    name: ClassVar[str] = "joiner"
    copartitioned: ClassVar[bool] = True
    max_batch: ClassVar[int] = 250
    rest_s: ClassVar[float] = 0.005
    niceness: ClassVar[int] = 5

    def __init__(
        self,
        *,
        predictions: str,
        feedback: str,
        partitions: int,
        examples: str,
        outcomes: str,
        reviews: str,
        open_partition: OpenPartition,
        kafka: Mapping[str, Any],
        codec: Codec,
        outputs: Outputs,
        guard: Guard,
        heart: Heart,
        prepares: bool = True,
        watched: Callable[[], AbstractContextManager[Tell]] = logged,
        standby: Standby | None = None,
    ) -> None:
        self._standby = standby
        self.topics, self._watched = (predictions, feedback), watched
        self._predictions, self._feedback, self._partitions = predictions, feedback, partitions
        self._examples, self._outcomes, self._reviews = examples, outcomes, reviews
        self._encode_example = codec.encoder(Example, examples)
        self._encode_outcome = codec.encoder(Outcome, outcomes)
        self._encode_review = codec.encoder(Review, reviews)
        self._open, self._kafka = open_partition, kafka
        self._outputs, self._guard, self._heart = outputs, guard, heart
        self._joins: dict[int, PartitionJoin] = {}
        self._made: list[Made] = []
        self._prepares = prepares
        self._captured: dict[int, Captured] = {}
        self._decided: dict[int, int] = {}  # by partition, the time that is committed as decided
        self._idle: dict[
            TP, tuple[int, int]
        ] = {}  # an end, and the broker's time before it was asked
        self._oldest: list[int] = []  # times of predictions that wait for a verdict
        self._looked = 0.0
        # A partition is read to its end where nothing more is there, nor about to be committed.
        self._reader = group_less(kafka, **{"isolation.level": "read_uncommitted"})
        self._counts: dict[str, int] = defaultdict(int)
        self._senders: Mapping[type, Callable[[Any], None]] = {
            Example: self._send_example,
            Outcome: self._send_outcome,
            Review: self._send_review,
            Buried: self._bury,
            Misrouted: self._forward,
        }

    # Partitions come and go

    def noted(self, notes: Mapping[TP, str]) -> None:
        """Hears up to which time the group has committed what only time decides."""
        self._decided = {}
        for tp, note in notes.items():
            if note.isdecimal():
                self._decided[tp.partition] = max(int(note), self._decided.get(tp.partition, 0))

    def assigned(self, committed: Mapping[TP, int | None], abort: threading.Event) -> None:
        """Opens the partitions' states, and reads into each what is committed and not in it."""
        if self._standby is not None:
            self._standby.hold({tp.partition for tp in committed})
        todo: dict[str, dict[int, range]] = {topic: {} for topic in self.topics}
        for partition in sorted({tp.partition for tp in committed}):
            opened = self._joins[partition] = self._open(partition, self._emit)
            offsets = {topic: committed[TP(topic, partition)] for topic in self.topics}
            starts = {t: watermarks(self._reader, t, partition)[0] for t in self.topics}
            for topic, missing in opened.state.recover(offsets, starts).items():
                if missing:
                    todo[topic][partition] = missing
        failpoint("rebalance.recovered")
        self._catch_up(todo, abort)
        if not abort.is_set():
            for partition, joined in self._joins.items():
                joined.settle(self._decided.get(partition, 0))

    def _catch_up(self, todo: Mapping[str, Mapping[int, range]], abort: threading.Event) -> None:
        records = sum(len(missing) for of_topic in todo.values() for missing in of_topic.values())
        if not records:
            return
        log.info("reading %s records into the state, which was behind", f"{records:,}")
        starts = {topic: {p: m.start for p, m in of.items()} for topic, of in todo.items() if of}
        ends = {topic: {p: m.stop for p, m in of.items()} for topic, of in todo.items() if of}
        done = 0
        with self._watched() as tell:
            for chunk in chunks_to_end(self._kafka, starts, ends, abort.is_set):
                for (topic, partition), of_partition in by_partition(chunk).items():
                    self._joins[partition].catch_up(topic, of_partition)
                failpoint("rebalance.caught_up")
                done += len(chunk)
                tell(f"{records:,} records into the state", done / records)
        give_back()

    def revoked(self) -> None:
        """Closes the states; what was not committed is forgotten, and will be read again."""
        joins, self._joins = self._joins, {}
        self._captured.clear()
        self._idle = {}
        for opened in joins.values():
            opened.state.close()

    def starts(self, committed: Mapping[TP, int]) -> dict[TP, int]:
        """What the states stand for, where that is past what is committed."""
        return {
            tp: place
            for tp, offset in committed.items()
            if tp.partition in self._joins
            and (place := self._joins[tp.partition].state.places[tp.topic].offset) > offset
        }

    # Records and time

    def handle(self, batch: Batch) -> None:
        """Joins a batch of one of the two topics."""
        joined = self._joins[batch.tp.partition]
        try:
            if batch.tp.topic == self._predictions:
                joined.predictions(batch.records)
                self._counts["predictions"] += len(batch.records)
            else:
                joined.feedback(batch.records)
                self._counts["feedback"] += len(batch.records)
        finally:  # the state knows of what was emitted, whatever comes after
            self._outputs.send_all(self._made)
        self._outputs.poll()

    def tick(self) -> float:
        """Decides what only time decides."""
        behind = False
        try:
            for partition, joined in self._joins.items():
                joined.advance(
                    predictions=self._read_to(joined, self._predictions, partition),
                    feedback=self._read_to(joined, self._feedback, partition),
                )
                behind |= joined.behind
        finally:
            self._outputs.send_all(self._made)
        if not behind and self._looked + LOOK_EVERY_S < monotonic():
            found = [joined.oldest_waiting() for joined in self._joins.values()]
            self._oldest = [at for at in found if at is not None]
            self._looked = monotonic()
        return 0.01 if behind else 0.5

    def _read_to(self, joined: PartitionJoin, topic: str, partition: int) -> int:
        end, time_ms = self._idle.get(TP(topic, partition), (0, 0))
        return time_ms - SKEW_MS if joined.state.places[topic].offset >= end else 0

    def beat(self, state: str, progress: Mapping[TP, Progress]) -> None:
        """Tells positions and counts; asks the broker for its time, and then where the partitions end."""
        oldest = {"oldest_waiting_at": min(self._oldest)} if self._oldest else {}
        joins = list(self._joins.values())
        numbers = {
            **self._counts,
            **oldest,
            **(self._standby.numbers() if self._standby is not None else {}),
            "dead_letters": self._guard.count,
            "pending": sum(joined.state.pending for joined in joins),
            "pending_reviews": sum(joined.state.pending_reviews for joined in joins),
        }
        self._heart.beat(state, progress, numbers=numbers)
        try:
            now = self._heart.broker_time(ASK_S)
            self._idle = {
                tp: (watermarks(self._reader, tp.topic, tp.partition, ASK_S)[1], now)
                for tp in progress
            }
        except Unavailable:
            self._idle = {}

    # The commit protocol

    def capture(self, processed: dict[TP, int]) -> dict[TP, int]:
        """Sets the changes of all partitions aside, with the positions that they stand for."""
        for tp, end in processed.items():
            places = self._joins[tp.partition].state.places
            if end > places[tp.topic].offset:  # marks of transactions follow
                places[tp.topic] = places[tp.topic]._replace(offset=end)
        self._captured = {p: joined.state.capture() for p, joined in self._joins.items()}
        return {
            TP(topic, partition): place.offset
            for partition, captured in self._captured.items()
            for topic, place in captured.places.items()
            if place.offset
        }

    def notes(self) -> Mapping[TP, str]:
        """Up to which time everything was decided that only time decides."""
        return {
            TP(topic, partition): str(captured.decided)
            for partition, captured in self._captured.items()
            for topic in captured.places
        }

    def prepare(self) -> None:
        """Delivers the outputs, then writes what was set aside: see ``engine/state`` for why in this order."""
        self._outputs.flush()
        failpoint("commit.flushed")
        if not self._prepares:
            return
        for partition, captured in self._captured.items():
            self._joins[partition].state.prepare(captured)
            failpoint("commit.half_prepared")

    def committed(self, offsets: dict[TP, int]) -> None:
        """Makes what was set aside the state."""
        for partition, captured in self._captured.items():
            self._joins[partition].state.apply(captured)
            failpoint("commit.half_applied")

    # Outputs

    def _emit(self, output: Output) -> None:
        self._senders[type(output)](output)

    def _send_example(self, example: Example) -> None:
        self._counts["examples"] += 1
        value = self._encode_example(example)
        self._made.append((self._examples, value, example.model_key.encode(), NO_HEADERS))

    def _send_outcome(self, outcome: Outcome) -> None:
        self._counts[outcome.status] += 1
        value = self._encode_outcome(outcome)
        self._made.append((self._outcomes, value, outcome.event_id.encode(), NO_HEADERS))

    def _send_review(self, review: Review) -> None:
        self._counts["reviews"] += 1
        value = self._encode_review(review)
        self._made.append((self._reviews, value, review.event_id.encode(), NO_HEADERS))

    def _bury(self, buried: Buried) -> None:
        self._guard.bury(buried.record, buried.stage, buried.error)

    def _forward(self, misrouted: Misrouted) -> None:
        """Sends a feedback where its event's predictions are; its id is kept, so it is known if it comes twice."""
        self._counts["forwarded"] += 1
        record, key = misrouted.record, misrouted.feedback.event_id.encode()
        partition = partition_of(key, self._partitions)
        headers = list(record.headers)
        self._outputs.send(self._feedback, record.value, key, headers, partition)

    def close(self, progress: Mapping[TP, Progress]) -> None:
        """Closes the states, and says goodbye."""
        self.revoked()
        if self._standby is not None:
            self._standby.close()
        self._heart.stop(progress)
        self._reader.close()
