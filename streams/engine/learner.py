"""The learner: folds the log, tells each verdict's author that it was learned, and publishes snapshots.

Two learners at once compute the same thing.  What is acknowledged lies below everything that is not yet in a durable
snapshot, so a learner that starts anew needs the newest snapshots and the log after the committed offset, no more.

With transactions it acknowledges what it has told of: outcomes and offsets become true together.  A learner that starts
anew folds silently from its snapshots to there.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections.abc import Mapping
from time import monotonic, time
from typing import ClassVar

from faust.types import TP

from streams.core.errors import BadRecord, Conflict
from streams.core.events import Example, Outcome, Score, Snapshot
from streams.core.fold import DUPLICATE, Fold, learned, refusals
from streams.core.lineage import Start
from streams.engine.codec import Codec
from streams.engine.guard import Guard, Raw
from streams.engine.log import Log, Sealed, control_kind
from streams.engine.producer import NO_HEADERS, Made, Outputs
from streams.engine.status import Heart, Progress
from streams.engine.transport import Batch
from streams.engine.worker import Role


class Learner(Role):
    """See the module.

    Args:
        log: Opens the loop's log, and stores its snapshots.
        snapshot_interval_s: A changed model is stored within about this time.
        tells_once: Whether what is acknowledged was told of, and is not to be told again.
    """

    name: ClassVar[str] = "learner"
    finds_its_place: ClassVar[bool] = True
    niceness: ClassVar[int] = 10

    def __init__(
        self,
        *,
        log: Log,
        outcomes: str,
        scores: str,
        snapshot_interval_s: float,
        codec: Codec,
        outputs: Outputs,
        guard: Guard,
        heart: Heart,
        tells_once: bool = False,
    ) -> None:
        self.topics = (log.examples,)
        self._log, self._outcomes, self._scores = log, outcomes, scores
        self._interval_s, self._tells_once = snapshot_interval_s, tells_once
        self._outputs, self._guard, self._heart = outputs, guard, heart
        self._decode = codec.decode
        self._encode_outcome = codec.encoder(Outcome, outcomes)
        self._encode_score = codec.encoder(Score, scores)
        self._folds: dict[str, Fold] = {}
        self._partition: dict[str, int] = {}
        self._told: dict[int, int] = {}  # by partition, the offset below which all was told
        self._starts: dict[TP, int] = {}
        self._unsaved: dict[
            str, tuple[int, float]
        ] = {}  # key: first offset not in a snapshot, due time
        self._unscored: set[str] = set()
        self._captured: list[Sealed] = []
        self._lineages: dict[int, Start] = {}
        self._stored: dict[str, Snapshot] = {}
        self._learned = 0
        self._made: list[Made] = []

    def assigned(self, committed: Mapping[TP, int | None], abort: threading.Event) -> None:
        """Loads the newest snapshots of the keys in these partitions."""
        opening = self._log.open(
            scores=True, partitions={tp.partition for tp in committed}, stop=abort.is_set
        )
        self._lineages = opening.lineage
        self._folds, self._partition = opening.folds, opening.partition_of
        self._starts = {tp: opening.starts[tp.partition] for tp in committed}
        if self._tells_once:
            self._told = {tp.partition: offset or 0 for tp, offset in committed.items()}
        self._unsaved.clear()
        self._stored = dict(opening.snapshots.manifests)
        self._log.sweep(opening, self._outputs)

    def starts(self, committed: Mapping[TP, int]) -> dict[TP, int]:
        """Where the snapshots say that the fold starts."""
        return {tp: self._starts[tp] for tp in committed if tp in self._starts}

    def revoked(self) -> None:
        """Forgets the models: the next owner loads them."""
        self._folds, self._partition, self._starts, self._told = {}, {}, {}, {}
        self._unsaved.clear()
        self._unscored.clear()
        self._captured.clear()

    def handle(self, batch: Batch) -> None:
        """Folds a batch of the log."""
        try:
            for record in batch.records:
                self._take(record, batch.tp.partition)
                told = self._told.get(batch.tp.partition, 0)
                self._told[batch.tp.partition] = max(told, record.offset + 1)
        finally:  # the models hold what was folded, whatever comes after
            self._outputs.send_all(self._made)
        self._outputs.poll()

    def _take(self, record: Raw, partition: int) -> None:
        kind = control_kind(record.headers)
        if kind is not None:
            self._control(record, kind, partition)
            return
        try:
            example = self._decode(record.value or b"")
            if type(example) is not Example:
                raise BadRecord(f"a {type(example).__name__} is no example")
        except BadRecord as error:
            if not self._is_told(record, partition):
                self._guard.bury(record, "decode", error)
        else:
            self._learn(record, example, partition)

    def _is_told(self, record: Raw, partition: int) -> bool:
        return record.offset < self._told.get(partition, 0)

    def _learn(self, record: Raw, example: Example, partition: int) -> None:
        key, version = example.model_key, record.offset + 1
        fold = self._folds.get(key)
        if fold is None:
            fold = self._folds[key] = self._log.new_fold(scores=True)
            self._partition[key] = partition
        if version <= fold.version:
            return
        if record.offset < self._lineage(partition).learn_from:
            fold.mark(version, example)  # of a lineage that was left for a fresh start
            applied = DUPLICATE
        else:
            applied = fold.apply(version, example)
        if key not in self._unsaved:
            self._unsaved[key] = (record.offset, monotonic() + self._interval_s)
        self._unscored.add(key)
        if self._is_told(record, partition):
            return
        for refused in refusals(example, applied):
            self._guard.bury(record, "learn", refused)
        if applied.error is None and applied.fresh:
            self._learned += 1
            event_key = example.event_id.encode()
            for outcome in learned(example, applied.fresh, version):
                value = self._encode_outcome(outcome)
                self._made.append((self._outcomes, value, event_key, NO_HEADERS))

    def _control(self, record: Raw, kind: str, partition: int) -> None:
        refusal = self._log.refusal(record.value, kind, record.offset, self._lineage(partition))
        if refusal is not None:
            raise Conflict(refusal)

    def tick(self) -> float:
        """Publishes the scores of the models that changed."""
        for key in self._unscored:
            self._score(self._folds[key], key)
        self._unscored.clear()
        return self._heart.served({key: fold.version for key, fold in self._folds.items()})

    def _score(self, fold: Fold, key: str) -> None:
        if fold.scores is None:
            return
        score = Score(
            model_key=key,
            model_version=fold.version,
            learned=fold.learned,
            metrics=fold.scores.values(),
            scored_at=int(time() * 1000),
        )
        self._outputs.send(self._scores, self._encode_score(score), key.encode())

    def capture(self, processed: dict[TP, int]) -> dict[TP, int]:
        """Dumps the models that are due; acknowledges what lies below every lesson that is in no snapshot, or was told."""
        now = monotonic()
        due = [key for key, (_, at) in self._unsaved.items() if at <= now]
        ends = {tp.partition: end for tp, end in processed.items()}
        if due:
            firsts = self._firsts()
            self._captured += [self._seal(key, firsts, ends) for key in due]
            for key in due:
                del self._unsaved[key]
        if self._tells_once:
            return processed
        firsts = self._firsts()
        return {tp: firsts.get(tp.partition, [end])[0] for tp, end in processed.items()}

    def _firsts(self) -> dict[int, list[int]]:
        """By partition, the two lowest offsets that are in no snapshot, each of another model key."""
        firsts: dict[int, list[int]] = {}
        for key, (first, _) in self._unsaved.items():
            lowest = firsts.setdefault(self._partition[key], [])
            insort(lowest, first)
            del lowest[2:]
        return firsts

    def _seal(self, key: str, firsts: Mapping[int, list[int]], ends: Mapping[int, int]) -> Sealed:
        partition = self._partition[key]
        # The others that are sealed now are not durable before this one is: they count as unsaved.
        others = [n for n in firsts[partition] if n != self._unsaved[key][0]]
        floor = min(others, default=ends.get(partition, 0))
        defined_at = self._lineage(partition).defined_at
        return self._log.seal(self._folds[key], key, partition, floor, defined_at)

    def _lineage(self, partition: int) -> Start:
        return self._lineages[partition]

    def prepare(self) -> None:
        """Delivers the outcomes, then the snapshots that know of them."""
        self._outputs.flush()
        captured, self._captured = self._captured, []
        if not captured:
            return
        self._log.publish(captured, self._outputs)
        for sealed in captured:
            self._stored[sealed.manifest.snapshot_id] = sealed.manifest
        self._log.forget(self._stored, self._outputs)

    def beat(self, state: str, progress: Mapping[TP, Progress]) -> None:
        """Tells versions, positions and counts."""
        folds = dict(self._folds)
        self._heart.beat(
            state,
            progress,
            versions={key: fold.version for key, fold in folds.items()},
            numbers={
                "learned": self._learned,
                "dead_letters": self._guard.count,
                "models": len(folds),
                "model_bytes": sum(fold.size for fold in folds.values()),
                "unsaved": len(self._unsaved),
            },
        )

    def close(self, progress: Mapping[TP, Progress]) -> None:
        """Says goodbye."""
        self._heart.stop(progress)
