"""The loop's log and its snapshots, as a learner or a predictor meets them: where to start, from which models, and how to store one.

What a definition in the log means is decided in ``core/lineage``; what a snapshot is made of in ``engine/snapshots``.
Where a fold starts is read off the snapshots alone: each says below which offset everything is in a snapshot
(``floor``), so neither learner nor predictor needs the offsets of a consumer group to find its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from time import time
from typing import Any, NamedTuple
from uuid import uuid4

from confluent_kafka import Message
from river.__version__ import __version__ as river_version

from streams.core import lineage
from streams.core.errors import BadRecord, ConfigError, Conflict, Mistake
from streams.core.events import (
    CONTINUE,
    FRESH,
    LEARNED,
    REFOLD,
    Check,
    Chunk,
    Define,
    Example,
    Outcome,
    Snapshot,
    Source,
)
from streams.core.fold import Fold
from streams.core.model import NOTHING, digest
from streams.core.scores import Scores
from streams.core.topics import FEEDBACK
from streams.engine import snapshots
from streams.engine.codec import Codec
from streams.engine.guard import Guard
from streams.engine.partition import Record
from streams.engine.producer import Outputs
from streams.engine.reader import chunks_to_end, group_less, partitions_of, to_end, watermarks

KIND = "kind"
DEFINE = "define"
FAR = 1 << 62
LEFT = "by the models that were left for a fresh start at offset {}"


def control_kind(headers: Iterable[tuple[str, bytes | None]] | None) -> str | None:
    """The kind of a control record, by its headers; None for an example."""
    for name, value in headers or ():
        if name == KIND:
            return (value or b"").decode(errors="replace")
    return None


def _rounding() -> str:
    """How this machine rounds: the digest of no answers at all.  In a snapshot it stands as the check of version 0."""
    return digest(lambda features: NOTHING, ())


def rounds_otherwise(snapshot: Snapshot) -> bool:
    """Whether the machine that stored a snapshot rounds otherwise than this one, so that equal models answer otherwise."""
    told = dict(snapshot.checks).get(0)
    return told is not None and told != _rounding()


class Sealed(NamedTuple):
    """A snapshot that is ready to be written."""

    manifest: Snapshot
    chunks: list[Chunk]


@dataclass(slots=True)
class Opening:
    """What a process starts with.

    Attributes:
        folds: By model key, the newest stored model.
        partition_of: By model key, its partition of the log.
        lineage: By partition, the lineage in force.
        starts: By partition, the offset to fold from; records below a fold's version do nothing to it.
        models_end: By partition, the end of ``models`` when it was read.
        base: The state that unlearned models start from, when that is not nothing.
    """

    snapshots: snapshots.SnapshotReader
    folds: dict[str, Fold] = field(default_factory=dict)
    partition_of: dict[str, int] = field(default_factory=dict)
    lineage: dict[int, lineage.Start] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    models_end: dict[int, int] = field(default_factory=dict)
    base: bytes | None = None

    def unusable(self) -> dict[str, str]:
        """By model key without a usable snapshot, why its newest one is none."""
        manifests = self.snapshots.manifests
        return {
            manifests[snapshot_id].model_key: reason
            for snapshot_id, reason in self.snapshots.refused.items()
            if snapshot_id in manifests and manifests[snapshot_id].model_key not in self.folds
        }


class Log:
    """The ``examples`` and ``models`` of a loop.

    Args:
        kafka: Connection settings, in librdkafka's names.
        topic_id: Identity of the examples topic.
        mine: The definition of this process's loop.
        new_fold: Makes an unlearned model, with scores or without.
        allowed: Globals that the loop's own model needs to be unpickled.
    """

    def __init__(
        self,
        *,
        kafka: Mapping[str, Any],
        examples: str,
        models: str,
        topic_id: str,
        mine: Define,
        new_fold: Callable[[Scores | None], Fold],
        new_scores: Callable[[], Scores],
        codec: Codec,
        secret: bytes,
        allowed: Collection[tuple[str, str]],
    ) -> None:
        self.kafka, self.examples, self.models, self.mine = kafka, examples, models, mine
        self._topic_id, self._codec, self._secret = topic_id, codec, secret
        self._make_fold, self._make_scores = new_fold, new_scores
        self._allowed, self._unpickle = allowed, snapshots.unpickler(allowed)
        self._base: bytes | None = None
        self._bases: frozenset[str] = frozenset()

    def open(
        self,
        *,
        scores: bool,
        partitions: Collection[int] | None = None,
        stop: Callable[[], bool] = lambda: False,
        until: Mapping[int, int] | None = None,
    ) -> Opening:
        """Loads the newest snapshots and finds where the fold of each partition starts.

        Args:
            scores: Whether the models keep metrics.
            partitions: Those of the log to open; all by default.
            stop: Asked now and then; true ends the reading with what was found so far.
            until: By partition, where the log is taken to end.

        Raises:
            Conflict: The log's newest definition is not that of this process.
            ConfigError: The log is not the one that the snapshots were made of.
            Unavailable: The broker does not answer.
        """
        consumer = group_less(self.kafka)
        try:
            if partitions is None:
                partitions = partitions_of(consumer, self.examples)
            bounds = {p: watermarks(consumer, self.examples, p) for p in partitions}
            models_end = {p: watermarks(consumer, self.models, p)[1] for p in partitions}
        finally:
            consumer.close()
        reader = self._read_snapshots(models_end, stop, until=until)
        opening = Opening(reader, models_end=models_end)
        for partition, (low, high) in bounds.items():
            end = min(high, (until or {}).get(partition, high))
            self._open_partition(opening, partition, low, end, stop)
        self._load_base(opening, stop)
        for partition in partitions:
            self._load_folds(opening, partition, scores)
        return opening

    def _read_snapshots(
        self,
        ends: Mapping[int, int],
        stop: Callable[[], bool] = lambda: False,
        bases: Collection[str] = (),
        until: Mapping[int, int] | None = None,
    ) -> snapshots.SnapshotReader:
        def is_wanted(manifest: Snapshot) -> bool:
            end = FAR if until is None else until.get(manifest.partition, FAR)
            return manifest.definition == self.mine.definition and manifest.version <= end

        reader = snapshots.SnapshotReader(
            self._codec.decode,
            lambda manifest, chunks: snapshots.unseal(manifest, chunks, self._secret),
            wanted=is_wanted,
            bases=bases,
        )
        for message in to_end(self.kafka, self.models, dict.fromkeys(ends, 0), ends, stop):
            reader.add(message.key() or b"", message.value())
        return reader

    def _open_partition(
        self, opening: Opening, partition: int, low: int, high: int, stop: Callable[[], bool]
    ) -> None:
        reader = opening.snapshots
        self._check_identity(reader, partition)
        stored = [
            manifest
            for key in reader.model_keys()
            if (found := reader.newest(key))
            and (manifest := found.snapshot).partition == partition
            and manifest.version > 0  # the state of a seeded model is no state of the log
        ]
        refused = [
            told
            for snapshot_id in reader.refused
            if (told := reader.manifests.get(snapshot_id)) and told.partition == partition
        ]
        newest = None if refused else max(stored, key=lambda m: m.version, default=None)
        start = self._lineage(partition, newest, low, high)
        usable = [m for m in stored if m.version >= start.snapshot_from]
        floor = max((manifest.floor for manifest in usable), default=0)
        begin = 0 if refused else floor
        if newest is not None and begin < start.defined_at:
            start = self._lineage(partition, None, low, high)
        if start.needs_snapshot and not stop():
            self._check_continued(start, usable, refused)
        opening.lineage[partition], opening.starts[partition] = start, begin
        self._check_begin(partition, begin, low)

    def _lineage(
        self, partition: int, newest: Snapshot | None, low: int, high: int
    ) -> lineage.Start:
        """The lineage in force: read off the log after the newest snapshot, or off the whole log without one.

        From where on examples are learned shows only in the whole; who begins after the definition need not know.
        """
        if newest is None:
            defined = self.definitions(partition, low, high)
        else:
            at = newest.defined_at  # the one that was in force then; -1 before the first
            defined = self.definitions(partition, at, at + 1) if at >= 0 else []
            defined += self.definitions(partition, newest.version, high)
        return lineage.start(defined, self.mine.definition, self.mine.loop)

    def _check_continued(
        self, start: lineage.Start, usable: Collection[Snapshot], refused: Collection[Snapshot]
    ) -> None:
        """Only the last of the models that are carried over says that all of them are there (see ``Adoption``)."""
        keys = {manifest.model_key for manifest in usable}
        lost = {m.model_key for m in refused if m.version >= start.snapshot_from} - keys
        if lost or all(manifest.floor < start.snapshot_from for manifest in usable):
            message = (
                f"the models of loop {self.mine.loop!r} continue from snapshots that are not there: if `counterpoint "
                f"models adopt --continue` is under way or was interrupted, see it through; if they are gone, adopt "
                f"with --refold or --fresh, or restore {self.models}"
            )
            raise Conflict(message)

    def _check_begin(self, partition: int, begin: int, low: int) -> None:
        if begin < low:
            expected = (
                f"the records from {begin} on, but it begins at {low}: restore it, or begin anew with "
                f"`counterpoint topics delete` and `create` (cleanup.policy of the log must keep everything)"
            )
            raise ConfigError([Mistake(f"{self.examples}-{partition}", low, expected)])

    def _check_identity(self, reader: snapshots.SnapshotReader, partition: int) -> None:
        for manifest in reader.manifests.values():
            if manifest.partition == partition and manifest.topic_id != self._topic_id:
                expected = (
                    f"topic {manifest.topic_id}, which snapshot {manifest.snapshot_id} was made of: the log was "
                    f"deleted and made again; restore it, or delete {self.models} too and begin anew"
                )
                raise ConfigError([Mistake(self.examples, self._topic_id, expected)])

    def definitions(
        self, partition: int, start: int = 0, end: int = FAR
    ) -> list[tuple[int, Define]]:
        """The definitions in a partition of the log, with their offsets."""
        found = []
        for message in to_end(self.kafka, self.examples, {partition: start}, {partition: end}):
            if control_kind(message.headers()) == DEFINE:
                define = self._codec.decode_as(Define, message.value() or b"")
                found.append((message.offset(), define))
        return found

    def _load_base(self, opening: Opening, stop: Callable[[], bool]) -> None:
        """Each partition has a base of its own, so that it can be opened alone; what they hold is the same."""
        self._bases = frozenset(s.base for s in opening.lineage.values() if s.base is not None)
        if not self._bases:
            return
        reader = self._read_snapshots(opening.models_end, stop, self._bases)
        found = [reader.base(base) for base in self._bases]
        stored = next((each for each in found if each is not None), None)
        if stored is None and not stop():
            message = (
                f"snapshot {' and '.join(sorted(self._bases))}, which the models of loop {self.mine.loop!r} start "
                f"from, is gone: adopt with --refold to start from the unlearned model, or restore {self.models}"
            )
            raise Conflict(message)
        self._base = opening.base = stored.state if stored is not None else None

    def _load_folds(self, opening: Opening, partition: int, scores: bool) -> None:
        reader, start = opening.snapshots, opening.lineage[partition]
        for key in reader.model_keys():
            stored = reader.newest(key)
            if stored is None or stored.snapshot.partition != partition:
                continue
            if stored.snapshot.version >= start.snapshot_from:
                opening.folds[key] = self.load(reader, key, scores=scores)
                opening.partition_of[key] = partition

    def load(self, reader: snapshots.SnapshotReader, key: str, *, scores: bool) -> Fold:
        """The model in the newest snapshot of a key.

        Raises:
            BadRecord: It cannot be read.
        """
        stored = reader.take(key)
        if stored is None:
            reason = f"the newest snapshot of model {key!r} was taken already"
            raise BadRecord(reason)
        fold = self._make_fold(self._make_scores() if scores else None)
        fold.load(stored.state, self._unpickle)
        return fold

    def new_fold(self, *, scores: bool) -> Fold:
        """A model before its first example, at version 0."""
        fold = self._make_fold(self._make_scores() if scores else None)
        if self._base is not None:
            fold.load(self._base, self._unpickle)
            fold.version = 0
        return fold

    def after(
        self, opening: Opening, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[list[Message]]:
        """The log after the snapshots, to its present end, in chunks."""
        return chunks_to_end(self.kafka, {self.examples: opening.starts}, stop=stop)

    def refusal(
        self, value: bytes | None, kind: str, offset: int, begun: lineage.Start
    ) -> str | None:
        """Why a control record ends a fold that has begun so; None if it changes nothing."""
        if kind != DEFINE:
            return (
                f"record {offset} of {self.examples} is a {kind!r}, which this release cannot fold: "
                "a newer one wrote it; upgrade this process"
            )
        try:
            define = self._codec.decode_as(Define, value or b"")
            lineage.follow(define, offset, self.mine.definition, self.mine.loop, begun=begun)
        except (BadRecord, Conflict) as error:
            return str(error)
        return None

    def seal(self, fold: Fold, key: str, partition: int, floor: int, defined_at: int) -> Sealed:
        """A snapshot of a model as it is now."""
        manifest = Snapshot(
            snapshot_id=uuid4().hex,
            loop=self.mine.loop,
            model_key=key,
            version=fold.version,
            definition=self.mine.definition,
            defined_at=defined_at,
            floor=floor,
            topic_id=self._topic_id,
            partition=partition,
            chunks=0,
            size=0,
            signature=b"",
            learned=fold.learned,
            metrics=fold.scores.values() if fold.scores is not None else {},
            checks=[Check(0, _rounding()), *fold.checks],
            parent=None,
            river=river_version,
            created_at=int(time() * 1000),
        )
        return Sealed(*snapshots.seal(fold.dump(), manifest, self._secret))

    def publish(self, sealed: Iterable[Sealed], outputs: Outputs) -> None:
        """Writes snapshots, each whole before its manifest, and waits until they are durable.

        Raises:
            Unavailable: They could not be delivered.
        """
        stored = list(sealed)
        for manifest, chunks in stored:
            for key, chunk in zip(snapshots.chunk_keys(manifest), chunks, strict=True):
                value = self._codec.encode(self.models, chunk)
                outputs.send(self.models, value, key, partition=manifest.partition)
        outputs.flush()
        for manifest, _ in stored:
            value = self._codec.encode(self.models, manifest)
            key = snapshots.manifest_key(manifest)
            outputs.send(self.models, value, key, partition=manifest.partition)
        outputs.flush()

    def forget(self, stored: dict[str, Snapshot], outputs: Outputs) -> None:
        """Deletes the snapshots that nobody needs, and drops them from ``stored`` (by id)."""
        by_partition: dict[int, list[Snapshot]] = {}
        for manifest in stored.values():
            by_partition.setdefault(manifest.partition, []).append(manifest)
        for partition, manifests in by_partition.items():
            for key in snapshots.expendable(manifests, self._bases):
                outputs.send(self.models, None, key, partition=partition)
                stored.pop(snapshots.parse_key(key).snapshot_id, None)

    def partitions(self) -> list[int]:
        """The partitions of the log."""
        consumer = group_less(self.kafka)
        try:
            return partitions_of(consumer, self.examples)
        finally:
            consumer.close()

    def define(self, partition: int, define: Define, outputs: Outputs) -> int:
        """Appends a definition to a partition of the log, and gives its offset."""
        value = self._codec.encode(self.examples, define)
        headers = [(KIND, DEFINE.encode())]
        written = outputs.deliver(self.examples, value, b"", headers, partition)
        return int(written.offset() or 0)

    def store(self, fold: Fold, partition: int, outputs: Outputs) -> str:
        """Stores a model for a lineage to start from, and gives the snapshot's id."""
        sealed = self.seal(fold, "", partition, floor=0, defined_at=-1)
        self.publish([sealed], outputs)
        return sealed.manifest.snapshot_id

    def under(self, define: Define) -> Log:
        """This log as a process with another definition meets it."""
        other = copy(self)
        other.mine, other._base, other._bases = define, None, frozenset()
        return other

    def trouble(self, partition: int) -> Conflict | BadRecord | None:
        """Why the models of the lineage in force cannot be had; None if they can."""
        try:
            self.open(scores=False, partitions=[partition])
        except (Conflict, BadRecord) as error:
            return error
        return None

    def check_whole(self, partition: int) -> None:
        """Sees that a partition can be folded from its beginning.

        Raises:
            ConfigError: It is another than the snapshots were made of, or does not begin at 0.
        """
        self._check_identity(self._read_snapshots({partition: FAR}), partition)
        consumer = group_less(self.kafka)
        try:
            low, _ = watermarks(consumer, self.examples, partition)
        finally:
            consumer.close()
        self._check_begin(partition, 0, low)

    def told_below(self, partition: int, end: int) -> int:
        """The offset below which the lineages before ``end`` told the outcomes: a learner tells them, then it stores."""
        stored = self._read_snapshots({partition: FAR}).manifests.values()
        # One that was defined there may have stored what it only passed over.
        floors = (
            manifest.floor
            for manifest in stored
            if manifest.partition == partition
            and manifest.version <= end
            and manifest.defined_at < end
        )
        return max(floors, default=0)


# Adopting ------------------------------------------------------------------------------------------------------------


class Adoption:
    """Puts the definition of a log's process in force, in every partition.

    What can be refused is refused before anything is written, and what is written can be written again: an adoption
    that was interrupted is seen through by running it again, in its own mode or in another.  After the definition comes

    * *refold*: nothing;
    * *continue*: the models of the lineage before, folded up to the definition (by this process's code, where their last
      snapshots do not reach), as this lineage's own.  All but the last say that a fold starts at 0: so the one that
      says otherwise says that all are there.  Where nothing was learned yet it becomes a refold;
    * *fresh*: what is owed (see below), and the definition again, which says that it was told.

    **What is owed.**  A version is a position in the log, so an example in front of a definition was learned by the
    models before it, whether or not a learner ever got there.  The new learner will not tell so: it starts behind the
    definition, or passes over what stands in front of it.  Therefore the adoption tells ``learned``, at the version that
    the example made; a learner of the old code that comes by tells the same, and outcomes may repeat.

    Args:
        log: Whose definition is adopted.
        outcomes: The topic of that name.
        guard: Buries what the learner would.
    """

    def __init__(
        self, log: Log, *, outcomes: str, codec: Codec, guard: Guard, outputs: Outputs
    ) -> None:
        self._log, self._outcomes, self._guard, self._outputs = log, outcomes, guard, outputs
        self._decode = codec.decode_as
        self._encode_outcome = codec.encoder(Outcome, outcomes)

    def run(self) -> None:
        """Adopts, or does what an adoption has left to do.

        Raises:
            Conflict: There is nothing to adopt, or nothing to continue.
            ConfigError: The log cannot be folded from its beginning.
            BadRecord: A model that is to be continued cannot be read.
        """
        log = self._log
        standings = {
            partition: lineage.standing(log.definitions(partition), log.mine)
            for partition in log.partitions()
        }
        troubles = {p: log.trouble(p) for p, standing in standings.items() if standing.is_mine}
        lineage.check_adoption(standings.values(), log.mine, usable=not any(troubles.values()))
        left = {
            partition: standing
            for partition, standing in standings.items()
            if not (standing.is_begun and standing.is_told and troubles[partition] is None)
        }
        # All of it before anything is written.
        continued = {p: self._check(p, standing, troubles.get(p)) for p, standing in left.items()}
        for partition, standing in left.items():
            self._adopt(partition, standing, continued[partition])

    def _check(
        self, partition: int, standing: lineage.Standing, trouble: Exception | None
    ) -> _Theirs | None:
        """Refuses what cannot be adopted; gives what is continued."""
        if self._log.mine.mode != CONTINUE:
            if standing.is_begun and trouble is not None:  # the same once more would not help
                raise trouble
            self._log.check_whole(partition)
            return None
        before, end = standing.in_force, FAR
        if standing.is_begun:
            before, end = standing.before, standing.at
        if before is None:
            return None
        theirs = self._log.under(before[1])
        until = {partition: end}
        return _Theirs(theirs, theirs.open(scores=True, partitions=[partition], until=until))

    def _adopt(self, partition: int, standing: lineage.Standing, theirs: _Theirs | None) -> None:
        log, at = self._log, standing.at
        if not standing.is_begun:
            if not standing.is_told:
                self._tell_owed(partition, at)
            at = log.define(partition, self._definition(theirs), self._outputs)
        if theirs is not None:
            self._carry_over(partition, at, theirs)
        elif log.mine.mode == FRESH and standing.in_force is not None:
            self._settle(partition, at, log.mine)

    def _definition(self, theirs: _Theirs | None) -> Define:
        mine = self._log.mine
        if mine.mode != CONTINUE:
            return mine
        if theirs is None:  # a partition without a definition: nothing is there to continue
            return mine._replace(mode=REFOLD)
        return mine._replace(base=theirs.log.mine.base)  # for model keys that are still to come

    def begin_afresh(self, partition: int, define: Define) -> None:
        """Starts a lineage that knows nothing of what was learned before it."""
        at = self._log.define(partition, define, self._outputs)
        self._settle(partition, at, define)

    def _settle(self, partition: int, at: int, define: Define) -> None:
        self._tell_owed(partition, at)
        self._log.define(partition, define, self._outputs)

    def _tell_owed(self, partition: int, at: int) -> None:
        """Tells of the examples in front of a fresh start that no learner is known to have told of."""
        told = self._log.told_below(partition, at)
        folds: dict[str, Fold] = {}  # they learn nothing, and know which sources are new
        for message in self._examples(partition, 0, at):
            try:
                example = self._decode(Example, message.value() or b"")
            except BadRecord:  # the new learner passes by here, and buries it
                continue
            fold = folds.get(example.model_key)
            if fold is None:
                fold = folds[example.model_key] = self._log.new_fold(scores=False)
            version = (message.offset() or 0) + 1
            fresh = fold.mark(version, example)
            if version > told:
                self._tell(example, fresh, version, LEFT.format(at))
        self._outputs.flush()

    def _carry_over(self, partition: int, at: int, theirs: _Theirs) -> None:
        log, folds = self._log, theirs.opening.folds
        for message in self._examples(partition, theirs.opening.starts[partition], at):
            self._fold(message, theirs)
        if not folds:
            define = log.mine._replace(mode=REFOLD, base=theirs.log.mine.base)
            log.define(partition, define, self._outputs)
            return
        version = at + 1
        for fold in folds.values():
            fold.advance(version)
        *others, last = folds
        sealed = [log.seal(folds[key], key, partition, 0, at) for key in others]
        log.publish(sealed, self._outputs)
        log.publish([log.seal(folds[last], last, partition, version, at)], self._outputs)

    def _examples(self, partition: int, start: int, end: int) -> Iterator[Message]:
        log = self._log
        for message in to_end(log.kafka, log.examples, {partition: start}, {partition: end}):
            if control_kind(message.headers()) is None:
                yield message

    def _fold(self, message: Message, theirs: _Theirs) -> None:
        """What the learner does with an example."""
        try:
            example = self._decode(Example, message.value() or b"")
        except BadRecord as error:
            self._guard.bury(_raw(message), "decode", error)
            return
        folds = theirs.opening.folds
        fold = folds.get(example.model_key)
        if fold is None:
            fold = folds[example.model_key] = theirs.log.new_fold(scores=True)
        version = (message.offset() or 0) + 1
        if version <= theirs.opening.lineage[message.partition() or 0].learn_from:
            fold.mark(version, example)  # of a lineage that was left for a fresh start
            return
        applied = fold.apply(version, example)
        if applied.error is None:
            self._tell(example, applied.fresh, version, None)
            return
        for source in applied.fresh:
            reason = f"the model raised {applied.error}"
            ids = {"event_id": example.event_id, "feedback_id": source.feedback_id}
            self._guard.bury(_raw(message), "learn", BadRecord(reason, **ids))

    def _tell(
        self, example: Example, fresh: Iterable[Source], version: int, detail: str | None
    ) -> None:
        for source in fresh:
            if source.topic == FEEDBACK:
                outcome = Outcome(
                    event_id=example.event_id,
                    feedback_id=source.feedback_id,
                    status=LEARNED,
                    detail=detail,
                    partition=source.partition,
                    offset=source.offset,
                    model_key=example.model_key,
                    model_version=version,
                )
                value = self._encode_outcome(outcome)
                self._outputs.send(self._outcomes, value, example.event_id.encode())


class _Theirs(NamedTuple):
    """The lineage that is continued: its log, and the models that its last snapshots hold."""

    log: Log
    opening: Opening


def _raw(message: Message) -> Record:
    where = message.topic() or "", message.partition() or 0, message.offset() or 0
    headers = message.headers() or ()
    return Record(*where, message.timestamp()[1], message.key(), message.value(), headers)
