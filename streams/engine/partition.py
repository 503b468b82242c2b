"""One partition of the joiner: records in, outputs out, by the decisions of ``core/join`` on the state on disk.

It knows no client of Kafka: the joiner gives it what it reads, and sends what it emits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from streams.core import join
from streams.core.entry import Entry, alone, decode, encode
from streams.core.errors import BadRecord
from streams.core.events import REVIEW, Example, Feedback, Outcome, Prediction, Review
from streams.core.join import NOTHING, Join, Step
from streams.core.topics import PREDICTIONS, partition_of
from streams.core.verdicts import Rules
from streams.engine.codec import Codec
from streams.engine.guard import Raw, check_size
from streams.engine.sources import check_id
from streams.engine.state import DUE, ENTRY, Place, State, pack, unpack

ASKED, UNASKED = ("route", b"review"), ("route", b"auto")
DUE_STEPS = 256
"""Time decides in steps of this fraction of the window: records of one batch share a list of what is due in one."""
LOOKED_AT = 500
"""Events that one call of ``oldest_waiting`` looks at, about: 2 ms of work."""
EXPIRE_AT_ONCE = 10_000
"""Events that one call of ``advance`` looks at, about: 0.1 s of work; those of one step at least."""
ALL = 1 << 62


@dataclass(slots=True)
class Record:
    """A Kafka record that comes from no consumer of the group: read in bulk, or kept in the state."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes | None]] = ()


class Buried(NamedTuple):
    """A record that cannot be used: what the guard is to be given."""

    record: Raw
    stage: str
    error: BadRecord


class Misrouted(NamedTuple):
    """A feedback that is not where the predictions of its event are: to be sent anew, with the event id as its key."""

    record: Raw
    feedback: Feedback


Output: TypeAlias = Example | Outcome | Review | Buried | Misrouted
Emit: TypeAlias = Callable[[Output], None]


class _Work:
    """What a batch changes, kept apart until all of it is known: a batch that fails halfway has done nothing."""

    def __init__(self, state: State, keys: Iterable[bytes]) -> None:
        self.stored = state.load([ENTRY + key for key in keys])
        self.changes: dict[bytes, bytes | None] = {}
        self.due: list[tuple[int, bytes]] = []
        self.outputs: list[Output] = []
        self.pending = self.pending_reviews = 0  # more that wait for a verdict, or fewer

    def entry(self, key: bytes) -> Entry | None:
        stored = self.stored[ENTRY + key]
        return None if stored is None else decode(stored)

    def keep(self, key: bytes, before: Entry | None, entry: Entry | None) -> None:
        was, now = before or NOTHING, entry or NOTHING
        self.pending += now.pending - was.pending
        self.pending_reviews += now.pending_reviews - was.pending_reviews
        at = ENTRY + key
        self.stored[at] = self.changes[at] = None if entry is None else encode(entry)


class PartitionJoin:
    """See the module.

    What it emits depends on the two partitions alone: not on how their records are interleaved, cut into batches, or
    read again from committed positions (then it is emitted again).  Records below the position are passed over.

    A call that raises Unavailable may be repeated.  What was emitted then is as valid as ever: it must be sent.

    Args:
        partitions: How many partitions the topics have.
        predictions: Name of the topic of predictions.
        feedback: Name of the topic of feedback.
        emit: Takes the outputs, at once and without failing: the state knows of them from then on.
        max_bytes: A larger feedback is refused.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        partition: int,
        partitions: int,
        predictions: str,
        feedback: str,
        state: State,
        codec: Codec,
        emit: Emit,
        max_bytes: int = ALL,
    ) -> None:
        self.state, self._max_bytes = state, max_bytes
        self._partition, self._partitions = partition, partitions
        self._predictions, self._feedback = predictions, feedback
        self._codec, self._emit = codec, emit
        self._rules = rules
        self._join = Join(rules, partition, self._read_prediction, self._read_kept)
        self._due_ms = max(rules.window_ms // DUE_STEPS, 1)
        self._read_to = {predictions: 0, feedback: 0}
        self.behind = False
        self._waits_from = DUE  # no list before this one has a prediction that waits

    def predictions(self, records: Iterable[Raw]) -> None:
        """Takes in records of the predictions, in order."""
        self._take(self._predictions, records, self._emit)

    def feedback(self, records: Iterable[Raw]) -> None:
        """Takes in records of the feedback, in order."""
        self._take(self._feedback, records, self._emit)

    def advance(self, *, predictions: int, feedback: int) -> None:
        """Does what is due, a bounded part of it at a time: ``behind`` tells whether there is more.

        Args:
            predictions: A time such that whatever is not yet read of the predictions has it or a later one.
            feedback: The same for the feedback.
        """
        told = {self._predictions: predictions, self._feedback: feedback}
        self._read_to = {topic: max(at, told[topic]) for topic, at in self._read_to.items()}
        now = min(map(self._clock, self._read_to))
        self.behind = self._expire(now, EXPIRE_AT_ONCE, self._emit)

    def oldest_waiting(self) -> int | None:
        """The time of the oldest prediction that waits for a verdict; None if there is none, or it is not found yet.

        Each call looks at a bounded number of events.  Who was answered does not wait again, and what comes is due
        after all that is there: so none is looked at by many calls.  (Where several people have to agree, one may wait
        again: after a skip, or when what was agreed on is taken back.  Its age may be missed.)
        """
        if not self.state.pending:
            return None
        keys, rest = self.state.scheduled(self._waits_from, LOOKED_AT)
        found = self.state.load([ENTRY + key for key in keys]).values()
        entries = [decode(stored) for stored in found if stored is not None]
        waiting = [held.t for entry in entries for held in entry.predictions if held.waits]
        if not waiting:
            self._waits_from = rest
        return min(waiting, default=None)

    def catch_up(self, topic: str, records: Iterable[Raw]) -> None:
        """Takes in records, in order, that were committed: what they cause is not emitted, and is on disk at once."""
        self._take(topic, records, _drop)
        self.state.write()

    def settle(self, until: int) -> None:
        """Decides what time has decided up to here without emitting it: that was committed, and is on disk at once."""
        if until > self.state.decided:
            self._expire(until, ALL, _drop)
            self.state.write()

    def _clock(self, topic: str) -> int:
        return max(self.state.places[topic].clock, self._read_to[topic])

    def _take(self, topic: str, records: Iterable[Raw], emit: Emit) -> None:
        position = self.state.places[topic].offset
        new = [record for record in records if record.offset >= position]
        if new:
            handle = self._on_predictions if topic == self._predictions else self._on_feedback
            work, clock = handle(new, self._clock(topic))
            self.state.places[topic] = Place(new[-1].offset + 1, clock)
            self._finish(work, emit)
        # All of it, so that what was committed never has anything left to emit: a catch-up would not.
        now = min(place.clock for place in self.state.places.values())
        self._expire(now, ALL, emit)

    def _on_predictions(self, records: Sequence[Raw], clock: int) -> tuple[_Work, int]:
        work = _Work(self.state, [record.key for record in records if record.key])
        stored, changes, due = work.stored, work.changes, work.due
        window_ms = self._rules.window_ms
        for record in records:
            clock = t = max(record.timestamp, clock)
            key, value = record.key, record.value
            if not key or value is None:
                reason = "a prediction has its event id as key, and a value; this one lacks one"
                work.outputs.append(Buried(record, "join", BadRecord(reason)))
                continue
            at = ENTRY + key
            if (
                stored[at] is None and UNASKED in record.headers
            ):  # the common case, without a value made
                stored[at] = changes[at] = alone(t, record.offset, value)
                work.pending += 1
                due.append((t + window_ms, key))
            else:
                self._on_prediction(work, record, key, value, t)
        return work, clock

    def _on_prediction(self, work: _Work, record: Raw, key: bytes, value: bytes, t: int) -> None:
        entry = work.entry(key)
        try:
            asked = ASKED in record.headers or (
                UNASKED not in record.headers and self._read_prediction(value).route == REVIEW
            )
            step = self._join.on_prediction(entry, key, t, record.offset, value, asked)
        except BadRecord as error:
            work.outputs.append(Buried(record, "decode", error))
        else:
            self._note(work, key, entry, step)

    def _on_feedback(self, records: Sequence[Raw], clock: int) -> tuple[_Work, int]:
        read: list[tuple[Raw, Feedback | BadRecord]] = [
            (record, self._read_feedback(record)) for record in records
        ]
        ids = (verdict.event_id for _, verdict in read if isinstance(verdict, Feedback))
        work = _Work(self.state, [event_id.encode() for event_id in ids])
        for record, verdict in read:
            clock = t = max(record.timestamp, clock)
            if isinstance(verdict, BadRecord):
                work.outputs.append(Buried(record, "decode", verdict))
                continue
            key = verdict.event_id.encode()
            if record.key != key or partition_of(key, self._partitions) != self._partition:
                work.outputs.append(Misrouted(record, verdict))
                continue
            entry = work.entry(key)
            step = self._join.on_feedback(entry, t, record.offset, _kept(record), verdict)
            self._note(work, key, entry, step)
        return work, clock

    def _note(self, work: _Work, key: bytes, before: Entry | None, step: Step) -> None:
        work.outputs += [self._told(key, output) for output in step.outputs]
        entry = step.entry
        if entry is None or entry is before:
            return
        work.keep(key, before, entry)
        due = self._join.due(entry)
        if before is None or due < self._join.due(
            before
        ):  # else it is in a list already, of then or earlier
            work.due.append((due, key))

    def _expire(self, now: int, at_most: int, emit: Emit) -> bool:
        """Does what is due before ``now``; whether there may be more of it.

        Time moves in whole steps, and with all that is due in them: so what was decided follows from how far it moved,
        not from when it was looked at, nor from how records were cut into batches.
        """
        due = self.state.due(self._step_of(now), at_most)
        now = self._step_of(due.until)
        work = _Work(self.state, due.keys)
        for key in due.keys:
            entry = work.entry(key)
            if entry is None:  # it was in two lists
                continue
            after, outputs = self._join.on_time(entry, key, now)
            work.outputs += [self._told(key, output) for output in outputs]
            if after != entry:
                work.keep(key, entry, after)
            if after is not None:
                work.due.append((self._join.due(after), key))
        self.state.decided = max(self.state.decided, now)
        if not due.lists:
            return False
        self.state.done(due)
        self._finish(work, emit)
        return True

    def _finish(self, work: _Work, emit: Emit) -> None:
        self.state.change(work.changes)
        self.state.pending += work.pending
        self.state.pending_reviews += work.pending_reviews
        lists = defaultdict[int, list[tuple[int, bytes]]](list)
        for due in work.due:
            lists[due[0] // self._due_ms].append(due)
        for step, of_list in lists.items():
            self.state.put_due((step + 1) * self._due_ms - 1, [key for _, key in of_list])
        for output in work.outputs:
            emit(output)

    def _step_of(self, time: int) -> int:
        return time - time % self._due_ms

    def _told(self, key: bytes, output: join.Output) -> Output:
        if not isinstance(output, join.Refused):
            return output
        topic, t, offset, value, error = output
        if topic == PREDICTIONS:
            record = Record(self._predictions, self._partition, offset, t, key, value)
        else:
            value, headers = _unkept(value)
            record = Record(self._feedback, self._partition, offset, t, key, value, headers)
        return Buried(record, "join", error)

    def _read_prediction(self, value: bytes) -> Prediction:
        return self._codec.decode_as(Prediction, value)

    def _read_kept(self, kept: bytes) -> Feedback:
        return self._codec.decode_as(Feedback, _unkept(kept)[0])

    def _read_feedback(self, record: Raw) -> Feedback | BadRecord:
        try:
            check_size(record, self._max_bytes)
            verdict = self._codec.decode_as(Feedback, record.value)
            check_id("the event id", verdict.event_id)
            check_id("the feedback id", verdict.feedback_id)
        except BadRecord as error:
            return error
        return verdict


def _drop(output: Output) -> None:
    """Takes an output that was delivered before."""


def _kept(record: Raw) -> bytes:
    """A feedback as it has to be kept to become a dead letter after all: with its headers."""
    parts = [record.value or b""]
    for name, value in record.headers:
        parts += (name.encode(), b"" if value is None else b"=" + value)
    return pack(parts)


def _unkept(kept: bytes) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    value, *headers = unpack(kept)
    names, values = headers[::2], headers[1::2]
    return value, [(n.decode(), v[1:] if v else None) for n, v in zip(names, values, strict=True)]
