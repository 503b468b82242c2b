"""The user's records to ours: inputs and labels out of topics with their own formats and field names.

A payload tells its form by its first bytes: ``00`` Confluent, ``C3 01`` a single object, else a JSON object.  An Avro
body without either is not guessed at.  What is wrong with a record is told by BadRecord, with its event id if that
could be read.  The readers are closures, made once, since each record passes through one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import UUID

from streams.core.errors import BadRecord, ConfigError, Mistake
from streams.core.events import Features, Input, Label, Value
from streams.core.model import BINARY, REGRESSION
from streams.engine.codec import CONFLUENT, SINGLE_OBJECT, Codec, Writer, writer

if TYPE_CHECKING:
    from streams.loop import Source

Fields: TypeAlias = dict[str, Any]
Read: TypeAlias = Callable[[bytes], tuple[Writer | None, Fields]]
"""A payload to its fields, and the schema they were written with; JSON has none."""

MAX_ID_BYTES = 512
SURELY_SHORT = MAX_ID_BYTES // 4
AVRO = (SINGLE_OBJECT[0], CONFLUENT[0])
"""How a record begins that is not JSON."""
LONGS = range(-(2**63), 2**63)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
TELLING = frozenset({"null", "boolean", "int", "long", "float", "double", "string", "enum"})
"""The Avro types whose values can be features; of the logical types only these two kinds can."""
TELLING_LOGICAL = frozenset({"decimal", "uuid"})


class LabelRecord(NamedTuple):
    """What a record of a label topic says."""

    event_id: str
    label: Label
    reviewer: str | None
    comment: str | None = None


def input_reader(source: Source, codec: Codec) -> Callable[[bytes | None, bytes | None], Input]:
    """What turns the key and value of a source's record into an input.

    Raises:
        ConfigError: The source's schema cannot be used.
    """
    take = _declared(source.feature_types) if source.feature_types is not None else None
    own = _own_reader(take)
    codec = _codec_of(source, codec)
    if source.topic is None:
        return _own_source(codec, own)
    theirs = _their_reader(source, take)

    def read(key: bytes | None, value: bytes | None) -> Input:
        schema, fields = _fields(codec, value)
        if schema is not None and schema.name == "counterpoint.Input":
            return own(codec.decode_as(Input, value))
        return theirs(schema, fields)

    return read


def label_reader(
    source: Source, codec: Codec, classes: Iterable[Label], task: str
) -> Callable[[bytes | None, bytes | None], LabelRecord]:
    """What turns the key and value of a label topic's record into a label.

    Raises:
        ConfigError: The source's schema cannot be used.
    """
    codec = _codec_of(source, codec)
    check = _label_check(task, tuple(classes))
    name, by = source.label, source.reviewer

    def read(key: bytes | None, value: bytes | None) -> LabelRecord:
        _, fields = _fields(codec, value)
        event_id = _event_id(fields, source.event_id)
        if callable(name):
            label = name(fields)
        elif name in fields:
            label = fields[name]
        else:
            raise BadRecord(_no_field("label", str(name), fields), event_id=event_id)
        reviewer = fields.get(by) if by else None
        try:
            return LabelRecord(event_id, check(label), _text(by, _plain(reviewer)))
        except BadRecord as error:
            raise BadRecord(error.reason, event_id=event_id) from error

    return read


def _codec_of(source: Source, codec: Codec) -> Codec:
    if source.schema is None:
        return codec
    try:
        schema = source.schema
        if isinstance(schema, Path):
            schema = json.loads(schema.read_text())
        writer(schema)
    except (OSError, ValueError, RecursionError) as error:
        expected = f"the Avro schema of a record, or the path of its .avsc file: {error}"
        raise ConfigError([Mistake("schema", source.schema, expected)]) from error
    return codec.with_schema(schema)


def _fields(codec: Codec, value: bytes | None) -> tuple[Writer | None, Fields]:
    if not value:
        raise BadRecord("the record has no value")
    if value[:1] == CONFLUENT or value[:2] == SINGLE_OBJECT:
        return codec.decode_fields(value)
    return None, _json(value)


def _json(value: bytes) -> Fields:
    try:
        text = value.decode()
        record = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text or "\\uD" in text:  # half a character, which no bytes can hold?
            json.dumps(record, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        if value.lstrip()[:1] == b"{":
            raise BadRecord(f"not JSON: {error}") from error
        reason = (
            f"the record starts with {value[:4].hex(' ')}: neither Avro single-object (c3 01), "
            "nor Confluent framing (00), nor a JSON object"
        )
        raise BadRecord(reason) from error
    if not isinstance(record, dict):
        raise BadRecord(f"JSON, but a {type(record).__name__} and not an object")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; leave the field out or make it null")


def _own_source(
    codec: Codec, own: Callable[[Input], Input]
) -> Callable[[bytes | None, bytes | None], Input]:
    """The default source: our Input, or JSON of the same form."""
    decode = codec.decode

    def read(key: bytes | None, value: bytes | None) -> Input:
        if not value or value[0] not in AVRO:
            return own(_json_input(codec, value))
        record = decode(value)
        return own(record if type(record) is Input else codec.decode_as(Input, value))

    return read


def _json_input(codec: Codec, value: bytes | None) -> Input:
    _, fields = _fields(codec, value)
    event_id = _event_id(fields, "event_id")
    features = fields.get("features")
    if not isinstance(features, dict):
        raise BadRecord("the JSON record has no object 'features'", event_id=event_id)
    happened = fields.get("occurred_at")
    try:
        text, occurred_at = _text("text", fields.get("text")), _time("occurred_at", happened)
    except BadRecord as error:
        raise BadRecord(error.reason, event_id=event_id) from error
    return Input(event_id, _Json(features), text, occurred_at)


class _Json(dict[str, Any]):
    """Features out of JSON, which tells no types."""


Take: TypeAlias = Callable[[Mapping[str, Any]], dict[str, Value]]


def _own_reader(take: Take | None) -> Callable[[Input], Input]:
    def read(record: Input) -> Input:
        event_id, features, text, occurred_at = record
        if not event_id or len(event_id) > SURELY_SHORT:
            check_id("the event id event_id", event_id)
        try:
            if take is not None:
                return Input(event_id, take(features), text, occurred_at)
            if type(features) is _Json:
                raise BadRecord(UNDECLARED)
            _check_finite(features)
        except BadRecord as error:
            raise BadRecord(error.reason, event_id=event_id) from error
        return record

    return read


UNDECLARED = (
    "JSON tells no types: declare them in the source, features={'amount': float, 'country': str}"
)


def _their_reader(source: Source, take: Take | None) -> Callable[[Writer | None, Fields], Input]:
    id_field, text_field, time_field = source.event_id, source.text, source.occurred_at
    apart = {id_field, text_field, time_field, source.label, source.reviewer}
    by_schema: dict[bytes, Take] = {}

    def taker(schema: Writer | None) -> Take:
        if schema is None:
            raise BadRecord(UNDECLARED)
        known = by_schema.get(schema.fingerprint)
        if known is None:
            known = by_schema[schema.fingerprint] = _undeclared(schema, apart)
        return known

    def read(schema: Writer | None, fields: Fields) -> Input:
        event_id = fields.get(id_field)
        if type(event_id) is not str or not event_id or len(event_id) > SURELY_SHORT:
            event_id = _event_id(fields, id_field)
        try:
            return Input(
                event_id,
                (take or taker(schema))(fields),
                _text(text_field, fields.get(text_field)) if text_field else None,
                _time(time_field, fields.get(time_field)) if time_field else None,
            )
        except BadRecord as error:
            raise BadRecord(error.reason, event_id=event_id) from error

    return read


def _declared(types: Mapping[str, type]) -> Take:
    """What takes the declared features out of a record, by their types."""
    names, kinds = tuple(types), tuple(types.values())
    get = itemgetter(*names) if len(names) > 1 else None
    integers = [name for name, kind in types.items() if kind is int]

    def take(fields: Mapping[str, Any]) -> dict[str, Value]:
        if get is not None:
            try:
                values = get(fields)
            except KeyError:
                return one_by_one(fields)
            if tuple(map(type, values)) == kinds:
                return checked(dict(zip(names, values)))  # noqa: B905 (half the time without)
        return one_by_one(fields)

    def one_by_one(fields: Mapping[str, Any]) -> dict[str, Value]:
        return checked({name: _typed(name, kind, fields) for name, kind in types.items()})

    def checked(features: dict[str, Value]) -> dict[str, Value]:
        _check_finite(features)
        for name in integers:
            _check_long(name, features[name])
        return features

    return take


def _typed(name: str, kind: type, fields: Mapping[str, Any]) -> Value:
    if name not in fields:
        raise BadRecord(_no_field("feature", name, fields))
    value: Value = _plain(fields[name])
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise BadRecord(f"feature {name} is too large for a float") from error
    if value is not None and type(value) is not kind:
        found = f"{type(value).__name__} {_short(value)}"
        raise BadRecord(f"feature {name} is {found}, expected {kind.__name__}")
    return value


def _undeclared(schema: Writer, apart: set[Any]) -> Take:
    """What takes every field that can be a feature, by the schema that the record was written with."""
    kinds = {field["name"]: field["type"] for field in schema.schema["fields"]}
    names = tuple(
        name for name, kind in kinds.items() if name not in apart and _tells(kind, schema)
    )
    objects = [name for name in names if "logicalType" in str(kinds[name])]
    get = itemgetter(*names) if len(names) > 1 else lambda fields: tuple(map(fields.get, names))

    def take(fields: Mapping[str, Any]) -> dict[str, Value]:
        features = dict(zip(names, get(fields)))  # noqa: B905 (half the time without)
        for name in objects:
            features[name] = _plain(features[name])
        _check_finite(features)
        return features

    return take


def _tells(kind: Any, schema: Writer) -> bool:
    """Whether the values of an Avro type are features: plain ones, or a choice among such."""
    if isinstance(kind, list):
        return all(_tells(branch, schema) for branch in kind)
    if isinstance(kind, str):
        named = schema.schema.get("__named_schemas", {}).get(kind)
        return kind in TELLING if named is None else _tells(named, schema)
    if "logicalType" in kind:
        return kind["logicalType"] in TELLING_LOGICAL
    return kind["type"] in TELLING


def _plain(value: Any) -> Any:
    """A number as a number and an identity as its text, where Avro's logical types make objects of them."""
    if type(value) is Decimal:
        return float(value)
    if type(value) is UUID:
        return str(value)
    return value


def _check_finite(features: Features) -> None:
    """Refuse NaN and infinities.  None is among numbers whose sum is finite, so most maps cost one sum."""
    try:
        total: float = sum(features.values())  # type: ignore[arg-type]  # raises if there is text or null
    except (TypeError, OverflowError):
        total = sum([value for value in features.values() if type(value) is float])
    if isfinite(total):
        return
    for name, value in features.items():
        if type(value) is float and not isfinite(value):
            raise BadRecord(f"feature {name} is {value}, expected a finite number or null")


def _check_long(name: str, value: Value) -> None:
    if value is not None and value not in LONGS:
        raise BadRecord(f"feature {name} is {_short(value)}, expected an integer of 64 bits")


def _event_id(fields: Fields, name: str) -> str:
    if name not in fields:
        raise BadRecord(_no_field("event id", name, fields))
    value = _plain(fields[name])
    return check_id(f"the event id {name}", str(value) if type(value) is int else value)


def check_id(what: str, value: Any) -> str:
    """The id, if it is one: text that is not empty, and short enough for a key."""
    if not isinstance(value, str):
        found = f"{type(value).__name__} {_short(value)}"
        raise BadRecord(f"{what} is {found}, expected a string or an integer")
    if not value:
        raise BadRecord(f"{what} is empty")
    size = len(value.encode())
    if size > MAX_ID_BYTES:
        reason = f"{what} has {size:,} bytes of UTF-8, more than {MAX_ID_BYTES}"
        raise BadRecord(f"{reason}: {_short(value)}")
    return value


def _text(name: str | None, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise BadRecord(f"{name} is {type(value).__name__} {_short(value)}, expected text")


def _time(name: str, value: Any) -> int | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise BadRecord(f"{name} is {_short(value)}, expected ISO 8601: {error}") from error
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (aware - EPOCH) // MILLISECOND
    if value is None or (type(value) is int and value in LONGS):
        return value
    expected = "milliseconds since the epoch, or a time as ISO 8601"
    raise BadRecord(f"{name} is {type(value).__name__} {_short(value)}, expected {expected}")


def _label_check(task: str, classes: tuple[Label, ...]) -> Callable[[Any], Label]:
    if task == REGRESSION:
        return _number
    by_type = {(type(label), label): label for label in classes}
    if task == BINARY:
        by_type |= {(int, int(bool(label))): label for label in classes}
    expected = " or ".join(repr(label) for label in classes)

    def check(value: Any) -> Label:
        value = _plain(value)
        try:
            return by_type[type(value), value]
        except (KeyError, TypeError) as error:
            found = f"{type(value).__name__} {_short(value)}"
            raise BadRecord(f"the label is {found}, expected {expected}") from error

    return check


def _number(value: Any) -> Label:
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        found = f"{type(value).__name__} {_short(value)}"
        raise BadRecord(f"the label is {found}, expected a number")
    if (isinstance(value, int) and value not in LONGS) or not isfinite(value):
        raise BadRecord(f"the label is {_short(value)}, expected a finite number of 64 bits")
    return value


def _no_field(what: str, name: str, fields: Mapping[str, Any]) -> str:
    return f"no field {name!r} for the {what}; the record has {_short(', '.join(fields) or 'none')}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
