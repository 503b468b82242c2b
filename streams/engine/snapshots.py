"""Snapshots: a fold's state as signed records of the ``models`` topic, and back, trusting nothing on the way.

Pure but for the parts that unpickle; it neither consumes nor produces.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import pickle
import pickletools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from river.__version__ import __version__ as river_version

from streams.core.errors import BadRecord
from streams.core.events import Chunk, Snapshot
from streams.core.thinning import Kept, thin

CHUNK_BYTES = 512 * 1024
MANIFEST = "manifest"


# Keys of the models topic --------------------------------------------------------------------------------------------


class RecordKey(NamedTuple):
    """A key of the ``models`` topic: which model, which snapshot, and which chunk of it (None: the manifest)."""

    model_key: str
    snapshot_id: str
    chunk: int | None

    def __str__(self) -> str:
        part = MANIFEST if self.chunk is None else self.chunk
        return f"{self.model_key}/{self.snapshot_id}/{part}"


def parse_key(key: bytes) -> RecordKey:
    """Read a key of the ``models`` topic; the model key may hold slashes itself."""
    try:
        model_key, snapshot_id, part = key.decode().rsplit("/", 2)
        return RecordKey(model_key, snapshot_id, None if part == MANIFEST else int(part))
    except ValueError as error:
        reason = f"Key {key!r} of the models topic is not <model key>/<snapshot id>/<chunk>: who else writes there?"
        raise BadRecord(reason) from error


def _key_of(snapshot: Snapshot) -> RecordKey:
    return RecordKey(snapshot.model_key, snapshot.snapshot_id, None)


def manifest_key(snapshot: Snapshot) -> bytes:
    """Key of a snapshot's manifest."""
    return str(_key_of(snapshot)).encode()


def chunk_keys(snapshot: Snapshot) -> list[bytes]:
    """Keys of a snapshot's chunks, in order."""
    key = _key_of(snapshot)
    return [str(key._replace(chunk=index)).encode() for index in range(snapshot.chunks)]


def expendable(
    snapshots: Iterable[Snapshot], now_ms: int, bases: Collection[str] = ()
) -> list[bytes]:
    """Keys to tombstone so that each model key keeps what ``core/thinning`` says, and every lineage its base.

    Manifests come first: a snapshot that is half gone must not look whole.
    """
    held: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        held.setdefault(snapshot.model_key, []).append(snapshot)
    gone = []
    for of_key in held.values():
        kept = thin((Kept(s.version, s.created_at, s.snapshot_id) for s in of_key), now_ms)
        gone += [
            old
            for old in sorted(of_key, key=_age, reverse=True)
            if old.snapshot_id not in kept and old.snapshot_id not in bases
        ]
    return [manifest_key(old) for old in gone] + [key for old in gone for key in chunk_keys(old)]


def _age(snapshot: Snapshot) -> tuple[int, int]:
    return snapshot.version, snapshot.created_at


def newest_stored(snapshots: Iterable[Snapshot], model_keys: Collection[str]) -> dict[str, int]:
    """By model key, when its newest snapshot was stored."""
    newest: dict[str, int] = {}
    for snapshot in snapshots:
        key = snapshot.model_key
        if key in model_keys:
            newest[key] = max(newest.get(key, 0), snapshot.created_at)
    return newest


# Sealing -------------------------------------------------------------------------------------------------------------


def seal(state: bytes, manifest: Snapshot, secret: bytes) -> tuple[Snapshot, list[Chunk]]:
    """Cut a state into chunks and sign it together with everything that its manifest says.

    ``chunks``, ``size`` and ``signature`` of the given manifest are filled in; its random id is the caller's.
    """
    view = memoryview(state)
    pieces = [bytes(view[at : at + CHUNK_BYTES]) for at in range(0, len(state), CHUNK_BYTES)]
    filled = manifest._replace(chunks=len(pieces), size=len(state), signature=b"")
    signed = filled._replace(signature=_signature(filled, pieces, secret))
    return signed, [Chunk(signed.snapshot_id, index, piece) for index, piece in enumerate(pieces)]


def unseal(snapshot: Snapshot, chunks: Iterable[Chunk], secret: bytes) -> bytes:
    """Put a state together again.

    Raises:
        BadRecord: It is incomplete, not signed with this secret, or of another River.
    """
    pieces = {chunk.index: chunk.data for chunk in chunks}
    missing = [index for index in range(snapshot.chunks) if index not in pieces]
    if missing:
        raise _bad(
            snapshot,
            f"lacks chunk {missing[0]} of {snapshot.chunks}: it was not written to its end",
        )
    ordered = [pieces[index] for index in range(snapshot.chunks)]
    size = sum(len(piece) for piece in ordered)
    if size != snapshot.size:
        raise _bad(
            snapshot, f"has {size} bytes and should have {snapshot.size}: a chunk is truncated"
        )
    if not hmac.compare_digest(_signature(snapshot, ordered, secret), snapshot.signature):
        raise _bad(
            snapshot,
            "is not signed with this COUNTERPOINT_SECRET: use the secret that the learner has",
        )
    if snapshot.river != river_version:
        raise _bad(
            snapshot,
            f"was made by River {snapshot.river}, here is {river_version}: install that version",
        )
    return b"".join(ordered)


def _bad(snapshot: Snapshot, what: str) -> BadRecord:
    return BadRecord(f"{_name(snapshot)} {what}")


def refusal(snapshot: Snapshot, reason: str) -> str:
    """Why a snapshot that is whole and signed cannot be used all the same."""
    return f"{_name(snapshot)} cannot be loaded: {reason}"


def _name(snapshot: Snapshot) -> str:
    return f"Snapshot {snapshot.snapshot_id} (model {snapshot.model_key!r}, version {snapshot.version})"


def _signature(snapshot: Snapshot, pieces: Iterable[bytes], secret: bytes) -> bytes:
    fields = snapshot._asdict() | {
        "signature": "",
        "metrics": {name: float(value).hex() for name, value in snapshot.metrics.items()},
        "checks": [list(check) for check in snapshot.checks],
    }
    told = json.dumps(fields, sort_keys=True).encode()
    # The length in front: no bytes can move from the manifest into the state.
    mac = hmac.new(secret, len(told).to_bytes(8) + told, hashlib.sha256)
    for piece in pieces:
        mac.update(piece)
    return mac.digest()


# Unpickling ----------------------------------------------------------------------------------------------------------

Global: TypeAlias = tuple[str, str]

_SAFE: frozenset[Global] = frozenset(
    (module, name)
    for module, names in {
        "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple",
        "collections": "Counter OrderedDict defaultdict deque",
        "copyreg": "_reconstructor __newobj__ __newobj_ex__",
        "datetime": "date datetime time timedelta timezone",
        "functools": "partial",
        "itertools": "count",
        "random": "Random",
        "numpy": "dtype ndarray",
        "numpy.core.multiarray": "_reconstruct scalar",
        "numpy._core.multiarray": "_reconstruct scalar",
        "numpy._core.numeric": "_frombuffer",
        "numpy.core.numeric": "_frombuffer",
        "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
        "numpy.random._mt19937": "MT19937",
        "numpy.random._pcg64": "PCG64",
        "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    }.items()
    for name in names.split()
)
# What the standard library's unpickler raises on a damaged or foreign pickle.
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
)
# What makes or reads files and streams in River is no part of a model.
_RIVER_WITHOUT = ("datasets", "stream", "evaluate", "checks", "test_estimators")


def unpickler(allowed: Collection[Global] = ()) -> Callable[[bytes], Any]:
    """Make a ``pickle.loads`` that knows River's classes, plain data and what is allowed, and refuses everything else.

    The signature is what keeps strangers out; this is the second door, for the day that the secret is known.

    Raises (the function made):
        BadRecord: The state names something else, or is no pickle.
    """
    extra = frozenset(allowed)

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> Any:
            if (module, name) in _SAFE or (module, name) in extra:
                return super().find_class(module, name)
            if _is_rivers(module):
                found = super().find_class(module, name) if "." not in name else None
                if _is_part(found, name):
                    return found
            raise BadRecord(
                f"The state names {module}.{name}, which is neither River's, nor plain data, nor in the loop's own "
                "unlearned model: if you trust it, use it in the loop's model; else find out who wrote the snapshot"
            )

    def loads(data: bytes) -> Any:
        try:
            return Restricted(io.BytesIO(data)).load()
        except _UNREADABLE as error:
            raise BadRecord(
                f"The state cannot be read ({error}): take an older snapshot"
            ) from error

    return loads


def _is_rivers(module: str) -> bool:
    parts = module.split(".")
    return parts[0] == "river" and len(parts) > 1 and parts[1] not in _RIVER_WITHOUT


def _is_part(found: Any, name: str) -> bool:
    """Whether it is River's own class (or Cython's way to make one), not something that River imported."""
    owner = getattr(found, "__module__", None) or ""
    if isinstance(found, type):
        return owner.startswith("river.")
    return name.startswith("__pyx_unpickle_")


def globals_of(data: bytes) -> frozenset[Global]:
    """All classes and functions that a pickle names, without loading it."""
    return frozenset(_globals(data))


def _globals(data: bytes) -> Iterator[Global]:
    # STACK_GLOBAL takes two strings off the stack; the pickler has always just put them there, as new strings or out
    # of its memo, so that following the strings alone is enough.
    strings: list[str] = ["", ""]
    memo: dict[int, str] = {}
    top = ""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "MEMOIZE":
            memo[len(memo)] = top
            continue
        if opcode.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            yield module, name
        elif opcode.name == "STACK_GLOBAL":
            yield strings[-2], strings[-1]
        if opcode.name in ("BINGET", "LONG_BINGET"):
            top = memo.get(int(str(argument)), "")
        elif opcode.name != "FRAME":
            top = argument if isinstance(argument, str) else ""
        if top:
            strings = [strings[-1], top]


# Reading -------------------------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """A complete and valid snapshot with its state."""

    snapshot: Snapshot
    state: bytes


_UNFINISHED = 8
"""Snapshots of one model key that may be read at a time: two learners at once, and a few that died on the way."""
_REMEMBERED = 1000


class SnapshotReader:
    """Assembles the newest snapshot of each model key from the records of ``models``, in any order.

    It holds the state of one snapshot per model key, of the bases it was told to keep, and of a few that are not
    complete yet; of all others only the manifest.

    Args:
        decode: Bytes of a value to its record; raises BadRecord.
        unseal: Manifest and chunks to the state; raises BadRecord.
        wanted: Whether a snapshot may be used at all: made under my definition, at or after its start.
        bases: Ids of snapshots to hold beside the newest, whether wanted or not.

    Attributes:
        manifests: Every manifest that stands in the topic, by id.
        refused: Why snapshots could not be used, by id.
    """

    def __init__(
        self,
        decode: Callable[[bytes], object],
        unseal: Callable[[Snapshot, Sequence[Chunk]], bytes],
        *,
        wanted: Callable[[Snapshot], bool] = lambda snapshot: True,
        bases: Collection[str] = (),
    ) -> None:
        self._decode, self._unseal, self._wanted = decode, unseal, wanted
        self._bases = frozenset(bases)
        self._chunks: dict[str, dict[str, dict[int, Chunk]]] = {}
        self._newest: dict[str, Snapshot] = {}
        self._states: dict[str, Stored] = {}
        self._gone: dict[str, None] = {}
        self.manifests: dict[str, Snapshot] = {}
        self.refused: dict[str, str] = {}

    def add(self, key: bytes, value: bytes | None) -> Snapshot | None:
        """Take one record; returns the manifest when it made a snapshot the newest usable one of its model key."""
        try:
            where = parse_key(key)
        except BadRecord as error:
            self._refuse(repr(key), error.reason)
            return None
        if value is None:
            self._forget(where)
            return None
        if where.snapshot_id in self._gone:
            return None
        return self._take(where, value)

    def _take(self, where: RecordKey, value: bytes) -> Snapshot | None:
        try:
            record = self._decode(value)
        except BadRecord as error:
            self._refuse(where.snapshot_id, error.reason)
            return None
        told = where.snapshot_id, where.chunk
        if isinstance(record, Chunk) and told == (record.snapshot_id, record.index):
            self._hold(where, record)
        elif isinstance(record, Snapshot) and where == _key_of(record):
            self.manifests[record.snapshot_id] = record
        else:
            self._refuse(
                where.snapshot_id, f"Record {where} of the models topic is not what its key says"
            )
            return None
        return self._complete(where)

    def _hold(self, where: RecordKey, chunk: Chunk) -> None:
        manifest = self.manifests.get(where.snapshot_id)
        if manifest is not None and not self._is_useful(manifest):
            return
        unfinished = self._chunks.setdefault(where.model_key, {})
        unfinished.setdefault(where.snapshot_id, {})[chunk.index] = chunk
        if len(unfinished) > _UNFINISHED:
            oldest = next(iter(unfinished))
            del unfinished[oldest]
            self._refuse(
                oldest, f"Snapshot {oldest} was not written to its end, and newer ones were begun"
            )

    def _complete(self, where: RecordKey) -> Snapshot | None:
        manifest = self.manifests.get(where.snapshot_id)
        if manifest is None:
            return None
        if not self._is_useful(manifest):
            self._drop(where)
            return None
        chunks = self._chunks.get(where.model_key, {}).get(where.snapshot_id, {})
        if len(chunks) < manifest.chunks:
            return None
        self._drop(where)
        try:
            state = self._unseal(manifest, list(chunks.values()))
        except BadRecord as error:
            self._refuse(where.snapshot_id, error.reason)
            return None
        return self._keep(Stored(manifest, state))

    def _is_useful(self, snapshot: Snapshot) -> bool:
        if snapshot.snapshot_id in self._bases:
            return True
        newest = self._newest.get(snapshot.model_key)
        is_newer = newest is None or _age(snapshot) > _age(newest)
        return is_newer and snapshot.snapshot_id not in self.refused and self._wanted(snapshot)

    def _keep(self, stored: Stored) -> Snapshot | None:
        snapshot = stored.snapshot
        self._states[snapshot.snapshot_id] = stored
        if not self._wanted(snapshot):  # a base: somebody else's
            return None
        before = self._newest.get(snapshot.model_key)
        if before is not None:
            if _age(before) >= _age(snapshot):
                return None
            if before.snapshot_id not in self._bases:
                self._states.pop(before.snapshot_id, None)
        self._newest[snapshot.model_key] = snapshot
        return snapshot

    def _drop(self, where: RecordKey) -> None:
        of_key = self._chunks.get(where.model_key, {})
        of_key.pop(where.snapshot_id, None)
        if not of_key:
            self._chunks.pop(where.model_key, None)

    def _forget(self, where: RecordKey) -> None:
        # One tombstone is enough: a snapshot that lacks any record is no snapshot.
        _remember(self._gone, where.snapshot_id, None)
        self._drop(where)
        self.refused.pop(where.snapshot_id, None)
        self.manifests.pop(where.snapshot_id, None)
        self._states.pop(where.snapshot_id, None)
        newest = self._newest.get(where.model_key)
        if newest is not None and newest.snapshot_id == where.snapshot_id:
            del self._newest[where.model_key]

    def _refuse(self, snapshot_id: str, reason: str) -> None:
        _remember(self.refused, snapshot_id, reason)

    def newest(self, model_key: str) -> Stored | None:
        """The newest usable snapshot of a model key, with its state; None if there is none or it was taken."""
        snapshot = self._newest.get(model_key)
        return None if snapshot is None else self._states.get(snapshot.snapshot_id)

    def take(self, model_key: str) -> Stored | None:
        """The same, and let go of the state, which the caller has now; older ones stay ignored."""
        stored = self.newest(model_key)
        if stored is not None and stored.snapshot.snapshot_id not in self._bases:
            del self._states[stored.snapshot.snapshot_id]
        return stored

    def base(self, snapshot_id: str) -> Stored | None:
        """A snapshot that was to be held as a base."""
        return self._states.get(snapshot_id)

    def model_keys(self) -> list[str]:
        """Model keys that have a usable snapshot."""
        return sorted(self._newest)

    def notes(self, most: int = 5) -> list[str]:
        """What to tell of the snapshots that were refused: the last ones in full, of the others how many."""
        reasons = list(dict.fromkeys(self.refused.copy().values()))
        more = len(reasons) - most
        told = [f"refused a snapshot and uses an older one: {reason}" for reason in reasons[-most:]]
        return [*told, f"refused {more} more snapshots"] if more > 0 else told

    def incomplete(self) -> list[bytes]:
        """Keys of chunks whose manifest never came: at a learner's start what a dead one left, to be tombstoned."""
        return [
            str(RecordKey(model_key, snapshot_id, index)).encode()
            for model_key, unfinished in self._chunks.items()
            for snapshot_id, chunks in unfinished.items()
            if snapshot_id not in self.manifests
            for index in chunks
        ]


def _remember(held: dict[str, Any], name: str, value: Any) -> None:
    held[name] = value
    if len(held) > _REMEMBERED:
        del held[next(iter(held))]
