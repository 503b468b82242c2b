"""What the queue and the outbox ask of the tables, each statement made once: making one takes longer than running it.

Their parameters have names of their own, since those of the columns are taken: ``of`` an event, ``who`` asks, ``by``
a channel, ``now``, ``then``, ``since``, by ``lease``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    bindparam,
    delete,
    exists,
    false,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from streams.core.events import RETRACT
from streams.desk.accounts import people
from streams.desk.people import OPERATOR, SENIOR
from streams.desk.tables import (
    DISPUTED,
    UNANSWERED,
    WAITING,
    bodies,
    leases,
    looked,
    outbox,
    postponed,
    reviews,
    verdicts,
)

OF, WHO, BY, LEASE = (bindparam(name, type_=Text()) for name in ("of", "who", "by", "lease"))
NOW, THEN, SINCE, MANY = (
    bindparam(name, type_=BigInteger()) for name in ("now", "then", "since", "many")
)

_MINE = (leases.c.reviewer == WHO) & (leases.c.until > NOW)
_URGENT_FIRST = (reviews.c.priority.desc(), reviews.c.deadline, reviews.c.event_id)

UNDER_WAY = (
    exists()
    .where(outbox.c.event_id == reviews.c.event_id, outbox.c.settles)
    .where(~exists().where(verdicts.c.feedback_id == outbox.c.feedback_id))
)
"""Of a review, whether there is an answer that the projection does not know yet; what it knows shows in the state."""


def is_open(is_unanswered: ColumnElement[bool]) -> ColumnElement[bool]:
    """Of a review, whether it still is to be answered, where its state says so."""
    # The sum keeps SQLite from taking the index by deadline, and then sorting all that waits.
    return is_unanswered & (reviews.c.deadline + 0 > NOW) & ~UNDER_WAY


OPEN = is_open(reviews.c.state.in_(UNANSWERED))
"""Of a review, whether it still is to be answered."""

_LOOKED = exists().where(looked.c.event_id == reviews.c.event_id, looked.c.reviewer == WHO)
IS_SENIOR = select(people.c.name).where(people.c.name == WHO, people.c.role.in_((SENIOR, OPERATOR)))
_HOW_MANY_LOOKED = (
    select(func.count())
    .select_from(looked)
    .where(looked.c.event_id == reviews.c.event_id)
    .scalar_subquery()
    .label("looked")
)
HAS_LOOKED = select(looked.c.event_id).where(looked.c.event_id == OF, looked.c.reviewer == WHO)
STILL_ASKED = select(reviews.c.event_id).where(reviews.c.event_id == OF, OPEN, ~_LOOKED)
"""Where several have to agree, whether somebody is to say what he thinks of an event, be it again."""

RENEW_MINE = (
    update(leases)
    .where(_MINE, exists().where(reviews.c.event_id == leases.c.event_id, OPEN))
    .values(until=THEN)
)
MINE = (
    select(reviews.c.value, reviews.c.state, _HOW_MANY_LOOKED, leases.c.token)
    .join_from(leases, reviews, leases.c.event_id == reviews.c.event_id)
    # With nothing added to it, SQLite would look through all that waits for the few leases.
    .where(_MINE, is_open((reviews.c.state + "").in_(UNANSWERED)))
    .order_by(*_URGENT_FIRST)
)

_taken = exists().where(leases.c.event_id == reviews.c.event_id, leases.c.until > NOW)
_put_away = exists().where(postponed.c.event_id == reviews.c.event_id, postponed.c.until > NOW)


def _free(
    state: str, is_done: ColumnElement[bool], looked_at: ColumnElement[int] = _HOW_MANY_LOOKED
) -> Select[Any]:
    return (
        select(reviews.c.event_id, reviews.c.value, reviews.c.state, looked_at)
        .where(is_open(reviews.c.state == state), ~_taken, ~_put_away, ~is_done)
        .order_by(*_URGENT_FIRST)
        .limit(MANY)
        .with_for_update(of=reviews, skip_locked=True)  # PostgreSQL; SQLite has one writer
    )


FREE = _free(WAITING, false(), literal(0))
FREE_TO_ME = _free(WAITING, _LOOKED)
"""Where several have to agree: what somebody has not looked at yet."""
FREE_TO_SENIORS = _free(DISPUTED, _LOOKED)
HOW_MANY = select(func.count()).select_from(reviews).where(reviews.c.state.in_(UNANSWERED))


def _grab(dialect: Any) -> Any:
    into = dialect.insert(leases).values(event_id=OF, reviewer=WHO, token=LEASE, until=THEN)
    return into.on_conflict_do_update(
        index_elements=["event_id"],
        set_={name: into.excluded[name] for name in ("reviewer", "token", "until")},
        where=leases.c.until <= NOW,
    ).returning(leases.c.event_id)


GRAB = {True: _grab(sqlite), False: _grab(postgresql)}
"""By whether it is SQLite: takes an item unless a lease on it lasts."""
HOLDER = select(leases).where(leases.c.event_id == OF, leases.c.until > NOW)
LEASED = select(leases).where(leases.c.token == LEASE)
RENEW = update(leases).where(leases.c.token == LEASE).values(until=THEN)
RELEASE = delete(leases).where(leases.c.token == LEASE)
RELEASE_EVENT = delete(leases).where(leases.c.event_id == OF)
ASKED = select(reviews.c.state, reviews.c.deadline, reviews.c.value, _HOW_MANY_LOOKED).where(
    reviews.c.event_id == OF
)
ASKED_AT = select(reviews.c.requested_at, reviews.c.value).where(reviews.c.event_id == OF)
SETTLED = select(reviews.c.event_id).where(reviews.c.event_id == OF, UNDER_WAY)

PREDICTED = select(bodies.c.at, bodies.c.value).where(bodies.c.event_id == OF)
CONFIRMED = select(outbox).where(outbox.c.feedback_id == bindparam("id"))
SAID = (
    select(outbox.c.feedback_id, outbox.c.said)
    .where(outbox.c.event_id == OF, outbox.c.reviewer == WHO, outbox.c.confirmed_at >= SINCE)
    .order_by(outbox.c.number.desc())
    .limit(1)
)
SAID_ELSEWHERE = (
    select(verdicts.c.offset)
    .where(verdicts.c.event_id == OF, verdicts.c.reviewer == WHO, verdicts.c.at >= SINCE)
    .where(verdicts.c.verdict != RETRACT)
)
UNSETTLE_MINE = (
    update(outbox)
    .where(outbox.c.event_id == OF, outbox.c.reviewer == WHO, outbox.c.settles)
    .values(settles=False)
)
STORE = insert(outbox)
LAST = (
    select(outbox.c.feedback_id)
    .where(outbox.c.reviewer == WHO, outbox.c.channel == BY, outbox.c.settles)
    .order_by(outbox.c.number.desc())
    .limit(1)
)
UNDELIVERED = select(func.count()).select_from(outbox).where(outbox.c.delivered_at.is_(None))
OLDEST = (
    select(outbox.c.number, outbox.c.said)
    .where(outbox.c.delivered_at.is_(None))
    .order_by(outbox.c.number)
    .limit(MANY)
)
"""Of the verdicts that are not delivered."""
