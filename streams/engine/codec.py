"""Records to bytes and back: Avro, in both of the framings that Kafka users meet.

* *single object*: ``C3 01``, the 8-byte CRC-64-AVRO fingerprint of the writer's schema, the body.  Written by default.
* *Confluent*: ``00``, a 4-byte schema id, the body.  Written when a registry is configured.

Both are read, always.  Our own records go through ``avro``; those written with an earlier version of a schema, or with
a user's own, through fastavro.  Whatever the bytes are, what is wrong with them is told by BadRecord.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, fingerprint, to_parsing_canonical_form
from fastavro.validation import ValidationError

from streams.core import events
from streams.core.errors import BadRecord
from streams.engine import avro

Record: TypeAlias = (
    events.Input
    | events.Prediction
    | events.Review
    | events.Feedback
    | events.Example
    | events.Define
    | events.Exclusion
    | events.Outcome
    | events.Snapshot
    | events.Chunk
    | events.Score
    | events.Status
    | events.DeadLetter
)
R = TypeVar("R", bound=Record)

SINGLE_OBJECT = b"\xc3\x01"
CONFLUENT = b"\x00"
SHARING = (events.Example, events.Define, events.Exclusion, events.Snapshot, events.Chunk)
"""Records that share a topic with others: each has its own subject there."""
MALFORMED = (*avro.MALFORMED, SchemaResolutionError, ValidationError, AssertionError)
"""What fastavro raises on bytes that are not what the schema says."""


class Registry(Protocol):
    """A schema registry, which may be down: both raise Unavailable then."""

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        """Return the id of the schema, registering it under the subject unless it is there."""

    def schema(self, schema_id: int) -> dict[str, Any]:
        """Return the schema of an id; BadRecord if there is none."""


class Writer(NamedTuple):
    """A schema that bytes were written with: as given, and parsed."""

    name: str
    source: dict[str, Any]
    schema: dict[str, Any]
    fingerprint: bytes


def writer(schema: dict[str, Any]) -> Writer:
    """Parse a record's schema; ValueError in words if it is none, or one that bytes could attack us through."""
    try:
        parsed = parse_schema(schema)
    except (SchemaParseException, *MALFORMED) as error:
        raise ValueError(f"not an Avro schema: {error}") from error
    if not isinstance(parsed, dict) or parsed.get("type") != "record":
        raise ValueError("not the schema of a record")
    _refuse_bombs(parsed, (), set())
    canonical = to_parsing_canonical_form(parsed)
    mark = bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))
    return Writer(parsed["name"], schema, parsed, mark)


def _refuse_bombs(schema: Any, inside: tuple[str, ...], empty: set[str]) -> bool:
    """Refuse what a few bytes can blow up: recursion (fastavro overflows the stack) and arrays of nothing.

    Returns whether a value of the schema may take no bytes at all.
    """
    if isinstance(schema, list):
        for branch in schema:
            _refuse_bombs(branch, inside, empty)
        return False
    if isinstance(schema, str):
        if schema in inside:
            raise ValueError(f"{schema} contains itself: recursive records are not read")
        return schema == "null" or schema in empty
    kind = schema["type"]
    if kind in ("record", "error"):
        within = (*inside, schema["name"])
        fields = [_refuse_bombs(field["type"], within, empty) for field in schema["fields"]]
        if all(fields):
            empty.add(schema["name"])
        return all(fields)
    if kind == "array" and _refuse_bombs(schema["items"], inside, empty):
        raise ValueError("an array of items that take no bytes: its length cannot be trusted")
    if kind == "map":
        _refuse_bombs(schema["values"], inside, empty)
    return bool(kind == "null" or (kind == "fixed" and schema["size"] == 0))


def schema_folder() -> Path:
    """The ``schemas`` folder: inside the installed package, or beside it in the source tree."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "schemas"
    return inside if inside.is_dir() else package.parent / "schemas"


def _own_schemas() -> dict[type, Writer]:
    schemas = (json.loads(path.read_text()) for path in sorted(schema_folder().glob("*.avsc")))
    return {getattr(events, schema["name"]): writer(schema) for schema in schemas}


SCHEMAS: Mapping[type, Writer] = _own_schemas()
"""Our records and their schemas."""
OLDER = tuple(
    writer(json.loads(path.read_text()))
    for path in sorted(schema_folder().joinpath("older").glob("*.avsc"))
)
"""The schemas that earlier releases wrote our records with."""
_NESTED = (
    events.Source,
    events.Corrected,
    events.Excluded,
    events.Contribution,
    events.Basis,
    events.Check,
    events.Drift,
    events.Position,
    events.Header,
)
_CLASSES: Mapping[str, type] = {
    **{f"counterpoint.{cls.__name__}": cls for cls in _NESTED},
    **{own.name: cls for cls, own in SCHEMAS.items()},
}
_WRITES = {cls: avro.writer_of(own.schema) for cls, own in SCHEMAS.items()}
_READS = {own.name: avro.reader_of(own.schema, _CLASSES) for own in SCHEMAS.values()}
_OWN = {own.name: own for own in SCHEMAS.values()}


def subject(topic: str, cls: type) -> str:
    """The registry's name for the schema of a record on a topic."""
    return f"{topic}-{SCHEMAS[cls].name}" if cls in SHARING else f"{topic}-value"


class Codec:
    """Encodes and decodes the records of Counterpoint, and decodes those of others.

    Args:
        registry: Where schemas have their ids; without one, records are written as single objects.
        older: More schemas that records may have been written with: earlier versions of ours, or a user's own.
    """

    def __init__(
        self, registry: Registry | None = None, older: Iterable[dict[str, Any]] = ()
    ) -> None:
        self.registry = registry
        self.older = tuple(older)
        self._writers = {
            SINGLE_OBJECT + one.fingerprint: one
            for one in (*map(writer, self.older), *OLDER, *SCHEMAS.values())
        }
        self._reads = {
            SINGLE_OBJECT + own.fingerprint: (_READS[own.name], 10) for own in SCHEMAS.values()
        }
        self._encoders: dict[tuple[type, str], Callable[[Any], bytes]] = {}

    def encode(self, topic: str, record: Record) -> bytes:
        """Bytes of a record for a topic; BadRecord if a value does not fit its schema."""
        encode = self._encoders.get((type(record), topic))
        if encode is None:
            encode = self._encoders[type(record), topic] = self.encoder(type(record), topic)
        return encode(record)

    def encoder(self, cls: type[R], topic: str) -> Callable[[R], bytes]:
        """The encoder of one kind of record for one topic, for hot loops to keep; Unavailable like the registry."""
        write, head = _WRITES[cls], self._head(topic, cls)

        def encode(record: R) -> bytes:
            try:
                return head + write(record)
            except avro.Misfit as error:
                reason = f"{cls.__name__} cannot be written: {error}"
                raise BadRecord(reason, event_id=getattr(record, "event_id", None)) from error

        return encode

    def decode(self, data: bytes | None) -> Record:
        """The record that the bytes hold."""
        if not data:
            raise BadRecord("the record has no value")
        found = self._reads.get(data[:5] if data[0] == 0 else data[:10])
        if found is None:
            return self._decode_new(data)
        read, start = found
        try:
            record, end = read(data, start)
        except avro.MALFORMED as error:
            raise BadRecord(_not_whole(data, error)) from error
        if end != len(data):
            raise BadRecord(_not_whole(data, None) if end > len(data) else _too_long(data, end))
        return record  # type: ignore[no-any-return]

    def _decode_new(self, data: bytes) -> Record:
        """Decode what no compiled reader was found for: the first of a registry's id, or an older schema."""
        written, start = self.open(data)
        own = _OWN.get(written.name)
        if own is None:
            raise BadRecord(f"the record is a {written.name}, which is none of Counterpoint's")
        if written.fingerprint == own.fingerprint:
            self._reads[data[:start]] = (_READS[own.name], start)
            return self.decode(data)
        return _resolved(written, own, data, start)

    def decode_as(self, cls: type[R], data: bytes | None) -> R:
        """The record that the bytes hold; BadRecord if it is of another kind."""
        record = self.decode(data)
        if not isinstance(record, cls):
            raise BadRecord(
                f"the record is a {type(record).__name__}, expected a {cls.__name__}: "
                "was it sent to the wrong topic?"
            )
        return record

    def decode_any(self, data: bytes | None) -> tuple[str, dict[str, Any]]:
        """Full name and fields of any record whose schema is known here or to the registry."""
        written, fields = self.decode_fields(data)
        return written.name, fields

    def decode_fields(self, data: bytes | None) -> tuple[Writer, dict[str, Any]]:
        """The writer's schema and the fields of any record whose schema is known here or to the registry."""
        if not data:
            raise BadRecord("the record has no value")
        written, start = self.open(data)
        return written, _fields(written, data, start)

    def open(self, data: bytes) -> tuple[Writer, int]:
        """The schema that bytes were written with, and where their body starts."""
        start = 5 if data[:1] == CONFLUENT else 10
        found = self._writers.get(data[:start])
        if found is None:
            found = self._writers[data[:start]] = self._ask(data)
        return found, start

    def with_schema(self, schema: dict[str, Any]) -> Codec:
        """This codec, which knows one more schema."""
        return Codec(self.registry, (*self.older, schema))

    def _head(self, topic: str, cls: type) -> bytes:
        own = SCHEMAS[cls]
        if self.registry is None:
            return SINGLE_OBJECT + own.fingerprint
        schema_id = self.registry.register(subject(topic, cls), own.source)
        return CONFLUENT + schema_id.to_bytes(4, "big")

    def _ask(self, data: bytes) -> Writer:
        if data[:1] != CONFLUENT or len(data) < 5:
            raise BadRecord(_no_schema(data))
        schema_id = int.from_bytes(data[1:5], "big")
        if self.registry is None:
            raise BadRecord(
                f"written with schema {schema_id} of a registry, and none is configured: "
                "set COUNTERPOINT_REGISTRY_URL"
            )
        try:
            return writer(self.registry.schema(schema_id))
        except ValueError as error:
            raise BadRecord(f"schema {schema_id} of the registry is of no use: {error}") from error


def _fields(
    written: Writer, data: bytes, start: int, reader: dict[str, Any] | None = None
) -> dict[str, Any]:
    stream = BytesIO(data)
    stream.seek(start)
    try:
        fields: Any = schemaless_reader(stream, written.schema, reader)
    except MALFORMED as error:
        raise BadRecord(_not_whole(data, error)) from error
    if stream.tell() != len(data):
        raise BadRecord(_too_long(data, stream.tell()))
    return fields  # type: ignore[no-any-return]


def _resolved(written: Writer, own: Writer, data: bytes, start: int) -> Record:
    """A record of ours written with another version of its schema, by Avro's rules of schema resolution."""
    out = BytesIO()
    fields = _fields(written, data, start, own.schema)
    try:
        schemaless_writer(out, own.schema, fields)
        record, _ = _READS[own.name](out.getvalue(), 0)
    except MALFORMED as error:
        raise BadRecord(_not_whole(data, error)) from error
    return record  # type: ignore[no-any-return]


def _not_whole(data: bytes, error: Exception | None) -> str:
    if error is None or isinstance(error, EOFError | IndexError):
        return f"the record ends too early, after {len(data)} bytes (truncated?)"
    return f"the record is not what its schema says: {str(error) or type(error).__name__}"


def _too_long(data: bytes, end: int) -> str:
    return f"the record is longer than its schema says: {len(data) - end} bytes follow its end"


def _no_schema(data: bytes) -> str:
    if data[:1] == CONFLUENT or (data[:2] == SINGLE_OBJECT and len(data) < 10):
        return f"the record ends inside its header, after {len(data)} bytes (truncated?)"
    if data[:2] == SINGLE_OBJECT:
        return (
            f"written with an unknown schema, fingerprint {data[2:10].hex()}: "
            "give that schema to the source, or to the codec as an older one"
        )
    return (
        f"the record starts with {data[:4].hex(' ')}: neither Avro single-object (c3 01) "
        "nor Confluent framing (00)"
    )
