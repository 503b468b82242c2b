"""What the desk shows, read from its tables: predictions to browse, the story of an event, quality, trouble.

It changes nothing.  Everything it gives is a frozen value, so that pages and the API show the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row, Select, func, or_, select, tuple_

from streams.core.errors import Conflict, NotFound
from streams.core.events import (
    EXPIRED,
    NO_CONSENSUS,
    ORPHANED,
    OUTVOTED,
    SUPERSEDED,
    DeadLetter,
    Feedback,
    Label,
    Prediction,
    Review,
)
from streams.core.story import Found, Moment, moments
from streams.core.topics import DEAD_LETTERS, FEEDBACK, OUTCOMES, PREDICTIONS, REVIEWS
from streams.desk import queries
from streams.desk.filters import SURE, UNSURE, Filter, all_rows, filtered, place_after
from streams.desk.queries import NOW, is_open
from streams.desk.rows import check_text, label_of, outcome_of, text_of
from streams.desk.store import Store
from streams.desk.tables import (
    UNANSWERED,
    bodies,
    dead_letters,
    leases,
    outcomes,
    predictions,
    reviews,
    verdicts,
)

PAGE, MOST = 50, 200
LOST = (ORPHANED, EXPIRED, SUPERSEDED, OUTVOTED, NO_CONSENSUS)
"""What became of verdicts that taught nothing, though they said something."""


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
class Waiting:
    """An item of the queue, and who holds it; None if nobody does."""

    event_id: str
    label: Label | None
    priority: float
    requested_at: int
    deadline: int
    held_by: str | None


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
    """A verdict that taught nothing: see ``LOST``."""

    event_id: str
    feedback_id: str
    at: int
    status: str
    detail: str | None
    partition: int
    offset: int


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
        query = filtered(wanted, is_sqlite=self._store.is_sqlite)
        if after is not None:
            query = query.where(
                tuple_(predictions.c.at, predictions.c.event_id) < place_after(after)
            )
        limit = max(1, min(limit, MOST))
        query = query.order_by(predictions.c.at.desc(), predictions.c.event_id.desc())
        with self._store.reading() as connection:
            found = connection.execute(query.limit(limit + 1)).all()
        rows = tuple(map(_seen, found[:limit]))
        more = len(found) > limit
        return Page(rows, json.dumps([rows[-1].at, rows[-1].event_id]) if more else None)

    def lanes(
        self,
        wanted: Filter,
        sure_after: str | None = None,
        unsure_after: str | None = None,
        limit: int = PAGE,
    ) -> Lanes:
        """The newest of both lanes, each after a place that a page of it gave."""
        return Lanes(
            self.browse(replace(wanted, lane=SURE), sure_after, limit),
            self.browse(replace(wanted, lane=UNSURE), unsure_after, limit),
        )

    def waiting(self, now: int, limit: int = PAGE) -> list[Waiting]:
        """What waits to be looked at, most urgent first."""
        r = reviews.c
        held = leases.c.event_id == r.event_id
        query = (
            select(r.event_id, r.label, r.priority, r.requested_at, r.deadline)
            .add_columns(leases.c.reviewer)
            .join_from(reviews, leases, held & (leases.c.until > NOW), isouter=True)
            .order_by(r.priority.desc(), r.deadline, r.event_id)
            .limit(max(1, min(limit, MOST)))
        )
        with self._store.reading() as connection:
            found = [
                row
                for state in UNANSWERED  # one after the other, each in the order of the index
                for row in connection.execute(query.where(is_open(r.state == state)), {"now": now})
            ]
        found.sort(key=lambda row: (-row.priority, row.deadline, row.event_id))
        rows = found[: max(1, min(limit, MOST))]
        return [Waiting(row[0], label_of(row.label), *row[2:]) for row in rows]

    def story(self, event_id: str) -> Story:
        """All about one event.

        Raises:
            NotFound: Nothing is known of it.
            BadRecord: It is no event's id.
        """
        check_text("event_id", event_id)
        with self._store.reading() as connection:
            row = connection.execute(all_rows().where(predictions.c.event_id == event_id)).first()
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

    def alike(self, model_key: str, said: Label | None, truth: Label) -> int | None:
        """On how many predictions a model said this, and people that; None of numbers, which seldom repeat."""
        if isinstance(truth, float):
            return None
        wanted = select(func.count()).where(
            predictions.c.answered_at.is_not(None),
            predictions.c.model_key == model_key,
            predictions.c.label == text_of(said),
            predictions.c.truth == text_of(truth),
        )
        with self._store.reading() as connection:
            return connection.execute(wanted).scalar_one()

    def again(self, partition: int, offset: int) -> Feedback:
        """An orphaned verdict as it is to be said once more, now that its event is there; always under the same id.

        Args:
            partition: With ``offset``, where the verdict is on the loop's feedback.

        Raises:
            NotFound: No verdict there is known.
            Conflict: It is not orphaned, or would be again.
        """
        at = {"partition": partition, "offset": offset}
        with self._store.reading() as connection:
            said = connection.execute(select(verdicts.c.value).filter_by(**at)).first()
            became = connection.execute(select(outcomes.c.status).filter_by(**at)).first()
            if said is None or became is None:
                message = f"no verdict with an outcome is known at {partition}-{offset}"
                raise NotFound(message)
            verdict: Feedback = self._decode(said.value)
            if became.status != ORPHANED:
                message = f"verdict {verdict.feedback_id!r} is {became.status}, not orphaned"
                raise Conflict(message)
            of = connection.execute(queries.PREDICTED, {"of": verdict.event_id}).first()
        if of is None:
            message = (
                f"event {verdict.event_id!r} is still unknown: the verdict would be orphaned again"
            )
            raise Conflict(message)
        return verdict._replace(feedback_id=f"{verdict.feedback_id}/again")

    def trouble(self, limit: int = PAGE) -> Trouble:
        """The newest dead letters, lost verdicts and disputes."""
        newest = select(dead_letters).order_by(dead_letters.c.at.desc()).limit(limit)
        lost = (
            select(outcomes)
            .where(outcomes.c.status.in_(LOST))
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
                Lost(
                    *(row.event_id, row.feedback_id, row.at, row.status, row.detail),
                    *(row.partition, row.offset),
                )
                for row in gone
            ),
            tuple(
                Dispute(row.event_id, by_event.get(row.event_id, {}), row.at) for row in disputes
            ),
        )


def _unknown(event_id: str) -> NotFound:
    return NotFound(f"no event {event_id!r} is known, as far as this desk remembers")


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
    """Events about which the last words of people differ."""
    newest = func.max(verdicts.c.at).label("at")
    return (
        select(verdicts.c.event_id, newest)
        .where(verdicts.c.says.is_not(None))
        .group_by(verdicts.c.event_id)
        .having(func.count(verdicts.c.says.distinct()) > 1)
        .order_by(newest.desc())
        .limit(limit)
    )
