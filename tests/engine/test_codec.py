"""Every record survives the way through bytes, fastavro agrees about each byte, and no bytes get through otherwise."""

from __future__ import annotations

import json
import math
import struct
from contextlib import suppress
from io import BytesIO
from typing import Any, get_args

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core import events
from streams.core.errors import BadRecord, Unavailable
from streams.core.join import request
from streams.engine import avro
from streams.engine.codec import SCHEMAS, Codec, Record, schema_folder, subject, writer

LONG = st.integers(-(2**63), 2**63 - 1)
INT = st.integers(-(2**31), 2**31 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "é" * 99]
)
VALUE = st.none() | st.booleans() | LONG | st.floats() | TEXT
PRIMITIVE: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": INT,
    "long": LONG,
    "double": st.floats(),
    "string": TEXT,
    "bytes": st.binary(max_size=20),
}
PREDICTION = events.Prediction(
    event_id="e1",
    label=True,
    scores={"False": 0.25, "True": 0.75},
    confidence=0.75,
    features={"amount": 12.5, "hour": 3, "country": "NL", "new": True, "age": None},
    text="très bien",
    occurred_at=1_700_000_000_000,
    model_key="",
    model_version=12_345,
    route=events.REVIEW,
    reason="everything",
    probability=1.0,
    explanation=[
        events.Contribution("amount", 12.5, -0.3),
        events.Contribution("country", 1, 0.2, "country_NL"),
    ],
    basis=events.Basis("linear", "logit", True, False, 0.1, -0.05),
)
CODEC = Codec()


def values_of(schema: Any) -> st.SearchStrategy[Any]:
    """What a schema can hold, as our records hold it."""
    match schema:
        case str():
            return PRIMITIVE[schema]
        case list() if schema == avro.VALUE:
            return VALUE
        case list():
            return st.one_of(*map(values_of, schema))
        case {"type": "map", "values": values}:
            return st.dictionaries(TEXT, values_of(values), max_size=70)
        case {"type": "array", "items": items}:
            return st.lists(values_of(items), max_size=3)
    cls = getattr(events, schema["name"].removeprefix("counterpoint."))
    fields = [values_of(field["type"]) for field in schema["fields"]]
    return st.tuples(*fields).map(cls._make)


RECORDS: st.SearchStrategy[Record] = st.one_of(*(values_of(own.schema) for own in SCHEMAS.values()))


def exact(value: Any) -> Any:
    """A value that equals another only if both are the same to the last bit and of the same types."""
    if isinstance(value, float):
        return ("float", struct.pack(">d", value))
    if isinstance(value, dict):
        return {name: exact(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return (type(value), [exact(item) for item in value])
    return (type(value), value)


def plain(value: Any) -> Any:
    """A record as fastavro has it."""
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def by_fastavro(record: Record) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, SCHEMAS[type(record)].schema, plain(record))
    return out.getvalue()


@given(RECORDS)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert exact(CODEC.decode(CODEC.encode("t", record))) == exact(record)


@given(RECORDS)
def test_the_bytes_are_those_of_fastavro(record: Record) -> None:
    """But for NaN, whose payload bits Avro leaves alone and fastavro does too."""
    own = SCHEMAS[type(record)]
    assert CODEC.encode("t", record) == b"\xc3\x01" + own.fingerprint + by_fastavro(record)


@given(st.lists(values_of(SCHEMAS[events.Input].schema), min_size=1, max_size=6))
def test_what_was_read_before_does_not_change_what_is_read(records: list[events.Input]) -> None:
    """Reading learns from the maps that it has seen; twice, so that the second time is by what was learned."""
    codec = Codec()
    for record in records * 2:
        assert exact(codec.decode(codec.encode("t", record))) == exact(record)


@given(
    st.dictionaries(
        TEXT, st.floats() | st.booleans() | st.integers(-70, 70), min_size=2, max_size=4
    ),
    st.data(),
)
def test_maps_that_look_alike_are_told_apart(values: dict[str, Any], data: st.DataObject) -> None:
    """Same names in another order, or with values of other types, after a template was made of the first."""
    names = data.draw(st.permutations(list(values)))
    other = {name: data.draw(VALUE) for name in names}
    for features in (values, other, values):
        record = events.Input("e", features)
        assert exact(CODEC.decode(CODEC.encode("t", record))) == exact(record)


def test_a_map_that_is_often_another_is_learned_anew() -> None:
    read = avro.reader_of({"type": "map", "values": avro.VALUE}, {})
    first: dict[str, Any] = {"a": 1.0, "b": 2.0}
    second: dict[str, Any] = {"c": "x", "d": None}
    third: dict[str, Any] = {"c": 63, "d": -64}
    fourth: dict[str, Any] = {"c": 64, "d": True}
    many = avro.MISSES + 1
    for features in (first, *[second] * many, first, *[third] * 2 * many, fourth, third, first):
        data = avro.write_values(features)
        assert read(data, 0) == (features, len(data))


def test_maps_and_arrays_in_blocks_with_their_size_are_read() -> None:
    """Other writers may cut maps into blocks, and give the size of a block after a negative count."""
    block = b"\x02a\x06" + struct.pack("<d", 0.5)
    sized = b"\x01" + bytes([2 * len(block)]) + block
    for features in (sized + b"\x00", sized + sized.replace(b"a", b"b") + b"\x00"):
        body = b"\x02e" + features + b"\x00\x00"
        data = b"\xc3\x01" + SCHEMAS[events.Input].fingerprint + body
        known = fastavro.schemaless_reader(BytesIO(body), SCHEMAS[events.Input].schema, None)
        assert CODEC.decode(data)._asdict() == known


def test_a_name_twice_in_a_map_is_read_as_fastavro_does() -> None:
    entry = b"\x02a\x06" + struct.pack("<d", 0.5)
    body = b"\x02e\x04" + entry + entry + b"\x00\x00\x00"
    data = b"\xc3\x01" + SCHEMAS[events.Input].fingerprint + body
    assert CODEC.decode(data) == CODEC.decode(data) == events.Input("e", {"a": 0.5})


@pytest.mark.parametrize(
    ("given_value", "stored"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
    ],
)
def test_numpy_values_are_stored_as_what_they_are(given_value: Any, stored: Any) -> None:
    """Models answer with them."""
    record = PREDICTION._replace(label=given_value, features={"a": given_value})
    back = CODEC.decode_as(events.Prediction, CODEC.encode("t", record))
    assert exact((back.label, back.features)) == exact((stored, {"a": stored}))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"label": 2**63}, "label = 9223372036854775808: the integer"),
        ({"features": {"a": -(2**63) - 1}}, "does not fit 64 bits"),
        ({"features": {"a": [1]}}, "expected a number, a string, a boolean or null"),
        ({"features": {1: 1.0}}, "features"),
        ({"features": {"a": "\ud800"}}, "surrogates"),
        ({"scores": {"a": "b"}}, "scores"),
        ({"scores": {"a": 10**400}}, "scores"),
        ({"route": None}, "route = None"),
        ({"model_version": "7"}, "model_version = '7'"),
        ({"model_version": 1.5}, "model_version = 1.5"),
        ({"explanation": [events.Contribution("a", 1.0, None)]}, "weight"),  # type: ignore[arg-type]
        ({"features": {str(n): object() for n in range(99)}}, "..."),
    ],
)
def test_a_value_that_does_not_fit_is_named(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRecord, match="Prediction cannot be written") as refused:
        CODEC.encode("t", PREDICTION._replace(**changed))
    assert told in refused.value.reason
    assert refused.value.event_id == "e1"


def test_positions_of_32_bits_and_truths_are_checked() -> None:
    letter = events.DeadLetter("t", 2**31, 0, 0, None, None, [], "r", "s", "w", None, None, 0)
    define = events.Define("l", "d", "d", "fresh", None, 1, False, "r", "p", "w", "w")  # type: ignore[arg-type]
    for record, told in ((letter, "32 bits"), (define, "replays = 1: expected a bool")):
        with pytest.raises(BadRecord, match=told):
            CODEC.encode("t", record)


ENCODED = CODEC.encode("t", PREDICTION)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "no value"),
        (b"", "no value"),
        (b"\xc3", "starts with c3"),
        (b"\xc3\x01\x00", "inside its header, after 3 bytes"),
        (b"\x00\x00\x01", "inside its header, after 3 bytes"),
        (b"\x01" + ENCODED, "starts with 01 c3 01"),
        (b"{}", "starts with 7b 7d"),
        (b"\xc3\x01" + bytes(8) + b"x", "unknown schema, fingerprint 0000000000000000"),
        (b"\x00\x00\x00\x00\x09x", "schema 9 of a registry, and none is configured"),
        (ENCODED + b"\x00", "1 bytes follow its end"),
        (ENCODED[:10] + b"\x01", "a length of -1"),
        (ENCODED[:10] + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        (ENCODED[:10] + b"\xff" * 10, "more than 64 bits"),
        (ENCODED[:10] + b"\xff" * 5, "truncated"),
        (ENCODED[:10] + b"\x02\xff", "codec can't decode"),
        (ENCODED[:10] + b"\x02a\x0a", "branch 5 of a union of 5"),
        (ENCODED[:10] + b"\x02a\x00" + b"\xfe" * 8 + b"\x7f", "truncated"),
    ],
)
def test_bytes_that_are_no_record_are_told_apart(data: bytes | None, told: str) -> None:
    with pytest.raises(BadRecord) as refused:
        CODEC.decode(data)
    assert told in refused.value.reason


def test_truncated_anywhere_a_record_is_refused() -> None:
    for size in range(len(ENCODED)):
        with pytest.raises(BadRecord):
            CODEC.decode(ENCODED[:size])


USERS = {
    "type": "record",
    "name": "shop.Paid",
    "fields": [
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "lines", "type": {"type": "array", "items": ["null", "string"]}},
        {"name": "mark", "type": {"type": "fixed", "name": "Mark", "size": 4}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    ],
}
OLD_FEEDBACK = {
    "type": "record",
    "name": "counterpoint.Feedback",
    "fields": [
        {"name": "feedback_id", "type": "string"},
        {"name": "event_id", "type": "string"},
        {"name": "verdict", "type": "string"},
        {"name": "label", "type": ["boolean", "int", "null"]},
        {"name": "dropped_since", "type": {"type": "map", "values": "long"}},
    ],
}
HEADS = [
    b"\x00\x00\x00\x00\x01",
    b"\xc3\x01" + writer(USERS).fingerprint,
    b"\xc3\x01" + writer(OLD_FEEDBACK).fingerprint,
    *(b"\xc3\x01" + own.fingerprint for own in SCHEMAS.values()),
]


@settings(max_examples=500)
@given(st.sampled_from([b"", *HEADS]), st.binary(max_size=60) | RECORDS.map(by_fastavro), st.data())
def test_whatever_the_bytes_are_decoding_ends_in_a_record_or_a_bad_record(
    head: bytes, body: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(body)))
    garbled = head + body[:at] + data.draw(st.binary(max_size=3)) + body[at:]
    codec = Codec(older=[USERS, OLD_FEEDBACK])
    for decode in (codec.decode, codec.decode_any):
        with suppress(BadRecord):
            assert decode(garbled) is not None


def test_examples_of_earlier_releases_are_read_and_correct_nothing() -> None:
    """A log is for ever: what was written before a field came is as good as what is written now."""
    folder = schema_folder() / "older"
    made = events.Example(
        event_id="e1",
        model_key="",
        features={"a": 1.0},
        label=True,
        weight=1.0,
        sources=[events.Source("feedback", 0, 7, "f", None, "desk")],
        predicted=False,
        scores={"True": 0.4},
        model_version=3,
        route="review",
        reason="all",
        probability=1.0,
        predicted_at=5,
        answered_at=6,
    )
    for path in sorted(folder.glob("example-*.avsc")):
        old = writer(json.loads(path.read_text()))
        out = BytesIO()
        fields = made._asdict() | {"sources": [source._asdict() for source in made.sources]}
        fastavro.schemaless_writer(out, old.schema, fields)
        read = CODEC.decode_as(events.Example, b"\xc3\x01" + old.fingerprint + out.getvalue())
        assert read == made._replace(corrects=[])


@pytest.mark.parametrize("cls", [events.Prediction, events.Review])
def test_predictions_of_earlier_releases_are_read_and_stand_on_nothing(cls: type[Any]) -> None:
    explanation = [events.Contribution("amount", 12.5, -0.3)]
    made = PREDICTION._replace(explanation=explanation, basis=None)
    if cls is events.Review:
        made = request(made, 5, 1000)  # type: ignore[assignment]  # the same two fields
    for path in sorted((schema_folder() / "older").glob(f"{cls.__name__.lower()}-*.avsc")):
        old = writer(json.loads(path.read_text()))
        out = BytesIO()
        fastavro.schemaless_writer(out, old.schema, plain(made))
        read = CODEC.decode_as(cls, b"\xc3\x01" + old.fingerprint + out.getvalue())
        assert read == made


def test_feedback_of_earlier_releases_is_read_and_is_no_seniors() -> None:
    made = events.Feedback("f", "e", "correct", True, reviewer="ann", senior=True)
    for path in sorted((schema_folder() / "older").glob("feedback-*.avsc")):
        old = writer(json.loads(path.read_text()))
        out = BytesIO()
        fastavro.schemaless_writer(out, old.schema, plain(made))
        read = CODEC.decode_as(events.Feedback, b"\xc3\x01" + old.fingerprint + out.getvalue())
        assert read == made._replace(senior=False)


def test_scores_of_earlier_releases_are_read_and_tell_of_no_detector() -> None:
    made = events.Score("", 3, 2, {"accuracy": 0.5}, 7, [events.Drift("ADWIN", 2, 1, 0.5, None)])
    assert CODEC.decode(CODEC.encode("scores", made)) == made
    old = writer(json.loads((schema_folder() / "older" / "score-1.avsc").read_text()))
    out = BytesIO()
    fastavro.schemaless_writer(out, old.schema, plain(made))
    read = CODEC.decode_as(events.Score, b"\xc3\x01" + old.fingerprint + out.getvalue())
    assert read == made._replace(drifts=None)


def test_a_record_of_an_older_schema_is_read_by_the_schema_it_was_written_with() -> None:
    old = {"feedback_id": "f", "event_id": "e", "verdict": "correct", "label": True}
    out = BytesIO()
    parsed = fastavro.parse_schema(OLD_FEEDBACK)
    fastavro.schemaless_writer(out, parsed, {**old, "dropped_since": {"a": 1}})
    data = b"\xc3\x01" + writer(OLD_FEEDBACK).fingerprint + out.getvalue()
    back = Codec(older=[OLD_FEEDBACK]).decode(data)
    assert exact(back) == exact(events.Feedback("f", "e", "correct", True))
    with pytest.raises(BadRecord, match="unknown schema"):
        CODEC.decode(data)


def test_a_record_of_the_users_own_is_read_as_name_and_fields() -> None:
    out, fields = BytesIO(), {"a": 1, "b": None}
    schema = {
        "type": "record",
        "name": "Own",
        "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "null"}],
    }
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), fields)
    data = b"\xc3\x01" + writer(schema).fingerprint + out.getvalue()
    codec = CODEC.with_schema(schema)
    assert codec.decode_any(data) == ("Own", fields)
    with pytest.raises(BadRecord, match="is a Own, which is none of Counterpoint's"):
        codec.decode(data)


def test_our_own_record_is_read_as_name_and_fields_too() -> None:
    assert CODEC.decode_any(ENCODED) == ("counterpoint.Prediction", plain(PREDICTION))


def test_a_record_of_another_kind_than_asked_for_is_refused() -> None:
    with pytest.raises(BadRecord, match="is a Prediction, expected a Feedback"):
        CODEC.decode_as(events.Feedback, ENCODED)


RECURSIVE = {
    "type": "record",
    "name": "L",
    "fields": [{"name": "next", "type": ["null", "L"]}],
}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "recor"}, "not an Avro schema"),
        ({"type": "array", "items": "int"}, "not the schema of a record"),
        (RECURSIVE, "contains itself"),
        ({"type": "record", "name": "A", "fields": [{"name": "a", "type": "X"}]}, "X"),
        (
            {
                "type": "record",
                "name": "N",
                "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}],
            },
            "take no bytes",
        ),
        (
            {
                "type": "record",
                "name": "M",
                "fields": [
                    {"name": "e", "type": {"type": "record", "name": "Empty", "fields": []}},
                    {"name": "m", "type": {"type": "map", "values": "Empty"}},
                    {"name": "a", "type": {"type": "array", "items": "Empty"}},
                ],
            },
            "take no bytes",
        ),
    ],
)
def test_a_schema_that_bytes_could_attack_us_through_is_refused(
    schema: dict[str, Any], told: str
) -> None:
    """A few hundred kilobytes of a recursive record end the process: fastavro overflows the stack."""
    with pytest.raises(ValueError, match=told):
        Codec(older=[schema])


class FakeRegistry:
    """Ids by position; down when told so."""

    def __init__(self) -> None:
        self.schemas: list[Any] = []
        self.subjects: dict[str, int] = {}
        self.down = False
        self.asked = 0

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        self.schemas.append(schema)
        return self.subjects.setdefault(subject, len(self.schemas))

    def schema(self, schema_id: int) -> dict[str, Any]:
        self.asked += 1
        if self.down:
            raise Unavailable("down")
        if not 0 < schema_id <= len(self.schemas):
            raise BadRecord(f"no schema {schema_id}")
        return self.schemas[schema_id - 1]  # type: ignore[no-any-return]


def test_with_a_registry_records_are_written_in_confluent_framing_and_both_are_read() -> None:
    registry = FakeRegistry()
    codec = Codec(registry)
    data = codec.encode("loop.predictions", PREDICTION)
    assert data == b"\x00\x00\x00\x00\x01" + ENCODED[10:]
    for _ in range(2):
        assert codec.decode(data) == PREDICTION == codec.decode(ENCODED)
    assert registry.subjects == {"loop.predictions-value": 1}
    assert registry.asked == 1


def test_an_older_schema_of_the_registry_is_resolved() -> None:
    registry = FakeRegistry()
    schema_id = registry.register("x", OLD_FEEDBACK)
    out = BytesIO()
    old = {"feedback_id": "f", "event_id": "e", "verdict": "accept", "label": 4}
    fastavro.schemaless_writer(
        out, fastavro.parse_schema(OLD_FEEDBACK), {**old, "dropped_since": {}}
    )
    data = b"\x00" + schema_id.to_bytes(4, "big") + out.getvalue()
    assert Codec(registry).decode(data) == events.Feedback("f", "e", "accept", 4)
    assert Codec(registry).decode_any(data)[0] == "counterpoint.Feedback"


def test_a_registry_that_is_down_is_no_fault_of_the_record() -> None:
    registry = FakeRegistry()
    codec = Codec(registry)
    data = codec.encode("t", PREDICTION)
    registry.down = True
    with pytest.raises(Unavailable):
        codec.decode(data)
    registry.down = False
    assert codec.decode(data) == PREDICTION


def test_a_schema_of_the_registry_that_is_of_no_use_makes_a_bad_record() -> None:
    registry = FakeRegistry()
    registry.schemas = [RECURSIVE, {"type": "string"}]
    for schema_id in (1, 2, 3):
        with pytest.raises(BadRecord, match=r"of no use|no schema 3"):
            Codec(registry).decode(b"\x00" + schema_id.to_bytes(4, "big") + b"x")


def test_records_that_share_a_topic_have_subjects_of_their_own() -> None:
    assert subject("l.examples", events.Example) == "l.examples-counterpoint.Example"
    assert subject("l.inputs", events.Input) == "l.inputs-value"


def test_every_record_has_a_schema_field_for_field() -> None:
    assert set(get_args(Record)) == set(SCHEMAS)
    for cls, own in SCHEMAS.items():
        assert [field["name"] for field in own.schema["fields"]] == list(cls._fields)  # type: ignore[attr-defined]
        assert all(field.get("doc") for field in own.source["fields"])


def test_the_fingerprint_is_the_one_that_avro_specifies() -> None:
    """Little-endian CRC-64-AVRO; for the schema "null" the specification's test data has 7195948357588979594."""
    schema = {"type": "record", "name": "x", "fields": []}
    crc = 0xC15D213AA4D7A795
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (crc & -(byte & 1))
        table.append(byte)
    found = crc
    for byte in b'{"name":"x","type":"record","fields":[]}':
        found = (found >> 8) ^ table[(found ^ byte) & 255]
    assert writer(schema).fingerprint == found.to_bytes(8, "little")


def test_not_a_number_survives() -> None:
    record = PREDICTION._replace(features={"a": math.nan}, confidence=math.inf)
    back = CODEC.decode_as(events.Prediction, CODEC.encode("t", record))
    assert math.isnan(back.features["a"])  # type: ignore[arg-type]
    assert back.confidence == math.inf
