"""What the queue and the outbox ask of the tables, each statement made once: making one takes longer than running it.

Their parameters have names of their own, since those of the columns are taken: ``of`` an event, ``who`` asks, ``now``,
``then``, by ``lease``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Text,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from streams.core.events import RETRACT
from streams.desk.tables import (
    WAITING,
    bodies,
    leases,
    outbox,
    postponed,
    reviews,
    verdicts,
)

OF, WHO, LEASE = (bindparam(name, type_=Text()) for name in ("of", "who", "lease"))
NOW, THEN, MANY = (bindparam(name, type_=BigInteger()) for name in ("now", "then", "many"))

_MINE = (leases.c.reviewer == WHO) & (leases.c.until > NOW)
_URGENT_FIRST = (reviews.c.priority.desc(), reviews.c.deadline, reviews.c.event_id)

RENEW_MINE = update(leases).where(_MINE).values(until=THEN)
MINE = (
    select(reviews.c.value, leases.c.token)
    .join_from(leases, reviews, leases.c.event_id == reviews.c.event_id)
    .where(_MINE)
    .order_by(*_URGENT_FIRST)
)

_taken = exists().where(leases.c.event_id == reviews.c.event_id, leases.c.until > NOW)
_put_away = exists().where(postponed.c.event_id == reviews.c.event_id, postponed.c.until > NOW)
_settled = exists().where(outbox.c.event_id == reviews.c.event_id, outbox.c.settles)
FREE = (
    select(reviews.c.event_id, reviews.c.value)
    # The sum keeps SQLite from taking the index by deadline, and then sorting all that waits.
    .where(reviews.c.state == WAITING, reviews.c.deadline + 0 > NOW)
    .where(~or_(_taken, _put_away, _settled))
    .order_by(*_URGENT_FIRST)
    .limit(MANY)
    .with_for_update(of=reviews, skip_locked=True)  # PostgreSQL; SQLite has one writer
)
HOW_MANY = select(func.count()).select_from(reviews).where(reviews.c.state == WAITING)


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
ASKED = select(reviews.c.state, reviews.c.value).where(reviews.c.event_id == OF)
ASKED_AT = select(reviews.c.requested_at, reviews.c.value).where(reviews.c.event_id == OF)
SETTLED = select(outbox.c.number).where(outbox.c.event_id == OF, outbox.c.settles)

PREDICTED = select(bodies.c.at, bodies.c.value).where(bodies.c.event_id == OF)
CONFIRMED = select(outbox).where(outbox.c.feedback_id == bindparam("id"))
SAID = (
    select(outbox.c.said)
    .where(outbox.c.event_id == OF, outbox.c.reviewer == WHO)
    .order_by(outbox.c.number.desc())
    .limit(1)
)
SAID_ELSEWHERE = select(verdicts.c.offset).where(
    verdicts.c.event_id == OF, verdicts.c.reviewer == WHO, verdicts.c.verdict != RETRACT
)
UNSETTLE = update(outbox).where(outbox.c.event_id == OF, outbox.c.settles).values(settles=False)
UNSETTLE_MINE = UNSETTLE.where(outbox.c.reviewer == WHO)
STORE = insert(outbox)
LAST = (
    select(outbox.c.said)
    .where(outbox.c.reviewer == WHO, outbox.c.settles)
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
