from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from typing import Any

import fastavro
import pytest

from streams.core.errors import BadRecord
from streams.core.events import Input
from streams.files import inputs, rows, value_of

SCHEMA = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "amount", "type": "double"},
        {"name": "occurred_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}


def read(data: bytes, **more: Any) -> list[Input]:
    return list(inputs(rows(io.BytesIO(data)), **more))


def avro(*records: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, SCHEMA, records)
    return out.getvalue()


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("1.5", 1.5),
        ("-2e-3", -0.002),
        (".5", 0.5),
        ("1.", 1.0),
        ("true", True),
        ("FALSE", False),
        ("", None),
        ("007", "007"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("١", "١"),
        ("Zürich", "Zürich"),
    ],
)
def test_a_cell_of_a_csv_file_has_the_type_it_looks_like(cell: str, value: object) -> None:
    found = value_of(cell)
    assert (found, type(found)) == (value, type(value))


def test_csv_rows_become_inputs() -> None:
    data = b"event_id,amount,country,new\na-1,12.5,CH,true\na-2,7,,false\n"
    assert read(data) == [
        Input("a-1", {"amount": 12.5, "country": "CH", "new": True}),
        Input("a-2", {"amount": 7, "country": None, "new": False}),
    ]


def test_the_event_id_of_a_csv_file_is_text_as_it_stands() -> None:
    assert read(b"event_id,x\n007,1\n")[0].event_id == "007"


def test_the_column_of_the_event_id_can_be_named() -> None:
    data = b"payment,event_id\n0012,5\n"
    found = inputs(rows(io.BytesIO(data), texts=["payment"]), event_id="payment")
    assert list(found) == [Input("0012", {"event_id": 5})]


def test_a_csv_file_of_a_spreadsheet_with_a_mark_quotes_and_windows_lines_is_read() -> None:
    data = '\ufeffevent_id,text,x\r\n1,"He said ""no"",\r\ntwice",2\r\n\r\n'.encode()
    assert read(data) == [Input("1", {"x": 2}, text='He said "no",\r\ntwice')]


def test_json_lines_become_inputs() -> None:
    data = b'{"event_id": 5, "x": 1.5, "ok": null}\n\n{"event_id": "b", "x": 2, "text": "hm"}'
    assert read(data) == [Input("5", {"x": 1.5, "ok": None}), Input("b", {"x": 2}, text="hm")]


def test_features_may_be_an_object_of_their_own() -> None:
    assert read(b'{"event_id": "a", "features": {"x": 1}}') == [Input("a", {"x": 1})]


def test_an_avro_container_becomes_inputs() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    data = avro({"event_id": "a", "amount": 2.5, "occurred_at": when})
    assert read(data) == [Input("a", {"amount": 2.5}, occurred_at=1_767_312_000_000)]


@pytest.mark.parametrize("stamp", ["1767312000000", "2026-01-02T00:00:00+00:00"])
def test_when_it_happened_is_a_number_or_iso_8601(stamp: str) -> None:
    assert read(f"event_id,occurred_at\na,{stamp}\n".encode())[0].occurred_at == 1_767_312_000_000


def test_an_empty_file_holds_nothing() -> None:
    assert read(b"") == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"id,x\n1,2\n", "line 2: no event id in the column 'event_id'; the columns are id, x"),
        (b"event_id,x\n,2\n", "line 2: no event id"),
        (b"event_id,x\na,1\nb\n", "line 3: 1 cells, but 2 columns"),
        (b'event_id,x\na,"1\n', "not CSV"),
        (b"event_id,x\n\xff\xfe,1\n", "not UTF-8"),
        (b'{"event_id": "a"}\n{"event_id"\n', "line 2: not JSON"),
        (b'{"event_id": "a"}\n[1]\n', "line 2: expected a JSON object, found a list"),
        (b'{"event_id": "a", "x": [1]}', "line 1: x is a list; a feature is"),
        (b'{"event_id": true}', "line 1: no event id"),
        (b"event_id,occurred_at\na,yesterday\n", "line 2: occurred_at is 'yesterday'"),
        (avro({"event_id": "a", "amount": 1.0, "occurred_at": 0})[:-20], "not a whole Avro file"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(data: bytes, words: str) -> None:
    with pytest.raises(BadRecord, match=re.escape(words)):
        read(data)


def test_rows_before_a_broken_one_are_read() -> None:
    found = inputs(rows(io.BytesIO(b"event_id,x\na,1\nb\n")))
    assert next(found).event_id == "a"
