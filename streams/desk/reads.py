"""What the desk shows, read from its tables: predictions to browse, the story of an event, quality, trouble.

It changes nothing.  Everything it gives is a frozen value, so that pages and the API show the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select, tuple_

from streams.core.errors import BadRecord, NotFound
from streams.core.events import DeadLetter, Feedback, Label, Prediction, Review
from streams.core.story import Found, Moment, moments
from streams.core.topics import DEAD_LETTERS, FEEDBACK, OUTCOMES, PREDICTIONS, REVIEWS
from streams.desk.rows import label_of, outcome_of, text_of
from streams.desk.store import Store
from streams.desk.tables import bodies, dead_letters, outcomes, predictions, reviews, verdicts

SURE, UNSURE = "sure", "unsure"
SURE_FROM = 0.8
PAGE, MOST = 50, 200
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


@dataclass(frozen=True, slots=True)
class Seen:
    """A prediction in a list, with the verdict that stands.

    Attributes:
        truth: The label that the verdict teaches, where it teaches one.
    """

    event_id: str
    at: int
    label: Label | None
    confidence: float | None
    model_key: str
    model_version: int
    route: str
    text: str | None
    verdict: str | None
    truth: Label | None
    reviewer: str | None
    channel: str | None
    answered_at: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some predictions, newest first; ``after`` asks for the next ones, None at the end."""

    rows: tuple[Seen, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class Lanes:
    """The newest predictions, in two lanes."""

    sure: Page
    unsure: Page


@dataclass(frozen=True, slots=True)
class Opinion:
    """A verdict on an event, and what became of it; ``status`` is None while it is under way."""

    feedback: Feedback
    at: int
    status: str | None
    detail: str | None
    model_version: int | None


@dataclass(frozen=True, slots=True)
class Story:
    """All that the desk knows of one event."""

    event_id: str
    prediction: Prediction | None
    review: Review | None
    seen: Seen | None
    opinions: tuple[Opinion, ...]
    moments: tuple[Moment, ...]


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that could not be used; partition and offset are its place among the dead letters."""

    partition: int
    offset: int
    at: int
    topic: str
    role: str
    stage: str
    reason: str
    event_id: str | None
    feedback_id: str | None


@dataclass(frozen=True, slots=True)
class Lost:
    """A verdict that taught nothing: orphaned, expired or superseded."""

    event_id: str
    feedback_id: str
    at: int
    status: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class Dispute:
    """An event about which people disagree: by person, the label that he gave."""

    event_id: str
    says: Mapping[str, Label]
    at: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """What somebody should look at, newest first."""

    letters: tuple[Letter, ...]
    lost: tuple[Lost, ...]
    disputes: tuple[Dispute, ...]


class Reads:
    """Reads the tables.

    Args:
        decode: The record of its stored bytes.
        window_ms: The loop's window.
    """

    def __init__(self, store: Store, decode: Callable[[bytes], Any], window_ms: int) -> None:
        self._store, self._decode, self._window_ms = store, decode, window_ms

    def browse(self, wanted: Filter, after: str | None = None, limit: int = PAGE) -> Page:
        """Predictions, newest first.

        Raises:
            BadRecord: The filter or the place to go on from is none.
        """
        query = _filtered(wanted)
        if after is not None:
            query = query.where(tuple_(predictions.c.at, predictions.c.event_id) < _place(after))
        limit = max(1, min(limit, MOST))
        query = query.order_by(predictions.c.at.desc(), predictions.c.event_id.desc())
        with self._store.reading() as connection:
            found = connection.execute(query.limit(limit + 1)).all()
        rows = tuple(map(_seen, found[:limit]))
        more = len(found) > limit
        return Page(rows, json.dumps([rows[-1].at, rows[-1].event_id]) if more else None)

    def lanes(self, wanted: Filter, limit: int = PAGE) -> Lanes:
        """The newest of both lanes."""
        return Lanes(
            self.browse(replace(wanted, lane=SURE), limit=limit),
            self.browse(replace(wanted, lane=UNSURE), limit=limit),
        )

    def prediction(self, event_id: str) -> Prediction:
        """The first prediction of an event.

        Raises:
            NotFound: There is none, as far as the desk remembers.
        """
        with self._store.reading() as connection:
            value = connection.scalar(select(bodies.c.value).where(bodies.c.event_id == event_id))
        if value is None:
            raise _unknown(event_id)
        return self._decode(value)  # type: ignore[no-any-return]

    def story(self, event_id: str) -> Story:
        """All about one event.

        Raises:
            NotFound: Nothing is known of it.
        """
        with self._store.reading() as connection:
            row = connection.execute(_all().where(predictions.c.event_id == event_id)).first()
            body = connection.scalar(select(bodies.c.value).where(bodies.c.event_id == event_id))
            place = connection.execute(
                select(predictions).where(predictions.c.event_id == event_id)
            ).first()
            asked = connection.execute(
                select(reviews).where(reviews.c.event_id == event_id)
            ).first()
            said = connection.execute(
                select(verdicts)
                .where(verdicts.c.event_id == event_id)
                .order_by(verdicts.c.partition, verdicts.c.offset)
            ).all()
            became = connection.execute(
                select(outcomes).where(outcomes.c.event_id == event_id)
            ).all()
            letters = connection.execute(
                select(dead_letters).where(
                    or_(
                        dead_letters.c.event_id == event_id,
                        dead_letters.c.feedback_id.in_([each.feedback_id for each in said]),
                    )
                )
            ).all()
        if body is None and asked is None and not said and not letters:
            raise _unknown(event_id)
        found = [
            *_found(PREDICTIONS, place, body, self._decode),
            *_found(REVIEWS, asked, None if asked is None else asked.value, self._decode),
            *(each for one in said for each in _found(FEEDBACK, one, one.value, self._decode)),
            *(
                Found(OUTCOMES, each.partition, each.offset, each.at, outcome_of(each))
                for each in became
            ),
            *(each for one in letters for each in _letter(one, self._decode)),
        ]
        settled = {(each.partition, each.offset): each for each in became}
        return Story(
            event_id=event_id,
            prediction=None if body is None else self._decode(body),
            review=None if asked is None else self._decode(asked.value),
            seen=None if row is None else _seen(row),
            opinions=tuple(
                _opinion(one, settled.get((one.partition, one.offset)), self._decode)
                for one in said
            ),
            moments=moments(found, (), self._window_ms),
        )

    def trouble(self, limit: int = PAGE) -> Trouble:
        """The newest dead letters, lost verdicts and disputes."""
        newest = select(dead_letters).order_by(dead_letters.c.at.desc()).limit(limit)
        lost = (
            select(outcomes)
            .where(outcomes.c.status.in_(("orphaned", "expired", "superseded")))
            .order_by(outcomes.c.at.desc())
            .limit(limit)
        )
        with self._store.reading() as connection:
            letters = connection.execute(newest).all()
            gone = connection.execute(lost).all()
            disputes = connection.execute(_disputed(limit)).all()
            heads = [row.event_id for row in disputes]
            said = connection.execute(
                select(verdicts).where(verdicts.c.event_id.in_(heads), verdicts.c.says.is_not(None))
            ).all()
        by_event: dict[str, dict[str, Label]] = {}
        for row in said:
            who = row.reviewer or row.channel
            by_event.setdefault(row.event_id, {})[who] = json.loads(row.says)
        return Trouble(
            tuple(
                Letter(
                    *(row.partition, row.offset, row.at, row.topic, row.role, row.stage),
                    *(row.reason, row.event_id, row.feedback_id),
                )
                for row in letters
            ),
            tuple(
                Lost(row.event_id, row.feedback_id, row.at, row.status, row.detail) for row in gone
            ),
            tuple(
                Dispute(row.event_id, by_event.get(row.event_id, {}), row.at) for row in disputes
            ),
        )


def _unknown(event_id: str) -> NotFound:
    return NotFound(f"no event {event_id!r} is known, as far as this desk remembers")


_SHOWN = (
    *("event_id", "at", "label", "confidence", "model_key", "model_version", "route", "text"),
    *("verdict", "truth", "reviewer", "channel", "answered_at"),
)


def _all() -> Select[Any]:
    return select(*(predictions.c[name] for name in _SHOWN))


def _filtered(wanted: Filter) -> Select[Any]:
    p = predictions.c
    query = _all()
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
        query = query.where(_holds(wanted.text))
    if wanted.lane is not None:
        query = query.where(_in_lane(wanted.lane, wanted.sure_from))
    return query


def _holds(text: str) -> ColumnElement[bool]:
    if len(text) > TERMS:
        raise BadRecord(f"a text to search for has at most {TERMS} characters")
    return or_(
        predictions.c.event_id.icontains(text, autoescape=True),
        predictions.c.text.icontains(text, autoescape=True),
    )


def _in_lane(lane: str, sure_from: float) -> ColumnElement[bool]:
    confidence = predictions.c.confidence
    if lane == SURE:
        return confidence >= sure_from
    if lane == UNSURE:
        return or_(confidence.is_(None), confidence < sure_from)
    raise BadRecord(f"lane {lane!r} is none of {SURE}, {UNSURE}")


def _place(after: str) -> tuple[int, str]:
    try:
        at, event_id = json.loads(after)
    except ValueError as error:
        raise BadRecord("after is not what a page gave") from error
    if type(at) is not int or not isinstance(event_id, str):
        raise BadRecord("after is not what a page gave")
    return at, event_id


def _seen(row: Row[Any]) -> Seen:
    fields = row._asdict()
    fields["label"], fields["truth"] = label_of(row.label), label_of(row.truth)
    return Seen(**fields)


def _found(
    topic: str, row: Any, value: bytes | None, decode: Callable[[bytes], Any]
) -> list[Found]:
    if row is None or value is None:
        return []
    return [Found(topic, row.partition, row.offset, row.at, decode(value))]


def _letter(row: Any, decode: Callable[[bytes], Any]) -> list[Found]:
    letter: DeadLetter = decode(row.value)
    return [Found(DEAD_LETTERS, row.partition, row.offset, row.at, letter)]


def _opinion(row: Any, became: Any, decode: Callable[[bytes], Any]) -> Opinion:
    if became is None:
        return Opinion(decode(row.value), row.at, None, None, None)
    return Opinion(decode(row.value), row.at, became.status, became.detail, became.model_version)


def _disputed(limit: int) -> Select[Any]:
    """Events about which more than one label was given, by more than one person."""
    newest = func.max(verdicts.c.at).label("at")
    return (
        select(verdicts.c.event_id, newest)
        .where(verdicts.c.says.is_not(None))
        .group_by(verdicts.c.event_id)
        .having(
            and_(
                func.count(verdicts.c.says.distinct()) > 1,
                func.count(verdicts.c.reviewer.distinct()) > 1,
            )
        )
        .order_by(newest.desc())
        .limit(limit)
    )
