"""The learner: folds the log, tells each verdict's author that it was learned, and publishes snapshots.

Two learners at once compute the same thing.  What is acknowledged lies below everything that is not yet in a durable
snapshot, so a learner that starts anew needs the newest snapshots and the log after the committed offset, no more.

With transactions it acknowledges what it has told of: outcomes and offsets become true together.  A learner that starts
anew folds silently from its snapshots to there.
"""

from __future__ import annotations

import logging
import threading
from bisect import insort
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic, time
from typing import ClassVar
from uuid import uuid4

from faust.types import TP

from streams.core import exclusions
from streams.core.errors import BadRecord, Conflict, Unavailable
from streams.core.events import EXCLUDE, Example, Exclusion, Outcome, Score, Snapshot
from streams.core.fold import DUPLICATE, Applied, Fold, learned, refusals
from streams.core.lineage import Start
from streams.engine.codec import Codec
from streams.engine.guard import Guard, Raw
from streams.engine.log import CONTROLS, KIND, Log, Sealed, control_kind
from streams.engine.producer import NO_HEADERS, Made, Outputs
from streams.engine.rebuild import Rebuilder, Target
from streams.engine.rebuilding import Rebuilding
from streams.engine.snapshots import newest_stored
from streams.engine.status import Heart, Progress
from streams.engine.told import Told
from streams.engine.transport import Batch
from streams.engine.worker import Role
from streams.failpoints import failpoint

log = logging.getLogger("counterpoint.learner")

OWED_S = 2.0
"""What later verdicts correct or take back is gathered for so long, and then goes on one record."""
ASKED_S = 10.0
"""A record that was written and has not come by for so long is written again; twice is harmless."""
MOST_PARKED = 100_000
"""Records that may wait for a model that is being rebuilt; with more, the learner reads no further."""
REBUILT_AT_ONCE = 2
"""Models that are made again at a time: each reads the log by itself."""
AT_ONCE = 1_000
"""Records that are taken at a time after it: about 50 ms of work."""
CORRECTIONS = "corrections"
"""The rule on the records that a learner writes."""


class Learner(Role):
    """See the module.

    **A model that changes its past.**  A control record that takes out what a model has seen (or puts it back) makes a
    ``Rebuilding`` of it.  Its later records wait; those of other keys do not.  No snapshot is made of the old model any
    more, so that the group's offset stays at or below the control record: a learner that dies meanwhile, or loses the
    partition, leaves the next one to meet it again.

    Args:
        log: Opens the loop's log, and stores its snapshots.
        snapshot_interval_s: A changed model is stored within about this time.
        tells_once: Whether what is acknowledged was told of, and is not to be told again.
    """

    name: ClassVar[str] = "learner"
    finds_its_place: ClassVar[bool] = True
    rest_s: ClassVar[float] = 0.005
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
        self._told, self._notes = Told(keeps=tells_once), dict[int, str]()
        self._starts: dict[TP, int] = {}
        self._unsaved: dict[
            str, tuple[int, float]
        ] = {}  # key: first offset not in a snapshot, due time
        self._unscored: set[str] = set()
        self._captured: list[Sealed] = []
        self._lineages: dict[int, Start] = {}
        self._stored: dict[str, Snapshot] = {}
        self._refused: list[str] = []
        self._learned = self._rebuilt = 0
        self._made: list[Made] = []
        self._rebuildings: dict[str, Rebuilding] = {}
        self._owing: dict[str, float] = {}  # key: when what it owes is to be written
        self._encode_exclusion = codec.encoder(Exclusion, log.examples)
        self.wake: Callable[[], None] = lambda: None

    def assigned(self, committed: Mapping[TP, int | None], abort: threading.Event) -> None:
        """Loads the newest snapshots of the keys in these partitions."""
        opening = self._log.open(
            scores=True, partitions={tp.partition for tp in committed}, stop=abort.is_set
        )
        self._lineages = opening.lineage
        self._folds, self._partition = opening.folds, opening.partition_of
        self._starts = {tp: opening.starts[tp.partition] for tp in committed}
        self._told.start(
            {tp.partition: offset or 0 for tp, offset in committed.items()}, self._notes
        )
        self._unsaved.clear()
        for key in self._folds:
            self._note_owed(key)
        self._stored = dict(opening.snapshots.manifests)
        self._refused = opening.snapshots.notes()
        self._log.sweep(opening, self._outputs)

    def noted(self, notes: Mapping[TP, str]) -> None:
        """Which keys had records that waited."""
        self._notes = {tp.partition: note for tp, note in notes.items()}

    def notes(self) -> Mapping[TP, str]:
        """Which keys have records that wait."""
        return {tp: self._told.note(tp.partition) for tp in self._starts}

    def starts(self, committed: Mapping[TP, int]) -> dict[TP, int]:
        """Where the snapshots say that the fold starts."""
        return {tp: self._starts[tp] for tp in committed if tp in self._starts}

    def revoked(self) -> None:
        """Forgets the models: the next owner loads them."""
        for rebuilding in self._rebuildings.values():
            rebuilding.stop()
        self._rebuildings.clear()
        self._owing.clear()
        self._told.forget()
        self._folds, self._partition, self._starts = {}, {}, {}
        self._unsaved.clear()
        self._unscored.clear()
        self._captured.clear()

    def handle(self, batch: Batch) -> None:
        """Folds a batch of the log."""
        partition = batch.tp.partition
        for key, rebuilding in self._rebuildings.items():
            if len(rebuilding.parked) > MOST_PARKED and self._partition[key] == partition:
                message = f"{len(rebuilding.parked)} records wait for model {key!r}, which is being rebuilt"
                raise Unavailable(message)
        try:
            for record in batch.records:
                if self._rebuildings and (key := _key(record)) in self._rebuildings:
                    self._rebuildings[key].park(record)
                    self._told.waits(partition, key, record.offset)
                    self._take_parked(key, 2)
                else:
                    self._take(record, partition)
                    if self._tells_once:
                        self._told.passed(partition, _key(record), record.offset)
        finally:  # the models hold what was folded, whatever comes after
            self._outputs.send_all(self._made)
        self._outputs.poll()

    def _take(self, record: Raw, partition: int) -> None:
        if record.headers and (kind := control_kind(record.headers)) is not None:
            if kind in CONTROLS:
                self._exclude(record, partition)
            else:
                self._control(record, kind, partition)
            return
        try:
            example = self._decode(record.value or b"")
            if type(example) is not Example:
                raise BadRecord(f"a {type(example).__name__} is no example")
        except BadRecord as error:
            if not self._is_told(record):
                self._guard.bury(record, "decode", error)
        else:
            self._learn(record, example, partition)

    def _is_told(self, record: Raw) -> bool:
        return self._tells_once and self._told.has(record.partition, _key(record), record.offset)

    def _learn(self, record: Raw, example: Example, partition: int) -> None:
        key, offset = example.model_key, record.offset
        fold = self._folds.get(key) or self._fold(key, partition)
        if offset < fold.version:
            return
        if offset < self._lineages[partition].learn_from:
            fold.mark(offset + 1, example)  # of a lineage that was left for a fresh start
            applied = DUPLICATE
        else:
            applied = fold.apply(offset + 1, example)
        self._changed(key, offset)
        if fold.owed:
            self._note_owed(key)
        self._tell(record, example, applied)

    def _fold(self, key: str, partition: int) -> Fold:
        fold = self._folds.get(key)
        if fold is None:
            fold = self._folds[key] = self._log.new_fold(scores=True)
            self._partition[key] = partition
        return fold

    def _changed(self, key: str, offset: int) -> None:
        if key not in self._unsaved:
            self._unsaved[key] = (offset, monotonic() + self._interval_s)
        self._unscored.add(key)

    def _tell(self, record: Raw, example: Example, applied: Applied) -> None:
        if not applied.fresh or (self._tells_once and self._is_told(record)):
            return
        if applied.error is not None:
            for refused in refusals(example, applied):
                self._guard.bury(record, "learn", refused)
            return
        self._learned += example.label is not None
        event_key, encode = example.event_id.encode(), self._encode_outcome
        for outcome in learned(example, applied.fresh, record.offset + 1):
            self._made.append((self._outcomes, encode(outcome), event_key, NO_HEADERS))

    # Exclusions

    def _exclude(self, record: Raw, partition: int) -> None:
        key, version = _key(record), record.offset + 1
        fold = self._fold(key, partition)
        if version <= fold.version:
            return
        try:
            exclusion = self._log.decode_as(Exclusion, record.value)
            is_in_force = fold.exclude(version, exclusion)
            target = Target(version, fold.target(exclusion))
        except BadRecord as error:
            if not self._is_told(record):
                self._guard.bury(record, "decode", error)
            return
        self._owing.pop(key, None)
        self._changed(key, record.offset)
        if is_in_force:
            self._note_owed(key)
        else:
            told = exclusion.rule, exclusion.who
            log.info("model %r is rebuilt for version %d (%s, by %s)", key, version, *told)
            begun = self._lineage(partition)
            maker = partial(Rebuilder, self._log, key, partition, begun)
            self._rebuildings[key] = Rebuilding(maker, target, fold, record.offset, self.wake)
            self._start_rebuildings()

    def _start_rebuildings(self) -> None:
        rebuildings = list(self._rebuildings.values())
        free = REBUILT_AT_ONCE - sum(each.is_running for each in rebuildings)
        for rebuilding in [each for each in rebuildings if each.is_waiting][: max(free, 0)]:
            rebuilding.start()

    def _take_parked(self, key: str, at_most: int) -> bool:
        """Takes what waited for a model that is there; whether there is more."""
        rebuilding, partition = self._rebuildings[key], self._partition[key]
        if rebuilding.failure is not None:
            raise rebuilding.failure
        if rebuilding.done is None:
            return False
        fold, parked = rebuilding.done.fold, rebuilding.parked
        if self._folds[key] is rebuilding.before:
            self._folds[key] = fold
            self._rebuilt += 1
            log.info("model %r is rebuilt, as version %d", key, fold.version)
        for _ in range(min(at_most, len(parked))):
            record = parked[0]
            if record.offset < fold.version and rebuilding.told <= record.offset:
                self._tell_only(record, rebuilding)
            else:
                self._take(record, partition)
            parked.popleft()
            rebuilding.told = record.offset + 1
            self._told.passed(partition, key, record.offset)
            again = self._rebuildings[key]
            if again is not rebuilding:  # a control record was among them
                again.parked.extend(parked)
                return False
        if parked or rebuilding.told < rebuilding.done.version:
            return bool(parked)
        del self._rebuildings[key]
        self._unsaved[key] = (self._unsaved[key][0], monotonic())
        self._changed(key, rebuilding.first)
        self._note_owed(key)
        return False

    def _tell_only(self, record: Raw, rebuilding: Rebuilding) -> None:
        """Tells what became of a lesson that the rebuilt model has taken already."""
        if rebuilding.done is None or control_kind(record.headers) is not None:
            return
        try:
            example = self._log.decode_as(Example, record.value)
        except BadRecord as error:
            if not self._is_told(record):
                self._guard.bury(record, "decode", error)
            return
        version = record.offset + 1
        fresh = rebuilding.before.mark(version, example)
        if record.offset >= self._lineage(record.partition).learn_from:
            self._tell(record, example, Applied(fresh, rebuilding.done.refused.get(version)))

    def _note_owed(self, key: str) -> None:
        if self._folds[key].owed:
            self._owing.setdefault(key, monotonic() + OWED_S)
        else:
            self._owing.pop(key, None)

    def _write_owed(self) -> None:
        """Writes one control record for all that the lessons since the last one correct or take back."""
        now = monotonic()
        due = [key for key, at in self._owing.items() if at <= now and key not in self._rebuildings]
        for key in due:
            self._owing[key] = now + ASKED_S
            exclusion = Exclusion(
                exclusion_id=uuid4().hex,
                kind=EXCLUDE,
                model_key=key,
                sources=exclusions.written(self._folds[key].owed),
                rule=CORRECTIONS,
                who=self.name,
                why="later verdicts correct them, or take them back",
                asked_at=int(time() * 1000),
            )
            value, headers = self._encode_exclusion(exclusion), [(KIND, EXCLUDE.encode())]
            partition = self._partition[key]
            self._outputs.send(
                self._log.examples, value, key.encode(), headers, partition=partition
            )

    def _control(self, record: Raw, kind: str, partition: int) -> None:
        refusal = self._log.refusal(record.value, kind, record.offset, self._lineage(partition))
        if refusal is not None:
            raise Conflict(refusal)

    def tick(self) -> float:
        """Takes rebuilt models in use, writes what is owed, publishes the scores of the models that changed."""
        more = False
        try:
            for key in list(self._rebuildings):
                more |= self._take_parked(key, AT_ONCE)
        finally:
            self._outputs.send_all(self._made)
        self._start_rebuildings()
        self._write_owed()
        for key in self._unscored:
            self._score(self._folds[key], key)
        self._unscored.clear()
        pause = self._heart.served({key: fold.version for key, fold in self._folds.items()})
        return 0.001 if more else pause

    def _score(self, fold: Fold, key: str) -> None:
        if fold.scores is None:
            return
        score = Score(
            model_key=key,
            model_version=fold.version,
            learned=fold.learned,
            metrics=fold.scores.values(),
            scored_at=int(time() * 1000),
            drifts=fold.experience.drifts,
        )
        self._outputs.send(self._scores, self._encode_score(score), key.encode())

    def capture(self, processed: dict[TP, int]) -> dict[TP, int]:
        """Dumps the models that are due; acknowledges what lies below every lesson that is in no snapshot, or was told."""
        now = monotonic()
        due = [
            key
            for key, (_, at) in self._unsaved.items()
            if at <= now and key not in self._rebuildings
        ]
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
        failpoint("snapshot.published")
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
                "rebuilding": len(self._rebuildings),
                "rebuilds": self._rebuilt,
                "parked": sum(len(each.parked) for each in list(self._rebuildings.values())),
            },
            notes=self._refused,
            stored=newest_stored(list(self._stored.values()), folds),
        )

    def close(self, progress: Mapping[TP, Progress]) -> None:
        """Says goodbye."""
        running = list(self._rebuildings.values())
        for rebuilding in running:
            rebuilding.stop()
        for rebuilding in running:
            rebuilding.join()
        self._heart.stop(progress)


def _key(record: Raw) -> str:
    return (record.key or b"").decode(errors="replace")
