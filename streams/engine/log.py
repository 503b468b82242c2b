"""The loop's log and its snapshots, as a learner or a predictor meets them: where to start, from which models, and how to store one.

What a definition in the log means is decided in ``core/lineage``; what a snapshot is made of in ``engine/snapshots``.
Where a fold starts is read off the snapshots alone: each says below which offset everything is in a snapshot
(``floor``), so neither learner nor predictor needs the offsets of a consumer group to find its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any, NamedTuple
from uuid import uuid4

from confluent_kafka import Message
from river.__version__ import __version__ as river_version

from streams.core import lineage
from streams.core.errors import BadRecord, ConfigError, Conflict, Mistake
from streams.core.events import Chunk, Define, Example, Snapshot
from streams.core.fold import Fold
from streams.core.scores import Scores
from streams.engine import snapshots
from streams.engine.codec import Codec
from streams.engine.producer import Outputs
from streams.engine.reader import chunks_to_end, group_less, partitions_of, to_end, watermarks

KIND = "kind"
DEFINE = "define"
FAR = 1 << 62


def control_kind(headers: Iterable[tuple[str, bytes | None]] | None) -> str | None:
    """The kind of a control record, by its headers; None for an example."""
    for name, value in headers or ():
        if name == KIND:
            return (value or b"").decode(errors="replace")
    return None


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
        reader = self._read_snapshots(models_end, stop)
        opening = Opening(reader, models_end=models_end)
        for partition, (low, high) in bounds.items():
            end = min(high, (until or {}).get(partition, high))
            self._open_partition(opening, partition, low, end)
        self._load_base(opening, stop)
        for partition in partitions:
            self._load_folds(opening, partition, scores)
        return opening

    def _read_snapshots(
        self, ends: Mapping[int, int], stop: Callable[[], bool], bases: Collection[str] = ()
    ) -> snapshots.SnapshotReader:
        reader = snapshots.SnapshotReader(
            self._codec.decode,
            lambda manifest, chunks: snapshots.unseal(manifest, chunks, self._secret),
            wanted=lambda manifest: manifest.definition == self.mine.definition,
            bases=bases,
        )
        for message in to_end(self.kafka, self.models, dict.fromkeys(ends, 0), ends, stop):
            reader.add(message.key() or b"", message.value())
        return reader

    def _open_partition(self, opening: Opening, partition: int, low: int, high: int) -> None:
        reader = opening.snapshots
        self._check_identity(reader, partition)
        stored = [
            manifest
            for key in reader.model_keys()
            if (found := reader.newest(key))
            and (manifest := found.snapshot).partition == partition
            and manifest.version > 0  # the state of a seeded model is no state of the log
        ]
        broken = any(
            reader.manifests[snapshot_id].partition == partition
            for snapshot_id in reader.refused
            if snapshot_id in reader.manifests
        )
        newest = max(stored, key=lambda manifest: manifest.version, default=None)
        if newest is None or broken:
            defined = self.definitions(partition, low, high)
        else:
            at = newest.defined_at  # the one that was in force then; -1 before the first
            defined = self.definitions(partition, at, at + 1) if at >= 0 else []
            defined += self.definitions(partition, newest.version, high)
        start = lineage.start(defined, self.mine.definition, self.mine.loop)
        opening.lineage[partition] = start
        floors = [m.floor for m in stored if m.version >= start.snapshot_from]
        if start.needs_snapshot and not floors:
            message = (
                f"the models of loop {self.mine.loop!r} continue from a snapshot that is gone: "
                f"adopt with --refold or --fresh, or restore {self.models}"
            )
            raise Conflict(message)
        opening.starts[partition] = begin = 0 if broken else max(floors, default=0)
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
        base = next((s.base for s in opening.lineage.values() if s.base is not None), None)
        if base is None:
            return
        self._bases = frozenset([base])
        stored = self._read_snapshots(opening.models_end, stop, bases=[base]).base(base)
        if stored is None and not stop():
            message = (
                f"snapshot {base}, which the models of loop {self.mine.loop!r} start from, is gone"
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
            checks=list(fold.checks),
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

    def carry_over(self, partition: int, defined_at: int, outputs: Outputs) -> int:
        """Stores the models of the lineage before a definition as that definition's own; gives how many.

        What the last snapshots do not hold yet is folded by this process's code.
        """
        before = lineage.effective(self.definitions(partition, 0, defined_at))[-1][1]
        theirs = Log(
            kafka=self.kafka,
            examples=self.examples,
            models=self.models,
            topic_id=self._topic_id,
            mine=before,
            new_fold=self._make_fold,
            new_scores=self._make_scores,
            codec=self._codec,
            secret=self._secret,
            allowed=self._allowed,
        )
        opening = theirs.open(scores=True, partitions=[partition], until={partition: defined_at})
        for message in to_end(
            self.kafka,
            self.examples,
            {partition: opening.starts[partition]},
            {partition: defined_at},
        ):
            if control_kind(message.headers()) is None:
                theirs.fold_onto(opening, message)
        end = defined_at + 1
        for fold in opening.folds.values():
            fold.advance(end)
        self.publish(
            (
                self.seal(fold, key, partition, floor=end, defined_at=defined_at)
                for key, fold in opening.folds.items()
            ),
            outputs,
        )
        return len(opening.folds)

    def fold_onto(self, opening: Opening, message: Message) -> None:
        """Folds one example of the log; one that cannot be read changes nothing, anywhere."""
        try:
            example = self._codec.decode_as(Example, message.value() or b"")
        except BadRecord:
            return
        fold = opening.folds.get(example.model_key)
        if fold is None:
            fold = opening.folds[example.model_key] = self.new_fold(scores=True)
        version = message.offset() + 1
        if message.offset() < opening.lineage[message.partition()].learn_from:
            fold.mark(version, example)
        else:
            fold.apply(version, example)
