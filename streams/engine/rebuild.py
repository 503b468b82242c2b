"""Makes the model of any version again: from the nearest stored state that may stand for it, and the log after that.

What a control record means, and which state may stand for a version, is decided in ``core/exclusions``; how records are
folded, in ``core/fold``.  Here they are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from confluent_kafka import Message

from streams.core import exclusions
from streams.core.errors import BadRecord, Conflict
from streams.core.events import Chunk, Example, Exclusion, Snapshot
from streams.core.exclusions import NOWHERE, Head, Places
from streams.core.fold import Fold, Folded, head
from streams.core.lineage import Start
from streams.engine import snapshots
from streams.engine.log import CONTROLS, FAR, Log, control_kind
from streams.engine.reader import to_end

log = logging.getLogger("counterpoint.rebuild")


class Stopped(Exception):
    """Nobody wants the model any more."""


class Target(NamedTuple):
    """A version to be made, and what is out of it."""

    version: int
    excluded: Places


class Rebuilt(NamedTuple):
    """A model that was made again.

    Attributes:
        version: The version that was asked for.
        fold: The model.
        refused: Version to the reason, of what it could not learn on the way.
        start: The version of the state that it was folded on from; 0: from the beginning of the lineage.
    """

    version: int
    fold: Fold
    refused: dict[int, str]
    start: int


class Rebuilder:
    """Makes versions of one model key, with a consumer of its own.

    Every method may raise Unavailable, when the broker does not answer, and Stopped.

    Args:
        the_log: The loop's log and snapshots, opened: it knows the base of its lineage.
        key: The model key.
        partition: Its partition of the log.
        begun: The lineage in force.
        stop: Asked at every record; true ends it with Stopped.
        until: Where the log is taken to end.
    """

    def __init__(
        self,
        the_log: Log,
        key: str,
        partition: int,
        begun: Start,
        stop: Callable[[], bool] = lambda: False,
        until: int = FAR,
    ) -> None:
        self._log, self._key, self._partition, self._begun = the_log, key, partition, begun
        self._until = until
        self._stop, self._name = stop, key.encode()

    def records(self, start: int, end: int) -> Iterator[tuple[int, Folded]]:
        """The model key's part of log[start:end], with versions; what cannot be read is left out, as by everybody."""
        for message in self._messages(start, end):
            record = self._folded(message)
            if record is not None:
                yield (message.offset() or 0) + 1, record

    def _messages(self, start: int, end: int) -> Iterator[Message]:
        examples, partition = self._log.examples, self._partition
        between = to_end(
            self._log.kafka, examples, {partition: start}, {partition: end}, self._stop
        )
        for message in between:
            if self._stop():
                break
            if message.key() == self._name:
                yield message
        if self._stop():
            raise Stopped

    def _folded(self, message: Message) -> Folded | None:
        kind, value = control_kind(message.headers()), message.value()
        if kind is not None and kind not in CONTROLS:
            return None
        try:
            if kind is None:
                return self._log.decode_as(Example, value)
            return self._log.decode_as(Exclusion, value)
        except BadRecord:
            return None

    def ahead(self, target: Target, fixed: Places = NOWHERE) -> Target:
        """The last version that a control record makes, from one on; that one, if there is none after it."""
        version, excluded = target
        for message in self._messages(target.version, self._until):
            if control_kind(message.headers()) not in CONTROLS:
                continue
            record = self._folded(message)
            if isinstance(record, Exclusion):
                version = (message.offset() or 0) + 1
                excluded = exclusions.after(excluded, record, fixed)
        return Target(version, excluded)

    def at(self, version: int) -> Target:
        """What is out of a version."""
        _, known = next(self.states(version), (b"", Head(0, 0, NOWHERE, NOWHERE)))
        excluded = known.excluded
        for _, record in self.records(known.version, version):
            if isinstance(record, Exclusion):
                excluded = exclusions.after(excluded, record, known.fixed)
        return Target(version, excluded)

    def rebuild(self, target: Target) -> Rebuilt:
        """The model of a version.

        Raises:
            Conflict: The lineage continues from a state that is gone.
            ConfigError: Records that the model is made of are gone.
        """
        chosen = exclusions.start_of(self.states(target.version), target.excluded, target.version)
        fold, learn_from = self._log.new_fold(scores=True), 0
        if chosen is not None:
            self._log.restore(fold, chosen)
        else:  # from where on examples are learned shows only in the whole
            learn_from = self._log.lineage_of(self._partition, self._until).learn_from
            self._check_new(target.version, learn_from)
        start = fold.version
        self._log.check_from(self._partition, start)
        records = self.records(start, target.version)
        refused = fold.refold(target.excluded, records, learn_from)
        return Rebuilt(target.version, fold, refused, start)

    def _check_new(self, version: int, learn_from: int) -> None:
        """A model key that is newer than a lineage which continues others needs no state to start from."""
        if self._begun.needs_snapshot and any(True for _ in self.records(0, learn_from)):
            message = (
                f"version {version} of model {self._key!r} continues a stored model that is gone: restore "
                f"{self._log.models}, or adopt with --refold"
            )
            raise Conflict(message)

    def states(self, version: int) -> Iterator[tuple[bytes, Head]]:
        """The stored states of this lineage up to a version, newest first, each read when it is asked for."""
        found: dict[str, Snapshot] = {}
        offsets: dict[str, list[int]] = {}
        for where, message in self._models(0, FAR):
            if where.model_key != self._key:
                continue
            if message.value() is None:
                found.pop(where.snapshot_id, None)
            elif where.chunk is not None:
                offsets.setdefault(where.snapshot_id, []).append(message.offset() or 0)
            elif (manifest := self._manifest(message)) is not None:
                found[where.snapshot_id] = manifest
        usable = [each for each in found.values() if each.version <= version]
        for manifest in sorted(usable, key=lambda each: (each.version, each.created_at))[::-1]:
            state = self._state(manifest, offsets.get(manifest.snapshot_id, [0]))
            if state is not None:
                yield state, head(state, self._log.unpickle)

    def _manifest(self, message: Message) -> Snapshot | None:
        try:
            manifest = self._log.decode_as(Snapshot, message.value())
        except BadRecord:
            return None
        is_mine = manifest.definition == self._log.mine.definition
        return manifest if is_mine and manifest.version >= self._begun.snapshot_from else None

    def _state(self, manifest: Snapshot, offsets: list[int]) -> bytes | None:
        chunks = []
        try:
            for where, message in self._models(min(offsets), max(offsets) + 1):
                if where.snapshot_id == manifest.snapshot_id and where.chunk is not None:
                    chunks.append(self._log.decode_as(Chunk, message.value()))
            return self._log.unseal(manifest, chunks)
        except BadRecord as error:
            log.warning("%s", error.reason)
            return None

    def _models(self, start: int, end: int) -> Iterator[tuple[snapshots.RecordKey, Message]]:
        models, partition = self._log.models, self._partition
        stretch = {partition: start}, {partition: end}
        for message in to_end(self._log.kafka, models, *stretch, self._stop):
            try:
                where = snapshots.parse_key(message.key() or b"")
            except BadRecord as error:  # who else writes there is no reason to stop
                log.warning("%s", error.reason)
                continue
            yield where, message
        if self._stop():
            raise Stopped
