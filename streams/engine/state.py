"""The joiner's state of one partition, in RocksDB, and the protocol that ties it to the offsets that Kafka knows.

What is on disk stands for *positions* P, one per topic.  Changes are first held in memory; a commit takes them to disk:

    capture()          the changes of all processed records, and the positions they stand for, are set aside
      ...              outputs are delivered
    prepare(captured)  both are written to disk as one record, which changes nothing yet
      ...              Kafka commits the positions: C
    apply(captured)    one write makes the changes, sets P, and removes the prepared record

**After a crash**, whatever step it came at, ``recover`` compares P with C, topic by topic:

* A prepared record that stands for exactly C is applied.  Any other is thrown away: its outputs, if they got out, come
  again, and are the same.
* P < C (an old disk, or none): the records from P to C are to be read again without output, since what they cause was
  delivered before C was committed.
* P > C: reading goes on from P.

Outputs are delivered *before* the record is prepared.  In the other order a crash between the two would lose some: with
no new records, or when another worker has since committed the same positions, the prepared changes (decisions that
only the passing of time had brought about) would be found to stand for C and be applied, their outputs never sent.

**With transactions** nothing is prepared: outputs and offsets become true together, and not before.  A prepared record
could not be judged by its positions: where only time had decided something they are what they were, and its outputs may
be in a transaction that was aborted.  Instead the offsets are committed with a note: up to which time everything that
only time decides was decided (``decided``).  After a crash, or on another disk, the records up to C are read, and time is
taken up to the note, both without output.  That is exact because what is decided up to a time depends on the records
and on that time alone: it moves in whole steps (see ``partition``).

Writes go to the operating system but are not synced: a machine that loses power loses the end, which makes P < C.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import accumulate, pairwise
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
)

from streams.core.errors import ConfigError, Conflict, Mistake, Unavailable
from streams.failpoints import failpoint

FORMAT = 4
ENTRY, DUE, META = b"e", b"d", b"m"
"""First byte of a key: an event, a list of events that are due at a time, all else."""
IDENTITY, POSITIONS, PREPARED = META + b"identity", META + b"positions", META + b"prepared"
AFTER_DUE = b"d\xff"

BLOCK_CACHE_BYTES = 64 << 20
WRITE_BUFFER_BYTES = 16 << 20

_DUE = Struct(">QQ")  # time, number of the list
_TIME = len(DUE) + 8  # so much of a list's key tells its time
_COUNT = Struct("<I")


class Place(NamedTuple):
    """How far a topic's partition has been read.

    Attributes:
        offset: The next record's.
        clock: The latest time of a record read.
    """

    offset: int = 0
    clock: int = 0


class TopicIdentity(NamedTuple):
    """What tells a topic from another of the same name."""

    topic_id: str
    partitions: int


class Identity(NamedTuple):
    """What a state belongs to; it is of no use to anything else."""

    loop: str
    partition: int
    topics: Mapping[str, TopicIdentity]


def _options(cache: Cache) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_max_background_jobs(2)
    options.set_max_open_files(256)  # each open table holds its index and filter in memory
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(2)
    table = BlockBasedOptions()
    table.set_bloom_filter(
        10, False
    )  # an event's first prediction asks for a key that is not there
    table.set_block_size(16 << 10)
    table.set_block_cache(cache)
    options.set_block_based_table_factory(table)
    return options


class Layer:
    """Changes in memory, with the due lists among them as a heap."""

    __slots__ = ("changes", "due")

    def __init__(self) -> None:
        self.changes: dict[bytes, bytes | None] = {}
        self.due: list[bytes] = []


class Captured(NamedTuple):
    """What is set aside for a commit: changes (None: removed), and the bytes of the places that they stand for."""

    changes: dict[bytes, bytes | None]
    places: dict[str, Place]
    decided: int
    stands_for: bytes


class Due(NamedTuple):
    """What is due.

    Attributes:
        keys: As they were given.
        lists: Where they are.
        until: The time before which nothing else is due.
        upto: The key that everything due lies before.
        rest: The first list on disk that is not in it.
    """

    keys: list[bytes]
    lists: list[bytes]
    until: int
    upto: bytes
    rest: bytes


class State:
    """Key to value, with the changes since the last commit over what is on disk.

    All calls come from one thread at a time, but ``prepare`` and ``apply``, which may run in another one meanwhile.

    Attributes:
        places: How far each topic has been read, in memory.
        pending: Predictions that wait for a verdict, in memory.
        pending_reviews: Those of them that people were asked about, in memory.
        decided: The time up to which everything that only time decides was decided, in memory.
    """

    def __init__(self, path: Path, db: Any, identity: Identity) -> None:
        self._path, self._db, self._identity = path, db, identity
        self._top = Layer()
        self._set_aside: Layer | None = None
        self._applied = False
        self._swept = self._next_due = DUE  # of what is on disk: taken up to here, nothing before
        self._stored = b""
        self.places = {topic: Place() for topic in identity.topics}
        self.pending = self.pending_reviews = self.decided = 0
        self._lists = 0  # due lists ever made: makes their keys differ
        self._restore()

    def _restore(self) -> None:
        stored = self._db.get(POSITIONS)
        if stored is not None:
            self._stored = stored
            told = _read_places(stored)
            self._lists, self.pending, self.pending_reviews, self.decided, self.places = told

    def close(self) -> None:
        """Lets go of the disk; what is not committed is forgotten."""
        self._db.close()

    # What is read and changed, in memory

    def load(self, keys: list[bytes]) -> dict[bytes, bytes | None]:
        """The values of keys, changes included."""
        self._settle()
        found = dict(zip(keys, self._db.get(keys), strict=True)) if keys else {}
        layers = [self._set_aside, self._top] if self._set_aside else [self._top]
        for layer in layers:
            changes = layer.changes
            for key in found.keys() & changes.keys():
                found[key] = changes[key]
        return found

    def change(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Sets values, or removes them (None)."""
        self._top.changes.update(changes)

    def put_due(self, time: int, keys: Iterable[bytes]) -> None:
        """Has ``due`` give the keys when it is asked for a later time; ``time`` is not before what it gave already."""
        self._lists += 1
        at = DUE + _DUE.pack(time, self._lists)
        self._top.changes[at] = pack(list(keys))
        heappush(self._top.due, at)

    def due(self, now: int, at_most: int) -> Due:
        """What was due before ``now``, the earliest first: all lists of a time or none, about ``at_most`` keys of them."""
        self._settle()
        upto, rest = _first_list(now), self._next_due
        lists: dict[bytes, bytes] = {}
        if rest < upto:
            rest, count, time = AFTER_DUE, 0, b""
            for at, keys in self._db.items(from_key=self._swept):
                if at >= upto or (count >= at_most and at[:_TIME] != time):
                    rest, upto = min(at, AFTER_DUE), min(at[:_TIME] + bytes(8), upto)
                    break
                lists[at], time = keys, at[:_TIME]
                count += _COUNT.unpack_from(keys)[0]
        for layer in (self._set_aside, self._top):
            if layer is not None and layer.due and layer.due[0] < upto:
                lists |= {at: layer.changes[at] or pack(()) for at in layer.due if at < upto}
        keys = [key for at in sorted(lists) for key in unpack(lists[at])]
        return Due(keys, list(lists), _DUE.unpack_from(upto, len(DUE))[0], upto, rest)

    def done(self, due: Due) -> None:
        """Removes what ``due`` gave."""
        for layer in (self._set_aside, self._top):
            while layer is not None and layer.due and layer.due[0] < due.upto:
                heappop(layer.due)
        self._top.changes.update(dict.fromkeys(due.lists))
        self._swept, self._next_due = due.upto, due.rest

    def scheduled(self, begin: bytes, at_most: int) -> tuple[list[bytes], bytes]:
        """Keys that are to be due, of the lists on disk from ``begin`` on, about so many; and where the rest begins."""
        keys: list[bytes] = []
        begin = max(begin, self._swept)
        for at, packed in self._db.items(from_key=begin):
            if at >= AFTER_DUE or len(keys) >= at_most:
                break
            keys += unpack(packed)
            begin = at + b"\x00"
        return keys, begin

    # The protocol

    def capture(self) -> Captured:
        """Sets the changes aside; those of an earlier commit that failed are among them."""
        self._settle()
        if self._set_aside is not None:
            self._give_back(self._set_aside)
        self._set_aside, self._top = self._top, Layer()
        stands_for = self._stands_for()
        return Captured(self._set_aside.changes, dict(self.places), self.decided, stands_for)

    def prepare(self, captured: Captured) -> None:
        """Writes what was captured, as one record.  To be called when its outputs are delivered."""
        if captured.changes or captured.stands_for != self._stored:
            self._db.put(PREPARED, _write_prepared(captured))

    def apply(self, captured: Captured) -> None:
        """Makes what was captured the state: its positions are committed."""
        if captured.changes or captured.stands_for != self._stored:
            self._write(captured.changes, captured.stands_for)
        self._applied = True

    def write(self) -> None:
        """Writes all changes and places at once: for records whose positions are committed already."""
        self._settle()
        self._write(self._top.changes, self._stands_for())
        self._next_due = min([self._next_due, *self._top.due[:1]])
        self._top = Layer()

    def recover(
        self, committed: Mapping[str, int | None], starts: Mapping[str, int]
    ) -> dict[str, range]:
        """Brings the state to what the committed offsets say; gives what has to be read again, without output.

        Args:
            committed: By topic, the offset that the group has committed.
            starts: By topic, the first offset that is still there.

        Raises:
            ConfigError: Offsets or records that are needed are gone.
        """
        prepared = self._db.get(PREPARED)
        if prepared is not None:
            failpoint("recover.prepared")
            changes, stands_for = _read_prepared(prepared)
            *_, places = _read_places(stands_for)
            if all(place.offset == (committed[topic] or 0) for topic, place in places.items()):
                self._write(changes, stands_for)
                self._restore()
            else:
                self._db.delete(PREPARED)
        self._check(committed, starts)
        return {
            topic: range(max(place.offset, starts[topic]), committed[topic] or 0)
            for topic, place in self.places.items()
        }

    def _check(self, committed: Mapping[str, int | None], starts: Mapping[str, int]) -> None:
        mistakes = []
        for topic, place in self.places.items():
            where, offset, start = (
                f"{topic}-{self._identity.partition}",
                committed[topic],
                starts[topic],
            )
            if offset is None and place.offset:
                expected = (
                    f"an offset of the joiner's group, which is gone: it was at {place.offset}. Set it to that with "
                    f"kafka-consumer-groups --reset-offsets --to-offset {place.offset}, or, to join everything "
                    f"again that is still there, delete {self._path}"
                )
                mistakes.append(Mistake(where, None, expected))
            elif offset is not None and offset < start:
                expected = (
                    f"to begin at {offset} or before, where the joiner goes on: {start - offset} records were deleted "
                    "before they were read. Give the topic a longer retention; to go on without them, set the group's "
                    "offset with kafka-consumer-groups --reset-offsets --to-earliest"
                )
                mistakes.append(Mistake(where, start, expected))
        if mistakes:
            raise ConfigError(mistakes)

    def _write(self, changes: Mapping[bytes, bytes | None], stands_for: bytes) -> None:
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in changes.items():
            if value is None:
                delete(key)
            else:
                put(key, value)
        put(POSITIONS, stands_for)
        delete(PREPARED)
        self._db.write(batch)
        self._stored = stands_for

    def _stands_for(self) -> bytes:
        told = [self._lists, self.pending, self.pending_reviews, self.decided, self.places]
        return json.dumps(told).encode()

    def _settle(self) -> None:
        """Forgets what was set aside once it is on disk.  Not by ``apply``, which may run in another thread."""
        if self._applied and self._set_aside is not None:
            self._next_due = min([self._next_due, *self._set_aside.due[:1]])
            self._set_aside = None
        self._applied = False

    def _give_back(self, layer: Layer) -> None:
        self._top.changes = {**layer.changes, **self._top.changes}
        self._top.due += layer.due
        heapify(self._top.due)


def open_state(path: Path, identity: Identity, cache: Cache | None = None) -> State:
    """Opens the state of a partition, or makes an empty one.

    Args:
        path: Its directory.
        identity: What it has to belong to.
        cache: What partitions share, so that memory does not grow with them.

    Raises:
        ConfigError: It belongs to something else.
        Conflict: Another process has it open.
        Unavailable: It cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db: Any = Rdict(str(path), _options(cache or Cache(BLOCK_CACHE_BYTES)))
    except Exception as error:  # rocksdict raises nothing narrower
        raise _not_opened(path, error) from error
    try:
        _identify(path, db, identity)
    except ConfigError:
        db.close()
        raise
    return State(path, db, identity)


def _not_opened(path: Path, error: Exception) -> Conflict | Unavailable:
    if "lock" in str(error).lower():
        return Conflict(
            f"the state in {path} is in use by another process: stop that worker, or give this one "
            "another --worker name"
        )
    return Unavailable(
        f"the state in {path} cannot be opened: {error}. If the disk is well, delete it: it is rebuilt "
        "from the topics"
    )


def _identify(path: Path, db: Any, identity: Identity) -> None:
    stored = db.get(IDENTITY)
    if stored is None:
        db.put(IDENTITY, _write_identity(identity))
        return
    found = json.loads(stored)
    if found["format"] != FORMAT:
        expected = (
            f"{FORMAT}, which this release reads. Delete {path}: it is rebuilt from the topics"
        )
        raise ConfigError([Mistake("format of the joiner's state", found["format"], expected)])
    if (found["loop"], found["partition"]) != (identity.loop, identity.partition):
        expected = (
            f"a directory of loop {identity.loop}, partition {identity.partition}: this one has the state of loop "
            f"{found['loop']}, partition {found['partition']}. Set another COUNTERPOINT_STATE_DIR"
        )
        raise ConfigError([Mistake("state directory", str(path), expected)])
    mistakes = [
        mistake
        for topic, now in identity.topics.items()
        if (mistake := _changed(path, topic, TopicIdentity(*found["topics"][topic]), now))
    ]
    if mistakes:
        raise ConfigError(mistakes)


def _changed(path: Path, topic: str, then: TopicIdentity, now: TopicIdentity) -> Mistake | None:
    if then.topic_id != now.topic_id:
        expected = (
            f"{then.topic_id}: the topic was deleted and made again since. To begin anew with it, delete {path} and "
            "the offsets of the joiner's group (kafka-consumer-groups --delete-offsets)"
        )
        return Mistake(f"id of topic {topic}", now.topic_id, expected)
    if then.partitions != now.partitions:
        expected = (
            f"{then.partitions}, as before: with another number, events are on other partitions than what is already "
            "there about them, and verdicts would miss their predictions. Give the loop another name, and so new topics"
        )
        return Mistake(f"partitions of topic {topic}", now.partitions, expected)
    return None


def _write_identity(identity: Identity) -> bytes:
    loop, partition, topics = identity
    told = {"format": FORMAT, "loop": loop, "partition": partition, "topics": topics}
    return json.dumps(told).encode()


def _first_list(time: int) -> bytes:
    return DUE + _DUE.pack(time, 0)


def _read_places(data: bytes) -> tuple[int, int, int, int, dict[str, Place]]:
    *numbers, places = json.loads(data)
    lists, pending, pending_reviews, decided = numbers
    named = {topic: Place(*place) for topic, place in places.items()}
    return lists, pending, pending_reviews, decided, named


def _write_prepared(captured: Captured) -> bytes:
    put = {key: value for key, value in captured.changes.items() if value is not None}
    removed = [key for key, value in captured.changes.items() if value is None]
    return pack([captured.stands_for, pack(put.keys()), pack(put.values()), pack(removed)])


def _read_prepared(data: bytes) -> tuple[dict[bytes, bytes | None], bytes]:
    stands_for, keys, values, removed = unpack(data)
    changes: dict[bytes, bytes | None] = dict.fromkeys(unpack(removed))
    changes.update(zip(unpack(keys), unpack(values), strict=True))
    return changes, stands_for


def pack(parts: Collection[bytes]) -> bytes:
    """Several byte strings as one.

    >>> unpack(pack([b"one", b"", b"three"]))
    [b'one', b'', b'three']
    """
    return b"".join((_COUNT.pack(len(parts)), array("I", map(len, parts)).tobytes(), *parts))


def unpack(data: bytes) -> list[bytes]:
    """The byte strings that ``pack`` was given."""
    begin = _COUNT.size + array("I").itemsize * _COUNT.unpack_from(data)[0]
    sizes = array("I", data[_COUNT.size : begin])
    return [data[start:end] for start, end in pairwise(accumulate(sizes, initial=begin))]
