"""The user's records become inputs and labels; what is wrong with one is told by field and value."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.errors import BadRecord, ConfigError
from streams.core.events import Feedback, Input
from streams.core.model import BINARY, MULTICLASS, REGRESSION
from streams.engine.codec import Codec, writer
from streams.engine.sources import LabelRecord, input_reader, label_reader
from streams.loop import Source

CODEC = Codec()


def fields(*given_fields: tuple[str, Any]) -> dict[str, Any]:
    return {
        "type": "record",
        "name": "shop.Paid",
        "fields": [{"name": name, "type": kind} for name, kind in given_fields],
    }


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


PAID = fields(
    ("payment", "string"),
    ("amount", ["null", "double"]),
    ("hour", "int"),
    ("new", "boolean"),
    ("country", {"type": "enum", "name": "Country", "symbols": ["NL", "BE"]}),
    ("note", ["null", "string"]),
    ("paid_at", logical("long", "timestamp-millis")),
    ("total", logical("bytes", "decimal", precision=9, scale=2)),
    ("device", logical("string", "uuid")),
    ("day", logical("int", "date")),
    ("lines", {"type": "array", "items": "string"}),
    ("home", "Country"),
)
PAYMENT = {
    "payment": "p1",
    "amount": 12.5,
    "hour": 3,
    "new": True,
    "country": "NL",
    "note": "hello",
    "paid_at": datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
    "total": Decimal("1.25"),
    "device": UUID(int=1),
    "day": date(2026, 1, 2),
    "lines": ["a"],
    "home": "BE",
}
PAID_MS = 1_767_323_045_678
PAYMENTS = Source("payments", event_id="payment", text="note", occurred_at="paid_at", schema=PAID)


def avro(schema: dict[str, Any], record: dict[str, Any]) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)
    return b"\xc3\x01" + writer(schema).fingerprint + out.getvalue()


def as_json(**record: Any) -> bytes:
    return json.dumps(record).encode()


def read(source: Source, value: bytes | None) -> Input:
    return input_reader(source, CODEC)(None, value)


def refused(source: Source, value: bytes | None) -> BadRecord:
    with pytest.raises(BadRecord) as caught:
        read(source, value)
    return caught.value


# The loop's own inputs


def test_an_input_of_the_loops_own_passes_as_it_is() -> None:
    record = Input("e1", {"a": 1.5, "b": 2, "c": "x", "d": None, "e": True}, "text", 5)
    assert read(Source(), CODEC.encode("t", record)) == record


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("others", [{}, {"z": "text", "y": None}, {"z": 1.0}])
def test_a_feature_that_is_no_finite_number_is_named(value: float, others: dict[str, Any]) -> None:
    data = CODEC.encode("t", Input("e1", {**others, "amount": value}))
    for source in (Source(), Source(features={"amount": float})):
        error = refused(source, data)
        assert error.reason == f"feature amount is {value}, expected a finite number or null"
        assert error.event_id == "e1"


def test_numbers_that_are_large_together_are_finite_all_the_same() -> None:
    record = Input("e1", {"a": 1.7e308, "b": 1.7e308, "c": 2**62})
    assert read(Source(), CODEC.encode("t", record)) == record


@pytest.mark.parametrize(
    ("event_id", "told"),
    [
        ("", "the event id event_id is empty"),
        ("x" * 513, "has 513 bytes of UTF-8, more than 512"),
        ("é" * 257, "has 514 bytes of UTF-8, more than 512"),
    ],
)
def test_an_event_id_that_cannot_be_a_key_is_refused(event_id: str, told: str) -> None:
    for data in (
        CODEC.encode("t", Input(event_id, {})),
        as_json(event_id=event_id, features={}),
    ):
        assert told in refused(Source(features={}), data).reason
    user = Source("t", features={})
    assert told in refused(user, as_json(event_id=event_id)).reason


@pytest.mark.parametrize("event_id", ["x" * 512, "é" * 256, "😀"])
def test_an_event_id_may_have_512_bytes(event_id: str) -> None:
    assert read(Source(), CODEC.encode("t", Input(event_id, {}))).event_id == event_id


def test_declared_features_are_checked_in_the_loops_own_inputs_too() -> None:
    source = Source(features={"a": float, "b": "int"})
    record = Input("e1", {"a": 1, "b": 2, "other": "x"})
    assert read(source, CODEC.encode("t", record)) == Input("e1", {"a": 1.0, "b": 2})
    error = refused(source, CODEC.encode("t", Input("e1", {"a": "x", "b": 2})))
    assert (error.reason, error.event_id) == ("feature a is str 'x', expected float", "e1")


def test_the_loops_own_inputs_may_be_json_of_the_same_form() -> None:
    source = Source(features={"a": float, "b": str})
    data = as_json(event_id=7, features={"a": 1, "b": None}, text="t", occurred_at="2026-01-01")
    assert read(source, data) == Input("7", {"a": 1.0, "b": None}, "t", 1_767_225_600_000)
    assert "no object 'features'" in refused(source, as_json(event_id="e")).reason
    error = refused(Source(), data)
    assert ("JSON tells no types" in error.reason, error.event_id) == (True, "7")
    assert "text is int 3" in refused(source, as_json(event_id="e", features={}, text=3)).reason


def test_another_record_of_ours_is_not_an_input() -> None:
    data = CODEC.encode("t", Feedback("f", "e", "accept"))
    assert refused(Source(), data).reason.startswith("the record is a Feedback, expected a Input")


def test_inputs_of_ours_on_the_users_topic_are_read_as_such() -> None:
    record = Input("e1", {"a": 1.0})
    assert read(Source("elsewhere", event_id="id"), CODEC.encode("t", record)) == record


# The user's own Avro


def test_the_fields_that_can_be_features_are_found_by_the_schema() -> None:
    found = read(PAYMENTS, avro(PAID, PAYMENT))
    assert found == Input(
        event_id="p1",
        features={
            "amount": 12.5,
            "hour": 3,
            "new": True,
            "country": "NL",
            "total": 1.25,
            "device": str(UUID(int=1)),
            "home": "BE",
        },
        text="hello",
        occurred_at=PAID_MS,
    )
    assert type(found.features["new"]) is bool


def test_fields_of_label_and_reviewer_are_no_features() -> None:
    schema = fields(("event_id", "long"), ("a", "double"), ("fraud", "boolean"), ("who", "string"))
    source = Source("t", schema=schema, label="fraud", reviewer="who")
    data = avro(schema, {"event_id": 7, "a": 1.0, "fraud": True, "who": "ann"})
    assert read(source, data) == Input("7", {"a": 1.0})


def test_declared_features_are_taken_and_no_others() -> None:
    types = {"amount": float, "hour": float, "new": bool, "country": str, "device": str}
    source = Source("payments", event_id="payment", schema=PAID, features={**types, "total": float})
    assert read(source, avro(PAID, PAYMENT)).features == {
        "amount": 12.5,
        "hour": 3.0,
        "new": True,
        "country": "NL",
        "device": str(UUID(int=1)),
        "total": 1.25,
    }


def test_null_is_allowed_whatever_was_declared() -> None:
    source = Source("payments", event_id="payment", schema=PAID, features={"amount": float})
    assert read(source, avro(PAID, PAYMENT | {"amount": None})).features == {"amount": None}


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"country": float}, "feature country is str 'NL', expected float"),
        ({"new": int}, "feature new is bool True, expected int"),
        ({"new": float}, "feature new is bool True, expected float"),
        ({"hour": bool}, "feature hour is int 3, expected bool"),
        ({"amount": int}, "feature amount is float 12.5, expected int"),
        ({"hour": str}, "feature hour is int 3, expected str"),
        ({"lines": str}, "feature lines is list ['a'], expected str"),
        ({"day": int}, "feature day is date datetime.date(2026, 1, 2), expected int"),
        ({"price": float}, "no field 'price' for the feature; the record has"),
        ({"hour": int, "price": float}, "no field 'price' for the feature; the record has"),
    ],
)
def test_a_feature_that_is_not_as_declared_is_told(declared: Any, told: str) -> None:
    source = Source("payments", event_id="payment", schema=PAID, features=declared)
    error = refused(source, avro(PAID, PAYMENT))
    assert error.reason.startswith(told)
    assert error.event_id == "p1"


def test_a_field_that_is_not_there_is_told_with_those_that_are() -> None:
    source = Source("payments", event_id="id", schema=PAID)
    error = refused(source, avro(PAID, PAYMENT))
    assert error.reason.startswith(
        "no field 'id' for the event id; the record has 'payment, amount"
    )


def test_one_schema_more_or_less_makes_other_features() -> None:
    """A registry's topic may carry several versions of a schema; each tells its own features."""
    schemas = [
        fields(("event_id", "string")),
        fields(("event_id", "string"), ("a", "int")),
        fields(("event_id", "string"), ("a", "int"), ("b", ["null", "string", "int"])),
    ]
    take = input_reader(Source("t"), Codec(older=schemas))
    record = {"event_id": "e", "a": 1, "b": None}
    found = [take(None, avro(schema, record)).features for schema in schemas]
    assert found == [{}, {"a": 1}, {"a": 1, "b": None}]


def test_a_schema_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "paid.avsc"
    path.write_text(json.dumps(PAID))
    source = Source("payments", event_id="payment", schema=path, features={"hour": int})
    assert read(source, avro(PAID, PAYMENT)).features == {"hour": 3}


@pytest.mark.parametrize("text", ["{", '{"type": "string"}', None])
def test_a_schema_that_is_none_is_a_mistake_in_the_source(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "x.avsc"
    if text is not None:
        path.write_text(text)
    source = Source("t", schema=path, label="x")
    with pytest.raises(ConfigError, match=r"schema = .*x\.avsc.*: the Avro schema of a record"):
        input_reader(source, CODEC)
    with pytest.raises(ConfigError, match="schema"):
        label_reader(source, CODEC, (), REGRESSION)


# The user's own JSON

JSON = Source(
    "payments",
    event_id="id",
    features={"amount": float, "n": int, "country": str, "new": bool},
    text="note",
    occurred_at="at",
)
GOOD = {"id": "p1", "amount": 2, "n": 3, "country": "é", "new": False, "note": "x", "at": 5}


def test_json_objects_are_read_by_what_was_declared() -> None:
    expected = Input("p1", {"amount": 2.0, "n": 3, "country": "é", "new": False}, "x", 5)
    found = read(JSON, as_json(**GOOD))
    assert found == expected
    assert [type(value) for value in found.features.values()] == [float, int, str, bool]
    assert read(JSON, b" \n" + as_json(**GOOD, nested={"a": [1]})) == expected


def test_json_without_declared_features_is_refused() -> None:
    error = refused(Source("t", event_id="id"), as_json(**GOOD))
    assert ("JSON tells no types" in error.reason, error.event_id) == (True, "p1")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "the record has no value"),
        (b"", "the record has no value"),
        (b"[1]", "JSON, but a list and not an object"),
        (b'"x"', "JSON, but a str and not an object"),
        (b"null", "JSON, but a NoneType and not an object"),
        (b'{"id": "p1", "amount": NaN}', "NaN is no JSON"),
        (b'{"id": "p1", "amount": -Infinity}', "-Infinity is no JSON"),
        (b'{"id": "p1"', "not JSON: Expecting"),
        (b'{"id": "\xff"}', "not JSON: 'utf-8' codec"),
        (b'{"id": "\\ud800"}', "not JSON: 'utf-8' codec can't encode"),
        (b'{"a":' * 100_000, "not JSON: maximum recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b"\x02p1\x04", "starts with 02 70 31 04: neither Avro single-object"),
        (b"\xc3\x02xx", "starts with c3 02 78 78: neither Avro single-object"),
        (b"\x00\x00\x00\x00\x07x", "schema 7 of a registry, and none is configured"),
    ],
)
def test_what_is_no_record_at_all_is_told_by_how_it_starts(value: bytes | None, told: str) -> None:
    assert told in refused(JSON, value).reason


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"id": None}, "the event id id is NoneType None, expected a string or an integer"),
        ({"id": True}, "the event id id is bool True, expected a string or an integer"),
        ({"id": 1.5}, "the event id id is float 1.5, expected a string or an integer"),
        ({"id": {}}, "the event id id is dict {}, expected a string or an integer"),
        ({"amount": "x"}, "feature amount is str 'x', expected float"),
        ({"amount": 10**400}, "feature amount is too large for a float"),
        ({"n": 2**63}, "feature n is 9223372036854775808, expected an integer of 64 bits"),
        ({"n": 1.0}, "feature n is float 1.0, expected int"),
        ({"new": 1}, "feature new is int 1, expected bool"),
        ({"country": ["x"]}, "feature country is list ['x'], expected str"),
        ({"country": "y" * 999}, None),
        ({"note": 5}, "note is int 5, expected text"),
        ({"at": "soon"}, "at is 'soon', expected ISO 8601"),
        ({"at": 1.5}, "at is float 1.5, expected milliseconds since the epoch"),
        ({"at": True}, "at is bool True, expected milliseconds since the epoch"),
        ({"at": 2**70}, "expected milliseconds since the epoch"),
    ],
)
def test_a_field_that_is_wrong_is_named_with_what_it_is(changed: Any, told: str | None) -> None:
    value = as_json(**GOOD | changed)
    if told is None:
        read(JSON, value)
        return
    assert told in refused(JSON, value).reason


def test_a_number_beyond_all_floats_is_not_finite() -> None:
    value = as_json(**GOOD).replace(b"2,", b"1e999,", 1)
    assert refused(JSON, value).reason.startswith("feature amount is inf")


@pytest.mark.parametrize(
    "at",
    [
        PAID_MS,
        "2026-01-02T03:04:05.678Z",
        "2026-01-02T03:04:05.678",
        "2026-01-02T04:04:05.678+01:00",
    ],
)
def test_times_may_be_milliseconds_or_iso_8601(at: int | str) -> None:
    assert read(JSON, as_json(**GOOD | {"at": at})).occurred_at == PAID_MS


def test_text_and_time_may_be_missing() -> None:
    value = as_json(id=5, amount=None, n=None, country=None, new=None)
    features = dict.fromkeys(("amount", "n", "country", "new"))
    assert read(JSON, value) == Input("5", features)


@given(
    st.binary(max_size=50)
    | st.dictionaries(st.text(), st.integers()).map(json.dumps).map(str.encode)
)
def test_whatever_the_bytes_are_reading_ends_in_an_input_or_a_bad_record(value: bytes) -> None:
    for source in (JSON, PAYMENTS, Source()):
        for data in (value, b"\xc3\x01" + writer(PAID).fingerprint + value, b"{" + value):
            with suppress(BadRecord):
                assert read(source, data).event_id


# Labels


def label(source: Source, task: str, classes: tuple[Any, ...] = (), **record: Any) -> LabelRecord:
    return label_reader(source, CODEC, classes, task)(None, as_json(**record))


CHARGEBACKS = Source("chargebacks", event_id="id", label="lost", reviewer="who")


def test_a_label_is_a_field_of_the_record() -> None:
    found = label(CHARGEBACKS, BINARY, (False, True), id=7, lost=True, who="ann")
    assert found == LabelRecord("7", True, "ann")
    assert label(CHARGEBACKS, BINARY, (False, True), id=7, lost=False) == ("7", False, None, None)


def test_a_label_may_be_worked_out_from_the_whole_record() -> None:
    source = Source("chargebacks", event_id="id", label=lambda record: record["status"] == "lost")
    assert label(source, BINARY, (False, True), id="a", status="lost").label is True


def test_zero_and_one_are_labels_of_a_binary_loop() -> None:
    found = [label(CHARGEBACKS, BINARY, (False, True), id="a", lost=bit).label for bit in (0, 1)]
    assert found == [False, True]
    assert [type(each) for each in found] == [bool, bool]


def test_a_label_of_several_classes_is_one_of_them() -> None:
    assert label(CHARGEBACKS, MULTICLASS, ("a", "b"), id="e", lost="b").label == "b"
    assert label(CHARGEBACKS, MULTICLASS, (1, 2), id="e", lost=2).label == 2


def test_a_label_of_a_regression_is_a_finite_number() -> None:
    schema = fields(("id", "string"), ("lost", logical("bytes", "decimal", precision=9, scale=1)))
    source = Source("t", event_id="id", label="lost", schema=schema)
    read_label = label_reader(source, CODEC, (), REGRESSION)
    assert read_label(None, avro(schema, {"id": "a", "lost": Decimal("2.5")})).label == 2.5
    assert label(CHARGEBACKS, REGRESSION, id="a", lost=3).label == 3


@pytest.mark.parametrize(
    ("task", "classes", "value", "told"),
    [
        (BINARY, (False, True), "false", "the label is str 'false', expected False or True"),
        (BINARY, (False, True), None, "the label is NoneType None, expected False or True"),
        (BINARY, (False, True), 2, "the label is int 2"),
        (BINARY, (False, True), 1.0, "the label is float 1.0"),
        (BINARY, (False, True), [], "the label is list []"),
        (MULTICLASS, ("a", "b"), "c", "the label is str 'c', expected 'a' or 'b'"),
        (MULTICLASS, (0, 1), True, "the label is bool True, expected 0 or 1"),
        (REGRESSION, (), "3", "the label is str '3', expected a number"),
        (REGRESSION, (), True, "the label is bool True, expected a number"),
        (REGRESSION, (), None, "the label is NoneType None, expected a number"),
        (REGRESSION, (), 2**64, "expected a finite number of 64 bits"),
        (REGRESSION, (), 10**400, "expected a finite number of 64 bits"),
    ],
)
def test_a_label_that_is_none_of_the_loops_is_refused(
    task: str, classes: tuple[Any, ...], value: Any, told: str
) -> None:
    with pytest.raises(BadRecord) as caught:
        label(CHARGEBACKS, task, classes, id="e1", lost=value)
    assert told in caught.value.reason
    assert caught.value.event_id == "e1"


def test_a_label_record_without_its_fields_is_refused() -> None:
    with pytest.raises(BadRecord, match="no field 'id' for the event id; the record has 'lost'"):
        label(CHARGEBACKS, BINARY, (False, True), lost=True)
    with pytest.raises(BadRecord, match="no field 'lost' for the label; the record has 'id'"):
        label(CHARGEBACKS, BINARY, (False, True), id="e")
    with pytest.raises(BadRecord, match=r"who is list \[1\], expected text"):
        label(CHARGEBACKS, BINARY, (False, True), id="e", lost=True, who=[1])


def test_an_infinite_label_is_refused() -> None:
    read_label = label_reader(CHARGEBACKS, CODEC, (), REGRESSION)
    with pytest.raises(BadRecord, match="expected a finite number"):
        read_label(None, b'{"id": "e", "lost": 1e999}')


def test_a_time_of_day_that_no_zone_tells_is_utc() -> None:
    schema = fields(("event_id", "string"), ("at", logical("long", "local-timestamp-micros")))
    local = datetime(1970, 1, 1) + timedelta(milliseconds=PAID_MS)  # noqa: DTZ001 (that is the point)
    source = Source("t", schema=schema, occurred_at="at")
    assert read(source, avro(schema, {"event_id": "e", "at": local})).occurred_at == PAID_MS
