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
    EXCLUDE,
    INCLUDE,
    Check,
    Chunk,
    Define,
    Exclusion,
    Snapshot,
)
from streams.core.fold import Fold
from streams.core.model import NOTHING, digest
from streams.core.scores import Scores
from streams.core.topics import partition_of
from streams.engine import snapshots
from streams.engine.codec import Codec
from streams.engine.producer import Outputs
from streams.engine.reader import chunks_to_end, group_less, partitions_of, to_end, watermarks
from streams.failpoints import failpoint, is_armed

KIND = "kind"
DEFINE = "define"
CONTROLS = (EXCLUDE, INCLUDE)
"""Kinds of the control records that are about one model key."""
FAR = 1 << 62


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
        self.decode_as = codec.decode_as
        self._encode_chunk = codec.encoder(Chunk, models)
        self._encode_manifest = codec.encoder(Snapshot, models)
        self._make_fold, self._make_scores = new_fold, new_scores
        self._allowed, self.unpickle = allowed, snapshots.unpickler(allowed)
        self._base: bytes | None = None
        self._bases: frozenset[str] = frozenset()
        self._unloadable: dict[str, str] = {}  # whole and signed, and yet no model: by id, why

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
        while True:
            known = len(self._unloadable)
            opening = self._open(scores, partitions, stop, until)
            if len(self._unloadable) == known:
                return opening
            # What is in a state shows when it is loaded, and the states of older snapshots were let go of by then

    def _open(
        self,
        scores: bool,
        partitions: Collection[int] | None,
        stop: Callable[[], bool],
        until: Mapping[int, int] | None,
    ) -> Opening:
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
            self.unseal,
            wanted=is_wanted,
            bases=bases,
        )
        for message in to_end(self.kafka, self.models, dict.fromkeys(ends, 0), ends, stop):
            reader.add(message.key() or b"", message.value())
        return reader

    def unseal(self, manifest: Snapshot, chunks: Iterable[Chunk]) -> bytes:
        """The state that a snapshot holds.

        Raises:
            BadRecord: It cannot be used.
        """
        if manifest.snapshot_id in self._unloadable:
            raise BadRecord(self._unloadable[manifest.snapshot_id])
        return snapshots.unseal(manifest, chunks, self._secret)

    def restore(self, fold: Fold, state: bytes) -> None:
        """Puts a stored state in place of a fold's."""
        fold.load(state, self.unpickle)

    def lineage_of(self, partition: int, end: int = FAR) -> lineage.Start:
        """The lineage in force at an offset, read off all of the log before it.

        Raises:
            Conflict: The log's newest definition is not that of this process.
        """
        return self._lineage(partition, None, 0, end)

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
                try:
                    opening.folds[key] = self.load(reader, key, scores=scores)
                except BadRecord as error:
                    told = snapshots.refusal(stored.snapshot, error.reason)
                    self._unloadable[stored.snapshot.snapshot_id] = told
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
        fold.load(stored.state, self.unpickle)
        return fold

    def new_fold(self, *, scores: bool) -> Fold:
        """A model before its first example, at version 0."""
        fold = self._make_fold(self._make_scores() if scores else None)
        if self._base is not None:
            fold.load(self._base, self.unpickle)
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
                value = self._encode_chunk(chunk)
                outputs.send(self.models, value, key, partition=manifest.partition)
                if is_armed("snapshot.chunk"):
                    outputs.flush()
                    failpoint("snapshot.chunk")
        outputs.flush()
        failpoint("snapshot.manifest")
        for manifest, _ in stored:
            value = self._encode_manifest(manifest)
            key = snapshots.manifest_key(manifest)
            outputs.send(self.models, value, key, partition=manifest.partition)
        outputs.flush()

    def forget(self, stored: dict[str, Snapshot], outputs: Outputs) -> None:
        """Deletes the snapshots that nobody needs, and drops them from ``stored`` (by id)."""
        by_partition: dict[int, list[Snapshot]] = {}
        for manifest in stored.values():
            by_partition.setdefault(manifest.partition, []).append(manifest)
        for partition, manifests in by_partition.items():
            for key in snapshots.expendable(manifests, int(time() * 1000), self._kept(manifests)):
                outputs.send(self.models, None, key, partition=partition)
                failpoint("snapshot.forgotten")
                stored.pop(snapshots.parse_key(key).snapshot_id, None)

    def _kept(self, manifests: Iterable[Snapshot]) -> set[str]:
        """What cannot be made again: the bases, and the models that a lineage carried over (see ``Adoption``)."""
        carried = {m.snapshot_id for m in manifests if m.version == m.defined_at + 1}
        return carried | self._bases

    def sweep(self, opening: Opening, outputs: Outputs) -> None:
        """Deletes what learners left behind that died before a snapshot was whole."""
        orphans = opening.snapshots.incomplete()
        count = len(self.partitions()) if orphans else 0
        for key in orphans:
            of_model = snapshots.parse_key(key).model_key.encode()
            outputs.send(self.models, None, key, partition=partition_of(of_model, count))

    def partitions(self) -> list[int]:
        """The partitions of the log."""
        consumer = group_less(self.kafka)
        try:
            return partitions_of(consumer, self.examples)
        finally:
            consumer.close()

    def exclude(self, exclusion: Exclusion, partition: int, outputs: Outputs) -> int:
        """Appends a control record about one model key, and gives its offset."""
        value = self._codec.encode(self.examples, exclusion)
        headers = [(KIND, exclusion.kind.encode())]
        key = exclusion.model_key.encode()
        written = outputs.deliver(self.examples, value, key, headers, partition)
        return int(written.offset() or 0)

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
        self.check_from(partition, 0)

    def check_from(self, partition: int, begin: int) -> None:
        """Sees that a partition still has its records from an offset on.

        Raises:
            ConfigError: It begins later.
        """
        consumer = group_less(self.kafka)
        try:
            low, _ = watermarks(consumer, self.examples, partition)
        finally:
            consumer.close()
        self._check_begin(partition, begin, low)

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
