"""The queue: what a reviewer gets next, and for how long it is his alone.

An item is held by at most one person at a time.  A lease ends by itself; what was postponed comes back.  It does not
know what people answer: that is the outbox.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, exists, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from streams.core.errors import BadRecord, Conflict, NotFound
from streams.core.events import Review
from streams.desk.store import Store
from streams.desk.tables import ANSWERED, EXPIRED, WAITING, leases, outbox, postponed, reviews

LEASE_S = 300.0
MOST = 20
"""Items that one person may hold."""
POSTPONE_MOST_S = 30 * 86_400.0
TRIES = 20
COUNTED_MS = 1_000
GONE = "the lease on event {event_id!r} is not yours any more: it ended, or was given back; ask for the next item"


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be looked at, held by one person.

    Attributes:
        review: What is asked, with the prediction, its features and its explanation.
        lease: Proves that the item is held; to be given back with the answer.
        until: When the lease ends, in milliseconds since the epoch.
        waiting: How many items wait, this one among them.
    """

    review: Review
    lease: str
    until: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds an item, and until when."""

    event_id: str
    reviewer: str
    lease: str
    until: int


class Work:
    """Gives items to people.

    Args:
        decode: The record of its stored bytes.
        lease_s: How long an item is held unless the lease is renewed.
    """

    def __init__(
        self, store: Store, decode: Callable[[bytes], Any], lease_s: float = LEASE_S
    ) -> None:
        self._store, self._decode = store, decode
        self._lease_ms = int(lease_s * 1000)
        self._counted = (0, -COUNTED_MS)

    def next(self, reviewer: str, now: int, count: int = 1) -> list[Item]:
        """The next items of a reviewer, most urgent first: those held already, and new ones up to the number.

        The leases of all of them begin anew.
        """
        count = max(1, min(count, MOST))
        until = now + self._lease_ms
        with self._store.writing() as connection:
            renewed = (
                update(leases)
                .where(leases.c.reviewer == reviewer, leases.c.until > now)
                .values(until=until)
            )
            connection.execute(renewed)
            held = self._mine(connection, reviewer, now)
            for _ in range(TRIES):
                missing = count - len(held)
                if missing <= 0 or self._take(connection, reviewer, now, missing) == 0:
                    break
                held = self._mine(connection, reviewer, now)
            waiting = self._waiting(connection, now)
        return [
            Item(self._decode(value), token, until, waiting) for value, token, until in held[:count]
        ]

    def lease(self, reviewer: str, event_id: str, now: int) -> Item:
        """One certain item.

        Raises:
            NotFound: Nobody is asked about the event.
            Conflict: It is answered, or another person holds it.
        """
        with self._store.writing() as connection:
            found = connection.execute(
                select(reviews.c.state, reviews.c.value).where(reviews.c.event_id == event_id)
            ).first()
            if found is None:
                message = f"nobody is asked about event {event_id!r}"
                raise NotFound(message)
            answered = exists().where(outbox.c.event_id == event_id, outbox.c.settles)
            if found.state == ANSWERED or connection.scalar(select(answered)):
                message = f"event {event_id!r} is answered already"
                raise Conflict(message)
            if found.state == EXPIRED:
                message = f"the deadline of event {event_id!r} has passed: nothing would be learned"
                raise Conflict(message)
            until, token = now + self._lease_ms, uuid.uuid4().hex
            row = {"event_id": event_id, "reviewer": reviewer, "token": token, "until": until}
            # An own lease is renewed, with the token it has: it may be open in another window.
            if not self._grab(connection, row, now):
                holder = self._holder(connection, event_id, now)
                if holder is None or holder.reviewer != reviewer:
                    raise Conflict(_held_by(event_id, holder, now))
                token = holder.lease
                connection.execute(
                    update(leases).where(leases.c.event_id == event_id).values(until=until)
                )
            waiting = self._waiting(connection, now)
        return Item(self._decode(found.value), token, until, waiting)

    def renew(self, reviewer: str, lease: str, now: int) -> Held:
        """Holds an item for longer; Conflict if it is not held any more."""
        with self._store.writing() as connection:
            held = self._checked(connection, reviewer, lease, now)
            until = now + self._lease_ms
            connection.execute(update(leases).where(leases.c.token == lease).values(until=until))
        return Held(held.event_id, reviewer, lease, until)

    def release(self, reviewer: str, lease: str, now: int) -> None:
        """Gives an item back, for anybody to have; Conflict if it is not held any more."""
        with self._store.writing() as connection:
            self._checked(connection, reviewer, lease, now)
            connection.execute(delete(leases).where(leases.c.token == lease))

    def release_all(self, reviewer: str) -> int:
        """Gives back all that a reviewer holds, as when he signs out; how many."""
        with self._store.writing() as connection:
            return connection.execute(delete(leases).where(leases.c.reviewer == reviewer)).rowcount

    def postpone(self, reviewer: str, lease: str, until: int, now: int) -> None:
        """Puts an item away until a moment; then it comes back, for anybody.

        Raises:
            BadRecord: The moment has passed, or is too far.
            Conflict: It is not held any more.
        """
        if not now < until <= now + POSTPONE_MOST_S * 1000:
            days = POSTPONE_MOST_S / 86_400
            reason = f"an item is postponed to a later moment, at most {days:g} days from now"
            raise BadRecord(reason)
        with self._store.writing() as connection:
            held = self._checked(connection, reviewer, lease, now)
            connection.execute(delete(leases).where(leases.c.token == lease))
            connection.execute(delete(postponed).where(postponed.c.event_id == held.event_id))
            row = {"event_id": held.event_id, "reviewer": reviewer, "until": until}
            connection.execute(postponed.insert().values(row))

    def held(self, now: int) -> list[Held]:
        """All that is held now."""
        with self._store.reading() as connection:
            rows = connection.execute(select(leases).where(leases.c.until > now)).all()
        return [Held(row.event_id, row.reviewer, row.token, row.until) for row in rows]

    def holder(self, event_id: str, now: int) -> Held | None:
        """Who holds an item now."""
        with self._store.reading() as connection:
            return self._holder(connection, event_id, now)

    def _waiting(self, connection: Connection, now: int) -> int:
        """How many items wait; counted once in a while, since that takes longer than to lease one."""
        count, at = self._counted
        if now - at >= COUNTED_MS:
            how_many = select(func.count()).select_from(reviews).where(reviews.c.state == WAITING)
            count = connection.scalar(how_many) or 0
            self._counted = (count, now)
        return count

    def _mine(
        self, connection: Connection, reviewer: str, now: int
    ) -> list[tuple[bytes, str, int]]:
        mine = (
            select(reviews.c.value, leases.c.token, leases.c.until)
            .join_from(leases, reviews, leases.c.event_id == reviews.c.event_id)
            .where(leases.c.reviewer == reviewer, leases.c.until > now)
            .order_by(reviews.c.priority.desc(), reviews.c.deadline, reviews.c.event_id)
        )
        return [(value, token, until) for value, token, until in connection.execute(mine)]

    def _take(self, connection: Connection, reviewer: str, now: int, count: int) -> int:
        """Leases up to so many items; how many it got: fewer when another was faster."""
        until, got = now + self._lease_ms, 0
        chosen = connection.execute(_in_order(now).limit(count)).scalars().all()
        for event_id in chosen:
            row = {"event_id": event_id, "reviewer": reviewer, "until": until}
            row["token"] = uuid.uuid4().hex
            got += self._grab(connection, row, now)
        return got

    def _grab(self, connection: Connection, row: dict[str, object], now: int) -> bool:
        """Takes an item unless a lease on it lasts."""
        dialect: Any = sqlite if self._store.is_sqlite else postgresql
        taken = (
            dialect.insert(leases)
            .values(row)
            .on_conflict_do_update(
                index_elements=["event_id"], set_=row, where=leases.c.until <= now
            )
            .returning(leases.c.event_id)
        )
        return connection.scalar(taken) is not None

    @staticmethod
    def _holder(connection: Connection, event_id: str, now: int) -> Held | None:
        wanted = select(leases).where(leases.c.event_id == event_id, leases.c.until > now)
        row = connection.execute(wanted).first()
        return None if row is None else Held(row.event_id, row.reviewer, row.token, row.until)

    @staticmethod
    def _checked(connection: Connection, reviewer: str, lease: str, now: int) -> Held:
        row = connection.execute(select(leases).where(leases.c.token == lease)).first()
        if row is None or row.reviewer != reviewer or row.until <= now:
            raise Conflict(GONE.format(event_id=row.event_id if row is not None else "?"))
        return Held(row.event_id, reviewer, lease, row.until)


def _held_by(event_id: str, holder: Held | None, now: int) -> str:
    if holder is None:
        return f"event {event_id!r} was just taken by another reviewer"
    left_s = max((holder.until - now) // 1000, 0)
    return f"event {event_id!r} is held by {holder.reviewer} for {left_s} more seconds"


def _in_order(now: int) -> Select[tuple[str]]:
    """What may be given out, most urgent first."""
    taken = exists().where(leases.c.event_id == reviews.c.event_id, leases.c.until > now)
    put_away = exists().where(postponed.c.event_id == reviews.c.event_id, postponed.c.until > now)
    settled = exists().where(and_(outbox.c.event_id == reviews.c.event_id, outbox.c.settles))
    return (
        select(reviews.c.event_id)
        .where(reviews.c.state == WAITING, reviews.c.deadline > now)
        .where(~or_(taken, put_away, settled))
        .order_by(reviews.c.priority.desc(), reviews.c.deadline, reviews.c.event_id)
        .with_for_update(of=reviews, skip_locked=True)  # PostgreSQL; SQLite has one writer
    )
