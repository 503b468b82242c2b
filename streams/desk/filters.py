"""Which predictions Browse shows, as a query; the rows themselves are read in ``reads``."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select

from streams.core.errors import BadRecord
from streams.core.events import Label
from streams.desk.rows import check_text, text_of
from streams.desk.tables import predictions

SURE, UNSURE = "sure", "unsure"
SURE_FROM = 0.8
LONG = 2**63
TERMS = 200
"""Characters of a text that is searched for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which predictions to show; what is None filters nothing.

    Attributes:
        label: The model's answer, as text; true and "true" both mean True where the labels are so.
        lane: ``sure`` or ``unsure``: confidence from ``sure_from`` on, or below it, or none.
        answered: Whether there is a verdict that stands.
        text: Part of the event's id or text, whatever its case.
    """

    label: Label | None = None
    confidence_from: float | None = None
    confidence_to: float | None = None
    model_version: int | None = None
    route: str | None = None
    channel: str | None = None
    reviewer: str | None = None
    text: str | None = None
    answered: bool | None = None
    lane: str | None = None
    sure_from: float = SURE_FROM


_SHOWN = (
    *("event_id", "at", "label", "confidence", "model_key", "model_version", "route", "text"),
    *("verdict", "truth", "reviewer", "channel", "answered_at"),
)


def all_rows() -> Select[Any]:
    return select(*(predictions.c[name] for name in _SHOWN))


def filtered(wanted: Filter, *, is_sqlite: bool) -> Select[Any]:
    p = predictions.c
    query = all_rows()
    for each in fields(wanted):
        value = getattr(wanted, each.name)
        if isinstance(value, str):
            check_text(each.name, value)
    if wanted.label is not None:
        query = query.where(p.label == text_of(wanted.label))
    if wanted.confidence_from is not None:
        query = query.where(p.confidence >= wanted.confidence_from)
    if wanted.confidence_to is not None:
        query = query.where(p.confidence <= wanted.confidence_to)
    for name in ("model_version", "route", "channel", "reviewer"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(p[name] == value)
    if wanted.answered is not None:
        answered = p.answered_at.is_not(None)
        query = query.where(answered if wanted.answered else ~answered)
    if wanted.text:
        query = query.where(_holds(wanted.text, is_sqlite))
    if wanted.lane is not None:
        query = query.where(_in_lane(wanted.lane, wanted.sure_from))
    return query


def _holds(text: str, is_sqlite: bool) -> ColumnElement[bool]:
    if len(text) > TERMS:
        raise BadRecord(f"a text to search for has at most {TERMS} characters")
    columns = predictions.c.event_id, predictions.c.text
    if is_sqlite:  # it knows no case there, and needs half the time if it is not told so
        return or_(*(column.contains(text, autoescape=True) for column in columns))
    return or_(*(column.icontains(text, autoescape=True) for column in columns))


def _in_lane(lane: str, sure_from: float) -> ColumnElement[bool]:
    confidence = predictions.c.confidence
    if lane == SURE:
        return confidence >= sure_from
    if lane == UNSURE:
        return or_(confidence.is_(None), confidence < sure_from)
    raise BadRecord(f"lane {lane!r} is none of {SURE}, {UNSURE}")


def place_after(after: str) -> tuple[int, str]:
    try:
        at, event_id = json.loads(after)
    except (TypeError, ValueError) as error:
        raise BadRecord("after is not what a page gave") from error
    if type(at) is not int or not 0 <= at < LONG or not isinstance(event_id, str):
        raise BadRecord("after is not what a page gave")
    check_text("after", event_id)
    return at, event_id
