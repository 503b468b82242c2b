"""Verdicts that were confirmed to the person who gave them: stored first, delivered to Kafka for as long as it takes.

A verdict has its feedback id before it is stored, so that delivering it again after a crash adds nothing: the joiner
knows the id.  What may not be learned is refused here, in words, before anything is stored.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import time
from typing import Any

from confluent_kafka import KafkaException
from sqlalchemy import Connection, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from streams.core.errors import BadRecord, Conflict, NotFound, StreamsError
from streams.core.events import RETRACT, VERDICTS, Feedback, Label
from streams.core.verdicts import Rules, lesson
from streams.desk import queries
from streams.desk.rows import as_prediction, check_text
from streams.desk.store import Store
from streams.desk.tables import outbox

log = logging.getLogger("counterpoint.desk")

CHANNEL = "desk"
MAX_COMMENT, MAX_ID_BYTES = 4_000, 512
CHUNK, STOP_S = 2_000, 3.0
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
UNDO = uuid.UUID("5f0f3b1e-4d1c-4b8e-9c57-2a6f0c9f7d21")
Deliver = Callable[[Sequence[Feedback]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a person says about an event.

    Attributes:
        kind: accept, correct, reject, abstain or retract.
        label: The label given; with accept, the one that the person saw.
        lease: Of an item that the queue gave out; without one, the verdict was volunteered.
        feedback_id: Given again, it is the same verdict; made here when there is none.
        channel: How it came: the desk, or the API.
    """

    event_id: str
    kind: str
    label: Label | None = None
    comment: str | None = None
    lease: str | None = None
    feedback_id: str | None = None
    channel: str = CHANNEL


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A verdict that is stored, and will be learned.

    Attributes:
        repeated: It was stored before, under the same feedback id.
    """

    feedback_id: str
    event_id: str
    confirmed_at: int
    delivered_at: int | None
    repeated: bool = False


class Outbox:
    """Takes verdicts.

    Args:
        rules: What the loop says about verdicts.
        decode: The record of its stored bytes.
        check: Raises BadRecord on a verdict that cannot be written: one in the outbox would hold up all others.
        wake: Called when there is something to deliver.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules,
        decode: Callable[[bytes], Any],
        check: Callable[[Feedback], object] = lambda feedback: None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._rules, self._decode = store, rules, decode
        self._check, self.wake = check, wake

    def confirm(self, reviewer: str, verdict: Verdict, now: int) -> Confirmed:
        """Stores a verdict; once this returns, it will be delivered.

        Raises:
            BadRecord: It says nothing that could be learned, such as a label that the loop does not know.
            NotFound: No such event was predicted.
            Conflict: Its time is over, its lease is, another person holds the item, or it was said already.
        """
        feedback = _feedback(reviewer, verdict, now)
        self._check(feedback)
        confirmed = self._store.write(
            lambda connection: self._confirm(connection, feedback, verdict.lease, now)
        )
        self.wake()
        return confirmed

    def undo(self, reviewer: str, feedback_id: str, now: int) -> Confirmed:
        """Takes back a verdict that the reviewer gave at the desk: a correction, after which the item waits again.

        However often it is asked for, it is done once.

        Raises:
            NotFound: He gave no such verdict here.
            Conflict: He has said something else about the event since, or its time is over.
        """
        check_text("feedback_id", feedback_id)
        done = self._store.write(
            lambda connection: self._undo(connection, reviewer, feedback_id, now)
        )
        self.wake()
        return done

    def last(self, reviewer: str) -> str | None:
        """The feedback id of the last verdict that a reviewer gave at the desk and did not take back."""
        with self._store.reading() as connection:
            return connection.scalar(queries.LAST, {"who": reviewer, "by": CHANNEL})

    def undelivered(self) -> int:
        """How many verdicts wait for Kafka."""
        with self._store.reading() as connection:
            return connection.scalar(queries.UNDELIVERED) or 0

    def _confirm(
        self, connection: Connection, feedback: Feedback, lease: str | None, now: int
    ) -> Confirmed:
        known = connection.execute(queries.CONFIRMED, {"id": feedback.feedback_id}).first()
        if known is not None:
            return _again(known, feedback)
        _check_lease(connection, feedback, lease, now)
        predicted_at = self._check_lesson(connection, feedback, now)
        # One about a prediction of the same event that was forgotten by then came before that moment.
        since = predicted_at - self._rules.window_ms
        still_asked = {"of": feedback.event_id, "who": feedback.reviewer, "now": now}
        is_asked = self._rules.reviewers is not None and (
            feedback.verdict != RETRACT
            and connection.execute(queries.STILL_ASKED, still_asked).first() is not None
        )
        if not is_asked:
            _check_said(connection, feedback, since)
        if self._rules.reviewers is not None:
            who = {"who": feedback.reviewer}
            is_senior = connection.execute(queries.IS_SENIOR, who).first() is not None
            feedback = feedback._replace(senior=is_senior)
        takes_back = feedback.verdict == RETRACT
        event = {"of": feedback.event_id, "who": feedback.reviewer}
        if takes_back:
            connection.execute(queries.UNSETTLE_MINE, event)
        row = {
            "feedback_id": feedback.feedback_id,
            "event_id": feedback.event_id,
            "reviewer": feedback.reviewer,
            "channel": feedback.channel,
            "said": json.dumps(feedback._asdict()),
            "settles": not takes_back,
            "confirmed_at": now,
        }
        try:
            connection.execute(queries.STORE, row)
        except IntegrityError as error:  # the same verdict, by another thread, just now
            message = f"verdict {feedback.feedback_id!r} is being stored: ask again"
            raise Conflict(message) from error
        connection.execute(queries.RELEASE_EVENT, event)
        return Confirmed(feedback.feedback_id, feedback.event_id, now, None)

    def _undo(self, connection: Connection, reviewer: str, feedback_id: str, now: int) -> Confirmed:
        taken = connection.execute(queries.CONFIRMED, {"id": feedback_id}).first()
        if taken is None or (taken.reviewer, taken.channel) != (reviewer, CHANNEL):
            message = f"you have given no verdict {feedback_id!r} at this desk"
            raise NotFound(message)
        event_id = taken.event_id
        # Made of the verdict's id, so that undoing it again is known to be the same.
        its_id = str(uuid.uuid5(UNDO, feedback_id))
        if connection.execute(queries.CONFIRMED, {"id": its_id}).first() is None:
            his = {"of": event_id, "who": reviewer, "since": 0}
            if connection.execute(queries.SAID, his).one().feedback_id != feedback_id:
                message = f"you have said something else about event {event_id!r} since"
                raise Conflict(message)
        verdict = Verdict(event_id=event_id, kind=RETRACT, feedback_id=its_id)
        return self._confirm(connection, _feedback(reviewer, verdict, now), None, now)

    def _check_lesson(self, connection: Connection, feedback: Feedback, now: int) -> int:
        """Refuses what could not be learned; when its event was predicted."""
        event_id = feedback.event_id
        event = {"of": event_id}
        found: Any = connection.execute(queries.PREDICTED, event).first()
        if found is None:
            found = connection.execute(queries.ASKED_AT, event).first()
        if found is None:
            message = f"no event {event_id!r} was predicted, as far as this desk remembers"
            raise NotFound(message)
        predicted_at, value = found
        if now > predicted_at + self._rules.window_ms:
            message = (
                f"event {event_id!r} is expired: its verdicts had to come within the loop's window"
            )
            raise Conflict(message)
        lesson(self._rules, as_prediction(self._decode(value)), feedback)
        return int(predicted_at)


def _feedback(reviewer: str, verdict: Verdict, now: int) -> Feedback:
    """The verdict as it will be on Kafka; BadRecord where it cannot be."""
    for name, value in (("event_id", verdict.event_id), ("feedback_id", verdict.feedback_id)):
        if value is not None:
            check_text(name, value)
            if not 0 < len(value.encode()) <= MAX_ID_BYTES:
                raise BadRecord(f"{name} has to have 1 to {MAX_ID_BYTES} bytes")
    if verdict.kind not in VERDICTS:
        raise BadRecord(f"verdict {verdict.kind!r} is none of {', '.join(VERDICTS)}")
    if isinstance(verdict.label, str):
        check_text("label", verdict.label)
    if verdict.comment is not None:
        check_text("comment", verdict.comment)
        if len(verdict.comment) > MAX_COMMENT:
            raise BadRecord(
                f"the comment has {len(verdict.comment):,} characters, more than the {MAX_COMMENT:,} allowed"
            )
    return Feedback(
        feedback_id=verdict.feedback_id or str(uuid.uuid4()),
        event_id=verdict.event_id,
        verdict=verdict.kind,
        label=verdict.label,
        reviewer=reviewer,
        channel=verdict.channel,
        comment=verdict.comment or None,
        given_at=now,
    )


def _again(known: Any, feedback: Feedback) -> Confirmed:
    """The same verdict a second time, which changes nothing; Conflict if it is another one."""
    before = Feedback(**json.loads(known.said))
    # Who was no senior then may be one now.
    if before._replace(given_at=None, senior=False) != feedback._replace(given_at=None):
        message = f"feedback id {feedback.feedback_id!r} belongs to another verdict: make a new one"
        raise Conflict(message)
    return Confirmed(
        known.feedback_id, known.event_id, known.confirmed_at, known.delivered_at, repeated=True
    )


def _check_lease(connection: Connection, feedback: Feedback, lease: str | None, now: int) -> None:
    event = {"of": feedback.event_id, "now": now}
    held = connection.execute(queries.HOLDER, event).first()
    mine = held is not None and held.reviewer == feedback.reviewer
    if lease is not None and not (mine and held is not None and held.token == lease):
        message = (
            f"the lease on event {feedback.event_id!r} has ended: nothing was changed; "
            "take the item again, or give the verdict without a lease"
        )
        raise Conflict(message)
    if held is not None and not mine:
        left_s = max((held.until - now) // 1000, 0)
        message = (
            f"event {feedback.event_id!r} is held by {held.reviewer} for {left_s} more seconds"
        )
        raise Conflict(message)


def _check_said(connection: Connection, feedback: Feedback, since: int) -> None:
    """A reviewer does not say the same twice, and takes back only what he said."""
    event = {"of": feedback.event_id, "who": feedback.reviewer, "since": since}
    said = connection.execute(queries.SAID, event).first()
    before = None if said is None else Feedback(**json.loads(said.said))
    if feedback.verdict == RETRACT:
        elsewhere = connection.execute(queries.SAID_ELSEWHERE, event)
        spoke = before is not None or elsewhere.first() is not None
        if not spoke or (before is not None and before.verdict == RETRACT):
            message = (
                f"you have said nothing about event {feedback.event_id!r} that could be taken back"
            )
            raise Conflict(message)
    elif before is not None and (before.verdict, before.label) == (
        feedback.verdict,
        feedback.label,
    ):
        message = f"you have said {feedback.verdict} about event {feedback.event_id!r} already"
        raise Conflict(message)


class Sender:
    """Delivers what is in the outbox, in order, in a thread of its own.

    Args:
        connect: Makes what delivers verdicts, all of them or Unavailable; a new one after a failure, since a producer
            may not get over an outage.
        told: Called with the number delivered.
    """

    def __init__(
        self,
        store: Store,
        connect: Callable[[], Deliver],
        told: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._store, self._connect, self._told = store, connect, told
        self._deliver: Deliver | None = None
        self._woken, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="desk-outbox", daemon=True)
        self.trouble: str | None = None

    def wake(self) -> None:
        """There is something to deliver."""
        self._woken.set()

    def start(self) -> None:
        """Begins; what an earlier process left undelivered goes first."""
        self._woken.set()
        self._thread.start()

    def stop(self) -> None:
        """Ends; what is undelivered stays in the outbox."""
        self._ending.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)  # who waits for Kafka waits longer than a stop may take

    def _run(self) -> None:
        failures = 0
        while not self._ending.is_set():
            self._woken.wait()
            self._woken.clear()
            try:
                while not self._ending.is_set() and self.deliver():
                    failures, self.trouble = 0, None
            except (StreamsError, KafkaException, SQLAlchemyError) as error:
                self.trouble, self._deliver = str(error), None
                log.warning("verdicts wait for Kafka: %s", error)
                self._ending.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
                failures += 1
                self._woken.set()

    def deliver(self) -> int:
        """Delivers the oldest undelivered verdicts; how many there were.

        Raises:
            Unavailable: Kafka did not take them all; they will be sent again, under the same ids.
        """
        with self._store.reading() as connection:
            rows = connection.execute(queries.OLDEST, {"many": CHUNK}).all()
        if not rows:
            return 0
        if self._deliver is None:
            self._deliver = self._connect()
        self._deliver([Feedback(**json.loads(row.said)) for row in rows])
        # By number: with PostgreSQL a smaller one may be committed later, and is not among them.
        sent = outbox.c.number.in_([row.number for row in rows])
        delivered = update(outbox).where(sent).values(delivered_at=int(time() * 1000))
        self._store.write(lambda connection: connection.execute(delivered))
        self._told(len(rows))
        return len(rows)
