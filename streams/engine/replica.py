"""A predictor's own copy of the models: it loads the newest snapshots, then follows the log and folds it.

A thread reads; folding happens where predicting happens, between two batches, for as long as it is given.  So no
lock guards a model, and prediction waits for learning at most that long.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from confluent_kafka import Message, TopicPartition

from streams.core.errors import BadRecord
from streams.core.events import Example, Snapshot
from streams.core.fold import Fold
from streams.engine.codec import Codec
from streams.engine.log import Log, control_kind
from streams.engine.reader import group_less, partitions_of

# A snapshot is taken when it saves more work than this; otherwise folding on is as good, and newer.
WORTH_TAKING_S = 2.0
MOST_PENDING = 100_000
DRIFTS = (
    "its answers differed from the learner's in the last bits (another CPU or image rounds otherwise); "
    "it takes the learner's snapshots"
)


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
        self._epochs: dict[int, int] = {}
        self._seeks: deque[tuple[int, int, int]] = deque()
        self._stop = threading.Event()
        self._cost_s = 1e-5  # of one lesson, smoothed
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
        }

    def fold(self, budget_s: float) -> bool:
        """Folds what came in, for at most about ``budget_s`` seconds; true if there is more."""
        pending = self._pending
        if not pending:
            return False
        deadline = perf_counter() + budget_s
        while pending:
            epoch, message = pending.popleft()
            if message.topic() == self._log.models:
                self._on_snapshot(message)
            elif self._epochs.get(message.partition(), 0) == epoch:
                self._on_log(message)
            if perf_counter() > deadline:
                return bool(pending)
        return False

    def _on_log(self, message: Message) -> None:
        if self._halted:
            return
        kind = control_kind(message.headers())
        if kind is None:
            self._on_example(message)
            return
        begun = self._opening.lineage[message.partition()]
        refusal = self._log.refusal(message.value(), kind, message.offset(), begun)
        if refusal is not None:
            self._halted = True
            self.notes.append(f"serves its last version: {refusal}")

    def _on_example(self, message: Message) -> None:
        key, version = (message.key() or b"").decode(), message.offset() + 1
        fold = self.serving(key)
        if version <= fold.version or not self._replays:
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
        self._cost_s += 0.01 * (perf_counter() - start - self._cost_s)

    def _on_snapshot(self, message: Message) -> None:
        snapshot = self._snapshots.add(message.key() or b"", message.value())
        if snapshot is None or self._halted:
            return
        fold = self.serving(snapshot.model_key)
        ahead = snapshot.version - fold.version
        drifted = self._replays and bool(fold.differs(snapshot.checks))
        if drifted:
            self._drifted += 1
            self._note(DRIFTS)
        worth = ahead > 0 and len(self._pending) * self._cost_s > WORTH_TAKING_S
        if drifted or worth or (ahead > 0 and not self._replays):
            self._take(snapshot)

    def _take(self, snapshot: Snapshot) -> None:
        key, partition = snapshot.model_key, snapshot.partition
        try:
            fold = self._log.load(self._snapshots, key, scores=False)
        except BadRecord as error:
            self._note(error.reason)
            return
        behind = fold.version < self._folds[key].version
        self._folds[key] = fold
        self.versions[key] = fold.version
        self._taken += 1
        if behind:  # what lies between was folded into the model just dropped
            epoch = self._epochs[partition] = self._epochs.get(partition, 0) + 1
            self._seeks.append((partition, fold.version, epoch))

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _follow(self) -> None:
        examples, models = self._log.examples, self._log.models
        consumer = group_less(self._log.kafka, **{"fetch.wait.max.ms": 20})
        starts = [
            TopicPartition(examples, partition, self._opening.starts.get(partition, 0))
            for partition in partitions_of(consumer, examples)
        ]
        starts += [TopicPartition(models, p, end) for p, end in self._opening.models_end.items()]
        consumer.assign(starts)
        epochs: dict[int, int] = {}
        try:
            while not self._stop.is_set():
                while self._seeks:
                    partition, offset, epoch = self._seeks.popleft()
                    consumer.seek(TopicPartition(examples, partition, offset))
                    epochs[partition] = epoch
                self._take_in(consumer, examples, epochs)
        finally:
            consumer.close()

    def _take_in(self, consumer: Any, examples: str, epochs: Mapping[int, int]) -> None:
        first = consumer.poll(0.1)
        if first is None:
            return
        messages = [first, *consumer.consume(1_000, 0)]
        came = False
        for message in messages:
            if message.error() is None:
                came = True
                epoch = epochs.get(message.partition(), 0) if message.topic() == examples else 0
                self._pending.append((epoch, message))
        if came:
            self.wake()
        while len(self._pending) > MOST_PENDING and not self._stop.wait(0.01):
            continue

    def close(self) -> None:
        """Stops the thread."""
        self._stop.set()
        thread = getattr(self, "_thread", None)
        if thread is not None:
            thread.join(2.0)
