"""A predictor's own copy of the models: it loads the newest snapshots, then follows the log and folds it.

A thread reads; folding happens where predicting happens, between two batches, for as long as it is given.  So no
lock guards a model, and prediction waits for learning at most that long.

Snapshots do not queue behind lessons: far behind, the next one is taken at once.  One of a version that is still to be
folded is kept in mind, and compared when the fold gets there.

A control record that takes out what a model has seen cannot be folded: the model serves on, and stamps, as the version
before it, until the learner has made it again and its snapshot is there.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from time import perf_counter

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from streams.core.errors import BadRecord, Unavailable
from streams.core.events import Example, Exclusion, Snapshot
from streams.core.fold import Fold
from streams.engine.codec import Codec
from streams.engine.log import CONTROLS, Log, control_kind
from streams.engine.reader import group_less, partitions_of
from streams.failpoints import failpoint, is_armed

# A snapshot is taken when it saves more work than this: to load one holds up predicting, by 0.2 s for a forest of 10 trees.
WORTH_TAKING_S = 20.0
MOST_PENDING = 100_000
FOLLOW_AGAIN_S = 1.0
DRIFTS = (
    "its answers differed from the learner's in the last bits (another CPU or image rounds otherwise); "
    "it takes the learner's snapshots"
)
log = logging.getLogger("counterpoint.replica")


class Replica:
    """Models that serve, by key.

    Args:
        log: Opens the loop's log and snapshots.
        replays: Whether folding the log gives the learner's model; if not, its snapshots are served.
        wake: Called from the reading thread when there is something to fold.
    """

    def __init__(
        self, log: Log, codec: Codec, *, replays: bool, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._log, self._codec, self._replays, self.wake = log, codec, replays, wake
        self._folds: dict[str, Fold] = {}
        self.versions: dict[str, int] = {}
        self.notes: list[str] = []
        self._pending: deque[tuple[int, Message]] = deque()
        self._stored: deque[Message] = deque()  # of snapshots, not looked at yet
        self._awaited: dict[str, int] = {}  # key: the version whose model only the learner makes
        # By partition, the offset of the log's next record here: it moves back with a seek.
        self._position: dict[int, int] = {}
        self._ahead: dict[str, Snapshot] = {}  # of versions not folded yet, to be compared
        self._next: dict[tuple[str, int], int] = {}  # what the thread has read up to
        self._read_epochs: dict[int, int] = {}
        self._held_back = False
        self._failure: Exception | None = None
        self._epochs: dict[int, int] = {}
        self._seeks: deque[tuple[int, int, int]] = deque()
        self._stop = threading.Event()
        self._cost_s = 0.0  # of one lesson, smoothed
        self._folded = 0
        self._drifted = self._taken = self._skipped = 0
        self._halted = False

    def open(self) -> None:
        """Loads the newest snapshots, folds the log to its present end, and follows it from there.

        Raises:
            Conflict: The log's newest definition is another.
            Unavailable: The broker does not answer.
        """
        self._opening = opening = self._log.open(scores=False)
        self._folds, self._snapshots = opening.folds, opening.snapshots
        failpoint("replica.opened")
        for chunk in self._log.after(opening):
            for message in chunk:
                self._on_log(message)
                opening.starts[message.partition()] = message.offset() + 1
        self.versions.update({key: fold.version for key, fold in self._folds.items()})
        self._thread = threading.Thread(target=self._follow, name="replica", daemon=True)
        self._thread.start()

    def serving(self, key: str) -> Fold:
        """The model that serves a key: an unlearned one at version 0 before its first lesson."""
        fold = self._folds.get(key)
        if fold is None:
            fold = self._folds[key] = self._log.new_fold(scores=False)
        return fold

    def numbers(self) -> Mapping[str, float]:
        """Counts for the heartbeat."""
        return {
            "behind": len(self._pending),
            "drifts": self._drifted,
            "snapshots_taken": self._taken,
            "models": len(self._folds),
            "awaited": len(self._awaited),
        }

    def refused(self) -> list[str]:
        """What to say of snapshots that could not be used; older ones, and the log, serve in their place."""
        return self._snapshots.notes()

    def fold(self, budget_s: float) -> bool:
        """Folds what came in, for at most about ``budget_s`` seconds; true if there is more.

        Raises:
            Unavailable: A schema cannot be had now.  What could not be read is read again by the next call.
        """
        if self._failure is not None:
            raise self._failure
        pending, stored = self._pending, self._stored
        while stored:
            self._on_snapshot(stored[0])
            stored.popleft()
        if not pending:
            return False
        deadline = perf_counter() + budget_s
        while pending:
            epoch, message = pending[0]
            if self._epochs.get(message.partition(), 0) == epoch:
                self._on_log(message)
            pending.popleft()
            if perf_counter() > deadline:
                return bool(pending)
        return False

    def _on_log(self, message: Message) -> None:
        if self._halted:
            return
        self._position[message.partition()] = message.offset() + 1
        kind = control_kind(message.headers())
        if kind is None:
            self._on_example(message)
            return
        if kind in CONTROLS:
            self._on_exclusion(message)
            return
        begun = self._opening.lineage[message.partition()]
        refusal = self._log.refusal(message.value(), kind, message.offset(), begun)
        if refusal is not None:
            self._halted = True
            self.notes.append(f"serves its last version: {refusal}")

    def _on_example(self, message: Message) -> None:
        key, version = (message.key() or b"").decode(), message.offset() + 1
        fold = self.serving(key)
        if version <= fold.version or not self._replays or key in self._awaited:
            return
        start = perf_counter()
        try:
            example = self._codec.decode_as(Example, message.value() or b"")
        except BadRecord:
            self._skipped += 1  # so does every replica, and the learner buries it
            return
        if message.offset() < self._opening.lineage[message.partition()].learn_from:
            fold.mark(version, example)
        else:
            fold.apply(version, example)
        self.versions[key] = version
        self._folded += 1
        self._cost_s += (perf_counter() - start - self._cost_s) / min(self._folded, 100)
        ahead = self._ahead.get(key)
        if ahead is not None and version >= ahead.version:
            del self._ahead[key]
            self._compare(fold, ahead)

    def _on_exclusion(self, message: Message) -> None:
        key, version = (message.key() or b"").decode(), message.offset() + 1
        fold = self.serving(key)
        if version <= fold.version or not self._replays or key in self._awaited:
            return
        try:
            exclusion = self._codec.decode_as(Exclusion, message.value())
            is_in_force = fold.exclude(version, exclusion)
        except BadRecord:
            self._skipped += 1
            return
        if is_in_force:
            self.versions[key] = version
        else:
            self._awaited[key] = version
            ahead = self._ahead.pop(key, None)
            if ahead is not None and ahead.version >= version:  # the learner was faster
                self._take(ahead)

    def _on_snapshot(self, message: Message) -> None:
        snapshot = self._snapshots.add(message.key() or b"", message.value())
        if snapshot is None or self._halted:
            return
        fold = self.serving(snapshot.model_key)
        awaited = self._awaited.get(snapshot.model_key)
        if awaited is not None:
            if snapshot.version >= awaited:
                self._take(snapshot)
        elif snapshot.version <= fold.version:
            self._compare(fold, snapshot)
        elif not self._replays or len(self._pending) * self._cost_s > WORTH_TAKING_S:
            self._take(snapshot)
        else:
            self._ahead[snapshot.model_key] = snapshot

    def _compare(self, fold: Fold, snapshot: Snapshot) -> None:
        if not self._replays:
            return
        if fold.differs(snapshot.checks) or is_armed("replica.taken"):
            self._drifted += 1
            self._note(DRIFTS)
            self._take(snapshot)

    def _take(self, snapshot: Snapshot) -> None:
        key, partition = snapshot.model_key, snapshot.partition
        try:
            fold = self._log.load(self._snapshots, key, scores=False)
        except BadRecord as error:
            self._note(error.reason)
            return
        failpoint("replica.taken")
        self._ahead.pop(key, None)
        awaited = self._awaited.pop(key, None)
        position = self._position.get(partition, self._opening.starts.get(partition, 0))
        reached = position if awaited is not None else min(position, self._folds[key].version)
        self._folds[key] = fold
        self.versions[key] = fold.version
        self._taken += 1
        # What lies between was passed by, or folded into the model just dropped.  A seek for another model of the
        # partition may be under way, to further back: then it comes anyway, and a second seek would leap over it.
        if fold.version < reached:
            self._position[partition] = fold.version
            epoch = self._epochs[partition] = self._epochs.get(partition, 0) + 1
            self._seeks.append((partition, fold.version, epoch))

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _follow(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._follow_with(group_less(self._log.kafka, **{"fetch.wait.max.ms": 20}))
                except (KafkaException, Unavailable) as error:
                    log.warning("cannot follow %s: %s; trying again", self._log.examples, error)
                    self._stop.wait(FOLLOW_AGAIN_S)
        except Exception as error:  # noqa: BLE001  nobody waits for this thread: fold() raises it
            self._failure = error
            self.wake()

    def _follow_with(self, consumer: Consumer) -> None:
        examples, models = self._log.examples, self._log.models
        starts = {(models, p): end for p, end in self._opening.models_end.items()}
        self._held_back = False
        try:
            for partition in partitions_of(consumer, examples):
                starts[examples, partition] = self._opening.starts.get(partition, 0)
            starts.update(self._next)  # where an earlier consumer got to
            consumer.assign([TopicPartition(*where, offset) for where, offset in starts.items()])
            while not self._stop.is_set():
                while self._seeks:
                    partition, offset, epoch = self._seeks[0]
                    consumer.seek(TopicPartition(examples, partition, offset))
                    self._read_epochs[partition] = epoch
                    self._next[examples, partition] = offset
                    self._seeks.popleft()
                self._hold_back(consumer)
                self._take_in(consumer)
        finally:
            consumer.close()

    def _take_in(self, consumer: Consumer) -> None:
        first = consumer.poll(0.1)
        if first is None:
            return
        came = False
        for message in (first, *consumer.consume(1_000, 0)):
            if message.error() is not None:
                continue
            came = True
            topic, partition = message.topic() or "", message.partition() or 0
            if topic == self._log.examples:
                self._pending.append((self._read_epochs.get(partition, 0), message))
            else:
                self._stored.append(message)
            self._next[topic, partition] = (message.offset() or 0) + 1
        if came:
            self.wake()

    def _hold_back(self, consumer: Consumer) -> None:
        """Reads no more lessons than can be kept; snapshots, which may make them needless, are read on."""
        many = len(self._pending) > MOST_PENDING
        if many == self._held_back:
            return
        lessons = [tp for tp in consumer.assignment() if tp.topic == self._log.examples]
        (consumer.pause if many else consumer.resume)(lessons)
        self._held_back = many

    def close(self) -> None:
        """Stops the thread."""
        self._stop.set()
        thread = getattr(self, "_thread", None)
        if thread is not None:
            thread.join(2.0)
