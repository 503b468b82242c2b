from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf, nan
from pathlib import Path
from typing import Any

import fastavro
import pytest
from river.linear_model import LinearRegression, LogisticRegression

from streams.bootstrap import input_check
from streams.core.errors import BadRecord
from streams.core.events import Example, Input
from streams.files import inputs, rows, value_of
from streams.history import history
from streams.loop import Loop, Source

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


def test_a_column_of_text_holds_text_or_nothing() -> None:
    found = rows(io.BytesIO(b"event_id,zip\na,8001\nb,\n"), texts=["event_id", "zip"])
    assert [row["zip"] for _, row in found] == ["8001", None]


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
        (b'{"event_id": "a", "x": NaN}', "line 1: not JSON: NaN is no JSON"),
        (b'{"event_id": "a", "x": -Infinity}', "line 1: not JSON: -Infinity is no JSON"),
        (b'{"event_id": "a", "x": 1e999}', "line 1: x is inf, expected a finite number or null"),
        (b'{"event_id": ' + b"[" * 100_000, "line 1: not JSON: maximum recursion"),
        (b"event_id,x\na,-1e999\n", "line 2: x is -inf, expected a finite number or null"),
        (
            avro({"event_id": "a", "amount": nan, "occurred_at": 0}),
            "line 1: amount is nan, expected a finite number or null",
        ),
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


# Labelled history ----------------------------------------------------------------------------------------------------

TYPED = Source(features={"a": float, "n": int, "zip": str})
LABELLED = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "a", "type": ["double", "string"]},
        {"name": "n", "type": ["long", "double"]},
        {"name": "zip", "type": ["string", "long"]},
        {"name": "label", "type": ["boolean", "double"]},
    ],
}
GOOD = {"a": 0.5, "n": 3, "zip": "8001", "label": True}


def as_csv(row: dict[str, Any]) -> bytes:
    return f"{','.join(row)}\n{','.join(map(str, row.values()))}\n".encode()


def as_json(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode()


def as_avro(row: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, LABELLED, [row])
    return out.getvalue()


def lessons(folder: Path, data: bytes, source: Source = TYPED) -> list[Example]:
    """What a binary loop with such inputs learns from a file."""
    loop = Loop(name="l", task="binary", model=LogisticRegression(), inputs=source)
    path = folder / "history"
    path.write_bytes(data)
    return list(
        history(
            path,
            loop.task,
            loop.classes,
            model_key=lambda features: "",
            check=input_check(loop),
            texts=["zip"],
        )
    )


FORMS = pytest.mark.parametrize("write", [as_csv, as_json, as_avro])
Write = Callable[[dict[str, Any]], bytes]


@FORMS
def test_history_is_read_from_every_form_of_file(tmp_path: Path, write: Write) -> None:
    (lesson,) = lessons(tmp_path, write(GOOD))
    assert (lesson.features, lesson.label) == ({"a": 0.5, "n": 3, "zip": "8001"}, True)


@FORMS
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"a": nan}, "nan|NaN"),
        ({"a": inf}, "inf|Infinity"),
        ({"a": "much"}, "feature a is str 'much', expected float"),
        ({"n": 0.5}, "feature n is float 0.5, expected int"),
        ({"label": 0.5}, "label is .*0.5.*, expected one of False, True"),
    ],
)
def test_history_that_the_loop_would_not_take_as_input_is_refused_by_its_line(
    tmp_path: Path, write: Write, bad: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRecord, match=f"line [12]: .*({words})"):
        lessons(tmp_path, write({**GOOD, **bad}))


@pytest.mark.parametrize("number", [nan, inf, -inf])
@pytest.mark.parametrize("write", [as_json, as_avro])
def test_a_number_without_end_is_refused_also_where_no_type_was_declared(
    tmp_path: Path, write: Write, number: float
) -> None:
    with pytest.raises(BadRecord, match="line 1: "):
        lessons(tmp_path, write({**GOOD, "a": number}), Source())


def test_history_lacks_no_feature_that_was_declared_and_has_no_other(tmp_path: Path) -> None:
    (lesson,) = lessons(tmp_path, as_csv({"a": 1, "n": 2, "zip": "", "label": 1, "more": 5}))
    assert lesson.features == {"a": 1.0, "n": 2, "zip": None}
    with pytest.raises(BadRecord, match="line 2: no field 'n' for the feature"):
        lessons(tmp_path, as_csv({"a": 1, "zip": "x", "label": 0}))


def test_half_a_character_in_history_is_refused_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="line 1: "):
        lessons(tmp_path, b'{"a": 1.0, "n": 1, "zip": "\\ud83d", "label": true}')


@pytest.mark.parametrize("label", ["1e999", "NaN", "true", '"1"', "1" + "0" * 400])
def test_what_a_regression_is_taught_is_a_finite_number(tmp_path: Path, label: str) -> None:
    loop = Loop(name="l", task="regression", model=LinearRegression())
    path = tmp_path / "history"
    path.write_text(f'{{"a": 1.0, "label": {label}}}')
    with pytest.raises(BadRecord, match="line 1: "):
        list(history(path, loop.task, (), model_key=lambda features: "", check=input_check(loop)))
