"""Reads events from files: CSV, JSON lines and Avro containers, told apart by their first bytes.

What the values are:

* Avro: what the file's own schema says.
* JSON lines: what JSON says, one object a line; NaN is no JSON.
* CSV: the first line names the columns. ``12`` and ``-3`` are integers, ``1.5`` and ``2e-3`` floats, ``true`` and
  ``false`` booleans in any case, nothing at all is null, and the rest is text; so is ``007``, which is a name and not
  a number, and everything in the column of the event id.

It sends nothing.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from math import isfinite
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from streams.core.errors import BadRecord
from streams.core.events import Input, Value

Row: TypeAlias = Mapping[str, Any]

AVRO_MAGIC = b"Obj\x01"
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?|-?\.[0-9]+([eE][+-]?[0-9]+)?")
_WORDS: Mapping[str, Value] = {"": None, "true": True, "false": False}


class Numbered(NamedTuple):
    """A row of a file and the number of its line (of its record, in Avro), from 1."""

    line: int
    row: Row


def value_of(text: str) -> Value:
    """The value that a cell of a CSV file stands for.

    >>> [value_of(cell) for cell in ("12", "1.5", "True", "", "007", "nan")]
    [12, 1.5, True, None, '007', 'nan']
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def rows(file: BinaryIO, texts: Iterable[str] = ("event_id",)) -> Iterator[Numbered]:
    """Yields the rows of a file.

    Args:
        file: The file, of any of the three kinds.
        texts: Columns of a CSV file that are text, or null, whatever they look like.

    Raises:
        BadRecord: A row cannot be read; the message names its line.
    """
    buffered = io.BufferedReader(file)  # type: ignore[type-var]  # any readable binary file will do
    first = buffered.peek(4)
    if first.startswith(AVRO_MAGIC):
        return _avro(buffered)
    text = io.TextIOWrapper(buffered, "utf-8-sig", newline="")
    return _json(text) if first.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" else _csv(text, texts)


def inputs(rows: Iterable[Numbered], event_id: str = "event_id") -> Iterator[Input]:
    """Turns rows into inputs: the columns ``text`` and ``occurred_at`` are what they say, all others are features.

    A row whose column ``features`` holds an object, as Counterpoint's own inputs do, has its features there.

    Raises:
        BadRecord: A row has no event id, or a value that is no feature; the message names its line.
    """
    for line, row in rows:
        rest = dict(row)
        identity = rest.pop(event_id, None)
        if identity is None or identity == "" or isinstance(identity, bool | float | dict | list):
            columns = ", ".join(map(str, row))
            message = f"line {line}: no event id in the column {event_id!r}; the columns are {columns} (see --event-id)"
            raise BadRecord(message)
        text, occurred_at = rest.pop("text", None), _instant(line, rest.pop("occurred_at", None))
        features = rest["features"] if isinstance(rest.get("features"), dict) else rest
        for name, value in features.items():
            if not isinstance(value, bool | int | float | str | None):
                message = f"line {line}: {name} is a {type(value).__name__}; a feature is a number, text, boolean or null"
                raise BadRecord(message, event_id=str(identity))
            if isinstance(value, float) and not isfinite(value):
                message = f"line {line}: {name} is {value}, expected a finite number or null"
                raise BadRecord(message, event_id=str(identity))
        yield Input(str(identity), features, None if text is None else str(text), occurred_at)


def _instant(line: int, value: object) -> int | None:
    if value is None or isinstance(value, int):
        return value
    try:
        when = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError as error:
        message = f"line {line}: occurred_at is {value!r}; expected milliseconds since the epoch, or ISO 8601"
        raise BadRecord(message) from error
    return round(when.timestamp() * 1000)


def _avro(file: BinaryIO) -> Iterator[Numbered]:
    from fastavro import reader

    number = 0
    try:
        for number, row in enumerate(reader(file), 1):
            if not isinstance(row, dict):
                message = f"record {number}: the file's schema is not that of a record"
                raise BadRecord(message)
            yield Numbered(number, row)
    except (
        EOFError,
        ValueError,
        LookupError,
        TypeError,
    ) as error:  # what fastavro raises on broken files
        message = (
            f"after record {number}: not a whole Avro file: {str(error) or 'it ends too early'}"
        )
        raise BadRecord(message) from error


def _json(file: Iterable[str]) -> Iterator[Numbered]:
    for number, line in _lines(file):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            message = f"line {number}: not JSON: {error}"
            raise BadRecord(message) from error
        if not isinstance(row, dict):
            message = f"line {number}: expected a JSON object, found a {type(row).__name__}"
            raise BadRecord(message)
        yield Numbered(number, row)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; leave the field out or make it null")


def _csv(file: Iterable[str], texts: Iterable[str]) -> Iterator[Numbered]:
    texts = frozenset(texts)
    reader = csv.reader((line for _, line in _lines(file)), strict=True)
    try:
        names = next(reader, [])
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                message = f"line {reader.line_num}: {len(cells)} cells, but {len(names)} columns"
                raise BadRecord(message)
            pairs = zip(names, cells, strict=True)
            row = {
                name: (cell or None) if name in texts else value_of(cell) for name, cell in pairs
            }
            yield Numbered(reader.line_num, row)
    except csv.Error as error:
        message = f"line {reader.line_num}: not CSV: {error}"
        raise BadRecord(message) from error


def _lines(file: Iterable[str]) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, line in enumerate(file, 1):
            yield number, line
    except UnicodeDecodeError as error:
        message = f"after line {number}: not UTF-8 text: {error.reason}"
        raise BadRecord(message) from error
