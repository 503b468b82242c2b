"""The queue: what a reviewer gets next, and for how long it is his alone.

An item is held by at most one person at a time.  A lease ends by itself; what was postponed comes back.  It does not
know what people answer: that is the outbox.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, delete, select

from streams.core.errors import BadRecord, Conflict, NotFound
from streams.core.events import Review
from streams.core.join import DISAGREE
from streams.desk import queries
from streams.desk.rows import check_text
from streams.desk.store import Store
from streams.desk.tables import ANSWERED, DISPUTED, EXPIRED, leases, postponed

LEASE_S = 300.0
MOST = 20
"""Items that one person may hold."""
POSTPONE_MOST_S = 30 * 86_400.0
TRIES = 20
COUNTED_MS = 1_000
GONE = "the lease on event {event_id!r} is not yours any more: it ended, or was given back; ask for the next item"


class _Asked(NamedTuple):
    """A review as it is stored, its state, and how many people have looked at it, where several are asked."""

    value: bytes
    state: str
    looked: int


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be looked at, held by one person.

    Attributes:
        review: What is asked, with the prediction, its features and its explanation.
        lease: Proves that the item is held; to be given back with the answer.
        until: When the lease ends, in milliseconds since the epoch.
        waiting: How many items wait, this one among them.
        looked: How many people have looked at it, where several are asked.
    """

    review: Review
    lease: str
    until: int
    waiting: int
    looked: int


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
        several: Whether several people have to agree: then an item is for each of them once, and what they do not agree
            on for a senior.
    """

    def __init__(
        self,
        store: Store,
        decode: Callable[[bytes], Any],
        lease_s: float = LEASE_S,
        *,
        several: bool = False,
    ) -> None:
        self._store, self._decode, self._several = store, decode, several
        self._lease_ms = int(lease_s * 1000)
        self._counted = (0, -COUNTED_MS)

    def next(self, reviewer: str, now: int, count: int = 1) -> list[Item]:
        """The next items of a reviewer, most urgent first: those held already, and new ones up to the number.

        The leases of all of them begin anew.
        """
        count = max(1, min(count, MOST))
        until = now + self._lease_ms
        held, waiting = self._store.write(
            lambda connection: self._next(connection, reviewer, now, count)
        )
        return [self._item(asked, token, until, waiting) for asked, token in held]

    def _next(
        self, connection: Connection, reviewer: str, now: int, count: int
    ) -> tuple[list[tuple[_Asked, str]], int]:
        """What is asked with the items, their leases, and how many wait."""
        mine = {"who": reviewer, "now": now, "then": now + self._lease_ms}
        held: list[tuple[_Asked, str]] = []
        if connection.execute(queries.RENEW_MINE, mine).rowcount:
            found = connection.execute(queries.MINE, mine)
            held = [(_Asked(*asked), token) for *asked, token in found]
        for query in self._free(connection, reviewer):
            for _ in range(TRIES):
                many = count - len(held)
                if many <= 0:
                    break
                missing = {"now": now, "many": many, "who": reviewer}
                free = connection.execute(query, missing).all()
                for event_id, *asked in free:
                    token = self._grab(connection, event_id, reviewer, now)
                    if token is not None and not self._was_answered(connection, event_id, token):
                        held.append((_Asked(*asked), token))
                if not free:
                    break  # else another was faster with some of them: there may be more
        return held[:count], self._waiting(connection, now)

    def _free(self, connection: Connection, reviewer: str) -> list[Select[Any]]:
        """What asks for the items that a reviewer may have, the first of them first."""
        if not self._several:
            return [queries.FREE]
        if connection.execute(queries.IS_SENIOR, {"who": reviewer}).first() is None:
            return [queries.FREE_TO_ME]
        return [queries.FREE_TO_SENIORS, queries.FREE_TO_ME]

    def lease(self, reviewer: str, event_id: str, now: int) -> Item:
        """One certain item.

        Raises:
            NotFound: Nobody is asked about the event.
            Conflict: It is answered, another person holds it, or the reviewer holds as many as he may.
        """
        check_text("event_id", event_id)
        until = now + self._lease_ms
        asked, token, waiting = self._store.write(
            lambda connection: self._lease(connection, reviewer, event_id, now)
        )
        return self._item(asked, token, until, waiting)

    def _lease(
        self, connection: Connection, reviewer: str, event_id: str, now: int
    ) -> tuple[_Asked, str, int]:
        event = {"of": event_id, "now": now}
        # Before it is looked at, so that no answer comes between; what is raised takes it back.
        token = self._grab(connection, event_id, reviewer, now)
        found = connection.execute(queries.ASKED, event).first()
        if found is None:
            message = f"nobody is asked about event {event_id!r}"
            raise NotFound(message)
        if found.state == ANSWERED or connection.execute(queries.SETTLED, event).first():
            message = f"event {event_id!r} is answered already"
            raise Conflict(message)
        if self._several:
            self._check_turn(connection, reviewer, event_id, found.state)
        if found.state == EXPIRED:
            message = f"the deadline of event {event_id!r} has passed: nothing would be learned"
            raise Conflict(message)
        if token is not None:
            mine = {"who": reviewer, "now": now}
            if len(connection.execute(queries.MINE, mine).all()) > MOST:
                message = f"you hold {MOST} items: answer some of them, or give them back"
                raise Conflict(message)
        else:
            # An own lease is renewed, with the token it has: it may be open in another window.
            holder = connection.execute(queries.HOLDER, event).first()
            if holder is None or holder.reviewer != reviewer:
                raise Conflict(_held_by(event_id, holder, now))
            token = str(holder.token)
            renewed = {"lease": token, "then": now + self._lease_ms}
            connection.execute(queries.RENEW, renewed)
        asked = _Asked(found.value, found.state, found.looked)
        return asked, token, self._waiting(connection, now)

    def _item(self, asked: _Asked, token: str, until: int, waiting: int) -> Item:
        """What is asked: of a senior where the others disagree."""
        review: Review = self._decode(asked.value)
        if asked.state == DISPUTED:
            review = review._replace(senior=True, opinions=1, reason=DISAGREE)
        return Item(review, token, until, waiting, asked.looked)

    def _check_turn(self, connection: Connection, reviewer: str, event_id: str, state: str) -> None:
        """Refuses an item to who has looked at it already, and one that is for seniors to who is none."""
        mine = {"who": reviewer, "of": event_id}
        if connection.execute(queries.HAS_LOOKED, mine).first() is not None:
            message = f"you have answered event {event_id!r} already: it waits for others"
            raise Conflict(message)
        if state == DISPUTED and connection.execute(queries.IS_SENIOR, mine).first() is None:
            message = f"those who were asked about event {event_id!r} disagree: it is for a senior"
            raise Conflict(message)

    def renew(self, reviewer: str, lease: str, now: int) -> Held:
        """Holds an item for longer; Conflict if it is not held any more."""
        until = now + self._lease_ms

        def work(connection: Connection) -> Held:
            held = _checked(connection, reviewer, lease, now)
            connection.execute(queries.RENEW, {"lease": lease, "then": until})
            return Held(held.event_id, reviewer, lease, until)

        return self._store.write(work)

    def release(self, reviewer: str, lease: str, now: int) -> None:
        """Gives an item back, for anybody to have; Conflict if it is not held any more."""

        def work(connection: Connection) -> None:
            _checked(connection, reviewer, lease, now)
            connection.execute(queries.RELEASE, {"lease": lease})

        self._store.write(work)

    def release_all(self, reviewer: str) -> int:
        """Gives back all that a reviewer holds, as when he signs out; how many."""
        his = delete(leases).where(leases.c.reviewer == reviewer)
        return self._store.write(lambda connection: connection.execute(his).rowcount)

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

        def work(connection: Connection) -> None:
            held = _checked(connection, reviewer, lease, now)
            asked = connection.execute(queries.ASKED, {"of": held.event_id}).first()
            # No longer than this is asked: the event may be asked about again.
            at = until if asked is None else min(until, asked.deadline)
            connection.execute(queries.RELEASE, {"lease": lease})
            connection.execute(delete(postponed).where(postponed.c.event_id == held.event_id))
            row = {"event_id": held.event_id, "reviewer": reviewer, "until": at}
            connection.execute(postponed.insert().values(row))

        self._store.write(work)

    def held(self, now: int) -> list[Held]:
        """All that is held now."""
        with self._store.reading() as connection:
            rows = connection.execute(select(leases).where(leases.c.until > now)).all()
        return [Held(row.event_id, row.reviewer, row.token, row.until) for row in rows]

    def holder(self, event_id: str, now: int) -> Held | None:
        """Who holds an item now."""
        with self._store.reading() as connection:
            row = connection.execute(queries.HOLDER, {"of": event_id, "now": now}).first()
        return None if row is None else Held(row.event_id, row.reviewer, row.token, row.until)

    def _waiting(self, connection: Connection, now: int) -> int:
        """How many items wait; counted once in a while, since that takes longer than to lease one."""
        count, at = self._counted
        if now - at >= COUNTED_MS:
            count = connection.scalar(queries.HOW_MANY) or 0
            self._counted = (count, now)
        return count

    def _was_answered(self, connection: Connection, event_id: str, token: str) -> bool:
        """Whether somebody answered an item between the look at it and the lease on it, which then is given back."""
        if self._store.is_sqlite:  # one writes at a time
            return False
        if connection.execute(queries.SETTLED, {"of": event_id}).first() is None:
            return False
        connection.execute(queries.RELEASE, {"lease": token})
        return True

    def _grab(self, connection: Connection, event_id: str, reviewer: str, now: int) -> str | None:
        """The token of the lease on an item; None if another holds it."""
        token = uuid.uuid4().hex
        row = {"of": event_id, "who": reviewer, "lease": token, "now": now}
        row["then"] = now + self._lease_ms
        taken = connection.scalar(queries.GRAB[self._store.is_sqlite], row)
        return None if taken is None else token


def _checked(connection: Connection, reviewer: str, lease: str, now: int) -> Held:
    check_text("lease", lease)
    row = connection.execute(queries.LEASED, {"lease": lease}).first()
    if row is None or row.reviewer != reviewer or row.until <= now:
        raise Conflict(GONE.format(event_id=row.event_id if row is not None else "?"))
    return Held(row.event_id, reviewer, lease, row.until)


def _held_by(event_id: str, holder: Any, now: int) -> str:
    if holder is None:
        return f"event {event_id!r} was just taken by another reviewer"
    left_s = max((holder.until - now) // 1000, 0)
    return f"event {event_id!r} is held by {holder.reviewer} for {left_s} more seconds"
