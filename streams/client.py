"""The SDK: send inputs and verdicts to a loop, read its predictions, wait for what becomes of them.

It talks to Kafka alone, so it needs no model, no Faust and none of a loop's code: the loop's name is enough.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from math import isfinite
from numbers import Real
from time import monotonic, time
from types import TracebackType
from typing import Any, ParamSpec, Required, TypedDict, TypeVar

from confluent_kafka import KafkaError, Message, TopicPartition
from typing_extensions import override

from streams.config import Settings
from streams.core.errors import BadRecord, NotFound, Unavailable
from streams.core.events import (
    ABSTAIN,
    ACCEPT,
    CORRECT,
    DUPLICATE,
    REJECT,
    RETRACT,
    DeadLetter,
    Features,
    Feedback,
    Input,
    Label,
    Outcome,
    Prediction,
    Status,
)
from streams.core.topics import (
    DEAD_LETTERS,
    FEEDBACK,
    INPUTS,
    OUTCOMES,
    PREDICTIONS,
    STATUS,
    topic_name,
)
from streams.engine.codec import Codec, Record
from streams.engine.producer import Outputs
from streams.engine.reader import patiently
from streams.follower import CHUNK, POLL_S, Follower, Recent, connect, ends_of, refusal

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R", bound=Record)

MAX_ID_BYTES = 512
KEPT = 100_000
"""Predictions, outcomes and refusals that a client keeps of each, for those who wait for them."""
ANSWER_S = 10.0
"""A Kafka that has not answered for so long is not there."""
DELIVERY_TIMEOUT_S = 60.0
ALIVE_S = 5.0
"""A worker that has not been heard of for so long is not waited for; they beat every second."""
BEATS = 10_000
"""Heartbeats from before the first use that are read, to know who is there."""
POLL_EVERY = 1_000
WAITERS = 64
PLAIN = frozenset({bool, int, str, type(None)})


class Verdict(TypedDict, total=False):
    """One verdict for ``send_feedbacks``: the arguments of ``send_feedback`` by name."""

    event_id: Required[str]
    label: Label | None
    accept: bool
    reject: bool
    abstain: bool
    retract: bool
    reviewer: str | None
    comment: str | None
    feedback_id: str | None
    seen: Label | None
    senior: bool


class Client:
    """A connection to one loop; may be shared by threads.

    Waiting misses nothing that comes after the client was first used to send or to wait: from then on it knows where
    the topics ended.  It keeps the newest 100,000 predictions and outcomes; who waits for one that came before those
    waits in vain.

    Args:
        loop: The loop's name.
        bootstrap: Kafka servers; by default those of the settings.
        settings: How to connect; by default those of the environment (``COUNTERPOINT_…``).
    """

    def __init__(
        self, loop: str, bootstrap: str | None = None, settings: Settings | None = None
    ) -> None:
        if settings is None:
            given = {} if bootstrap is None else {"COUNTERPOINT_BOOTSTRAP": bootstrap}
            settings = Settings.from_env({**os.environ, **given})
        elif bootstrap is not None:
            settings = replace(settings, bootstrap=bootstrap)
        self.loop = loop
        self._kafka, self._limit = settings.kafka(), settings.max_record_bytes
        self._codec = _codec(settings)
        self._outputs = _Outputs(self._kafka)
        self._writers: dict[type, tuple[str, Callable[[Any], bytes]]] = {}
        self._seen = _Seen(self._codec, self._topic(INPUTS))
        self._follower = Follower(
            self._kafka,
            {
                self._topic(PREDICTIONS): self._seen.on_prediction,
                self._topic(OUTCOMES): self._seen.on_outcome,
                self._topic(DEAD_LETTERS): self._seen.on_dead_letter,
                self._topic(STATUS): self._seen.on_status,
            },
            {self._topic(STATUS): BEATS},
        )

    def _topic(self, suffix: str) -> str:
        return topic_name(self.loop, suffix)

    # Sending

    def send_input(
        self,
        event_id: str,
        features: Features,
        text: str | None = None,
        occurred_at: int | datetime | None = None,
    ) -> None:
        """Send an event to be predicted; it is delivered in the background, see ``flush``.

        Raises:
            BadRecord: It cannot be sent as it is; the message names the field.
            NotFound: There is no such loop.
            Unavailable: Kafka does not answer, or an earlier record was not delivered.
        """
        self._outputs.raise_failed()
        self._send(_input(event_id, features, text, occurred_at))
        self._outputs.poll()

    def send_inputs(self, inputs: Iterable[Input | tuple[Any, ...]]) -> int:
        """Send many events, each as the arguments of ``send_input``; returns how many when all are delivered.

        Raises:
            BadRecord: One of them cannot be sent; those before it are delivered.
            NotFound: There is no such loop.
            Unavailable: Kafka does not answer, or did not take them all.
        """
        return self._send_all(_input(*item) for item in inputs)

    def send_feedback(
        self,
        event_id: str,
        *,
        label: Label | None = None,
        accept: bool = False,
        reject: bool = False,
        abstain: bool = False,
        retract: bool = False,
        reviewer: str | None = None,
        comment: str | None = None,
        feedback_id: str | None = None,
        seen: Label | None = None,
        senior: bool = False,
    ) -> str:
        """Send a verdict on an event, in one of five forms; it is delivered in the background, see ``flush``.

        Args:
            event_id: The event it is about.
            label: The true label.
            accept: The answer is right.
            reject: The answer is wrong.
            abstain: The person cannot tell.
            retract: What the same reviewer said about the event before is taken back, and out of the model.
            reviewer: Who gives it.
            comment: Why, in the reviewer's words.
            feedback_id: Its identity: give the same again to try again, and it is learned once.
            seen: With ``accept``, the answer that the person saw.
            senior: The word of whom decides where the loop's several reviewers disagree.

        Returns:
            The feedback id.

        Raises:
            BadRecord: It cannot be sent as it is; the message names the field.
            NotFound: There is no such loop.
            Unavailable: Kafka does not answer, or an earlier record was not delivered.
        """
        self._outputs.raise_failed()
        feedback = _feedback(
            event_id=event_id,
            label=label,
            accept=accept,
            reject=reject,
            abstain=abstain,
            retract=retract,
            reviewer=reviewer,
            comment=comment,
            feedback_id=feedback_id,
            seen=seen,
            senior=senior,
        )
        self._send(feedback)
        self._outputs.poll()
        return feedback.feedback_id

    def send_feedbacks(self, verdicts: Iterable[Verdict]) -> list[str]:
        """Send many verdicts; returns their feedback ids when all are delivered.

        Raises:
            BadRecord: One of them cannot be sent; those before it are delivered.
            NotFound: There is no such loop.
            Unavailable: Kafka does not answer, or did not take them all.
        """
        sent: list[str] = []

        def feedbacks() -> Iterator[Feedback]:
            for verdict in verdicts:
                feedback = _feedback(**verdict)
                sent.append(feedback.feedback_id)
                yield feedback

        self._send_all(feedbacks())
        return sent

    def _send_all(self, records: Iterable[Input | Feedback]) -> int:
        self._outputs.raise_failed()
        count = 0
        try:
            for record in records:
                self._send(record)
                count += 1
                if count % POLL_EVERY == 0:
                    self._outputs.poll()
                    self._outputs.raise_failed()
        except BadRecord as error:
            self.flush()
            reason = f"record {count + 1}: {error.reason}; the {count:,} before it were sent"
            raise BadRecord(
                reason, event_id=error.event_id, feedback_id=error.feedback_id
            ) from error
        self.flush()
        return count

    def _send(self, record: Input | Feedback) -> None:
        found = self._writers.get(type(record))
        topic, encode = found if found is not None else self._writer(type(record))
        value = encode(record)
        if len(value) > self._limit:
            reason = (
                f"the record of event {record.event_id!r} has {len(value):,} bytes, more than the "
                f"{self._limit:,} allowed (COUNTERPOINT_MAX_RECORD_BYTES)"
            )
            raise BadRecord(reason, event_id=record.event_id)
        key = record.event_id.encode()
        if isinstance(record, Feedback):
            headers = [("feedback_id", record.feedback_id.encode())]
            self._seen.refused_feedback.drop(record.feedback_id)  # it is tried again
            self._outputs.send(topic, value, key, headers)
        else:
            self._seen.refused_inputs.drop(record.event_id)
            self._outputs.send(topic, value, key)

    def _writer(self, cls: type[Input | Feedback]) -> tuple[str, Callable[[Any], bytes]]:
        """Where records go and how they are written; looked up before the first one is sent.

        A producer alone would make a topic out of a misspelled name, where the broker allows that.
        """
        topic = self._topic(INPUTS if cls is Input else FEEDBACK)
        self._require(topic)
        self._follower.mark()
        found = self._writers[cls] = (topic, self._codec.encoder(cls, topic))
        return found

    def _require(self, topic: str) -> None:
        consumer = connect(self._kafka)
        try:
            told = patiently(
                lambda left_s: consumer.list_topics(topic, timeout=left_s),
                f"Kafka at {self._kafka['bootstrap.servers']} does not answer",
                ANSWER_S,
            )
        finally:
            consumer.close()
        error = told.topics[topic].error
        if error is not None:
            message = (
                f"topic {topic}: {error.str()}. Is the loop called {self.loop!r}, and were its topics made "
                "(`counterpoint topics create`)? A loop that reads a topic of yours gets its inputs there"
            )
            raise NotFound(message)

    def flush(self) -> None:
        """Wait until everything sent is delivered.

        Raises:
            Unavailable: Something was not.
        """
        try:
            self._outputs.flush(DELIVERY_TIMEOUT_S + 5)
        finally:
            self._outputs.raise_failed()

    # Reading and waiting

    def predictions(self, from_beginning: bool = False) -> Predictions:
        """The predictions as they come, from now on or from the first that is kept.

        Raises:
            NotFound: There is no such loop.
            Unavailable: Kafka does not answer.
        """
        self._require(self._topic(PREDICTIONS))
        return Predictions(self._kafka, self._topic(PREDICTIONS), self._codec, from_beginning)

    def wait_prediction(self, event_id: str, timeout: float = 30.0) -> Prediction:
        """The first prediction of an event.

        Raises:
            TimeoutError: There is none in time.
            BadRecord: The input was refused; the message says why.
            Unavailable: The topics cannot be read.
        """
        seen, key = self._seen, event_id.encode()
        topics = (self._topic(PREDICTIONS), self._topic(DEAD_LETTERS))

        def is_answered() -> bool:
            return seen.predictions.holds(key) or seen.refused_inputs.holds(event_id)

        self._follower.wait_for(topics, is_answered, timeout)
        value, why = seen.predictions.get(key), seen.refused_inputs.get(event_id)
        if value is not None:
            return self._codec.decode_as(Prediction, value)
        if why is not None:
            raise BadRecord(why, event_id=event_id)
        raise TimeoutError(self._late(f"prediction of event {event_id!r}", "a predictor", timeout))

    def wait_outcome(self, feedback_id: str, timeout: float = 30.0) -> Outcome:
        """What became of a verdict.  ``duplicate`` is told only if nothing else comes in time: it says that an
        earlier copy of the verdict counts.

        Raises:
            TimeoutError: Nothing did in time.
            BadRecord: The verdict was refused; the message says why.
            Unavailable: The topics cannot be read.
        """
        seen = self._seen
        topics = (self._topic(OUTCOMES), self._topic(DEAD_LETTERS))

        def is_settled() -> bool:
            return seen.outcomes.holds(feedback_id) or seen.refused_feedback.holds(feedback_id)

        self._follower.wait_for(topics, is_settled, timeout)
        outcome, why = seen.outcomes.get(feedback_id), seen.refused_feedback.get(feedback_id)
        if outcome is not None:
            return outcome
        if why is not None:
            raise BadRecord(why, feedback_id=feedback_id)
        duplicate = seen.duplicates.get(feedback_id)
        if duplicate is not None:
            return duplicate
        late = self._late(f"outcome of feedback {feedback_id!r}", "any joiner and learner", timeout)
        raise TimeoutError(
            f"{late} A verdict on an event without a prediction waits for one; where several people have to agree, it waits for them."
        )

    def wait_served(self, model_version: int, timeout: float = 30.0, model_key: str = "") -> None:
        """Return when every living predictor answers by this version of the model, or a later one.

        Raises:
            TimeoutError: Not all do in time; the message says who does not.
            Unavailable: The ``status`` topic cannot be read.
        """
        seen = self._seen

        def is_served() -> bool:
            versions = seen.served(model_key).values()
            return bool(versions) and min(versions) >= model_version

        if self._follower.wait_for((self._topic(STATUS),), is_served, timeout):
            return
        behind = ", ".join(
            f"{worker} serves {version}"
            for worker, version in sorted(seen.served(model_key).items())
            if version < model_version
        )
        raise TimeoutError(
            f"version {model_version} of model {model_key!r} is not served everywhere within {timeout:g} s: "
            f"{behind or 'no predictor is running'} (`counterpoint status` tells more)"
        )

    def _late(self, what: str, who: str, timeout: float) -> str:
        gone = self._seen.gone()
        dropped = (
            f" Of what came, only the newest {KEPT:,} are kept, and {gone:,} were let go: wait sooner, or read "
            "predictions()."
            if gone
            else ""
        )
        return (
            f"no {what} within {timeout:g} s: does {who} of loop {self.loop!r} run (`counterpoint status` tells)? "
            f"What came before this client was first used is not seen.{dropped}"
        )

    # Ending

    def close(self) -> None:
        """Deliver what was sent, and end the background thread.

        Raises:
            Unavailable: Something was not delivered.
        """
        try:
            self.flush()
        finally:
            self._follower.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _codec(settings: Settings) -> Codec:
    found = settings.registry()
    if found is None:
        return Codec()
    from streams.engine.registry import SchemaRegistry  # brings an HTTP client

    return Codec(SchemaRegistry(found))


class _Outputs(Outputs):
    """Outputs that tell once of what they did not deliver, and go on."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._failed: deque[str] = deque()
        super().__init__(kafka, **{"delivery.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000)})

    @override
    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            key = _text(message.key())
            self._failed.append(f"{key!r} was not delivered to {message.topic()}: {error.str()}")

    def raise_failed(self) -> None:
        """Tell of what was not delivered since this was asked last.

        Raises:
            Unavailable: Something was not.
        """
        if not self._failed:
            return
        count, first = len(self._failed), self._failed[0]
        self._failed.clear()
        more = f" (and {count - 1:,} more)" if count > 1 else ""
        message = f"{first}{more}: is Kafka up? Send it again"
        raise Unavailable(message)


# What is sent --------------------------------------------------------------------------------------------------------


def _input(
    event_id: str,
    features: Features,
    text: str | None = None,
    occurred_at: int | datetime | None = None,
) -> Input:
    """An input that a predictor will take; the codec checks the rest, as far as types go.

    Raises:
        BadRecord: It is none.
    """
    _check_id("event_id", event_id)
    if not isinstance(features, Mapping):
        reason = f"features is {features!r}, expected a dict of feature name to value"
        raise BadRecord(reason, event_id=event_id)
    for name, value in features.items():
        kind = type(value)
        if kind in PLAIN:
            continue
        if not isinstance(value, str | Real):
            expected = "expected a number, a string, a boolean or None"
            reason = f"feature {name!r} is {value!r} ({kind.__name__}), {expected}"
            raise BadRecord(reason, event_id=event_id)
        if isinstance(value, Real) and not isfinite(value):
            reason = f"feature {name!r} is {value!r}: leave it out, or make it None"
            raise BadRecord(reason, event_id=event_id)
    if isinstance(occurred_at, datetime):
        occurred_at = _milliseconds(occurred_at, event_id)
    return Input(event_id, features, text, occurred_at)


def _milliseconds(moment: datetime, event_id: str) -> int:
    if moment.tzinfo is None:
        reason = f"occurred_at is {moment}, without a time zone: use datetime.now(UTC)"
        raise BadRecord(reason, event_id=event_id)
    return round(moment.timestamp() * 1000)


def _check_id(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        reason = f"{name} is {value!r}, expected text that is not empty"
        raise BadRecord(reason)
    size = len(value.encode(errors="replace"))
    if size > MAX_ID_BYTES:
        reason = f"{name} has {size:,} bytes, more than the {MAX_ID_BYTES} allowed: {value[:40]}…"
        raise BadRecord(reason)


def _feedback(
    *,
    event_id: str,
    label: Label | None = None,
    accept: bool = False,
    reject: bool = False,
    abstain: bool = False,
    retract: bool = False,
    reviewer: str | None = None,
    comment: str | None = None,
    feedback_id: str | None = None,
    seen: Label | None = None,
    senior: bool = False,
) -> Feedback:
    """A verdict that says one thing.

    Raises:
        BadRecord: It says nothing, or several things.
    """
    _check_id("event_id", event_id)
    if feedback_id is not None:
        _check_id("feedback_id", feedback_id)
    forms = {
        CORRECT: ("label", label is not None),
        ACCEPT: ("accept", accept),
        REJECT: ("reject", reject),
        ABSTAIN: ("abstain", abstain),
        RETRACT: ("retract", retract),
    }
    given = [verdict for verdict, (_, is_given) in forms.items() if is_given]
    if len(given) != 1:
        said = [forms[verdict][0] for verdict in given] or "none"
        reason = f"a verdict is one of label=, accept=True, reject=True, abstain=True and retract=True; given: {said}"
        raise BadRecord(reason, event_id=event_id, feedback_id=feedback_id)
    if seen is not None and not accept:
        reason = "seen= is the answer that was accepted: it goes with accept=True alone"
        raise BadRecord(reason, event_id=event_id, feedback_id=feedback_id)
    for name, value in (("label", label), ("seen", seen)):
        if isinstance(value, Real) and not isfinite(value):
            reason = f"{name} is {value!r}, expected a finite number"
            raise BadRecord(reason, event_id=event_id, feedback_id=feedback_id)
    return Feedback(
        feedback_id=feedback_id or str(uuid.uuid4()),
        event_id=event_id,
        verdict=given[0],
        label=seen if accept else label,
        reviewer=reviewer,
        comment=comment,
        given_at=int(time() * 1000),
        senior=senior,
    )


# What is read --------------------------------------------------------------------------------------------------------


class _Seen:
    """What came on a loop's topics, as far as somebody may wait for it."""

    def __init__(self, codec: Codec, inputs: str) -> None:
        self._codec, self._inputs = codec, inputs
        self.predictions = Recent[bytes, bytes](KEPT)
        self.outcomes = Recent[str, Outcome](KEPT)
        self.duplicates = Recent[str, Outcome](KEPT)
        self.refused_inputs = Recent[str, str](KEPT)
        self.refused_feedback = Recent[str, str](KEPT)
        self._beats: dict[bytes | None, tuple[int, Status]] = {}
        self._clock = (0, 0.0)  # the broker's time of the newest heartbeat, and ours when it came

    def on_prediction(self, message: Message) -> None:
        """The first of an event is kept, as bytes: most are never asked for."""
        key, value = message.key(), message.value()
        if key is not None and value:
            self.predictions.put_first(key, value)

    def on_outcome(self, message: Message) -> None:
        """Duplicates are kept apart: what became of the first copy is the answer."""
        outcome = self._decode(Outcome, message)
        if outcome is not None:
            held = self.duplicates if outcome.status == DUPLICATE else self.outcomes
            held.put_first(outcome.feedback_id, outcome)

    def on_dead_letter(self, message: Message) -> None:
        """The reason is kept, for those who wait for what will not come."""
        letter = self._decode(DeadLetter, message)
        if letter is None:
            return
        where = f"{letter.topic}-{letter.partition} at {letter.offset}"
        reason = f"refused by the {letter.role}: {letter.reason} (dead letter of {where})"
        if letter.topic == self._inputs:
            self.refused_inputs.put(letter.event_id or _text(letter.key), reason)
            return
        headers = dict(letter.headers)
        ids = letter.feedback_id or _text(headers.get("feedback_id"))
        for feedback_id in ids.split(", "):  # an example may rest on several
            self.refused_feedback.put(feedback_id, reason)

    def on_status(self, message: Message) -> None:
        """The newest heartbeat of each worker is kept."""
        status = self._decode(Status, message)
        if status is not None:
            stamp = message.timestamp()[1]
            self._beats[message.key()] = (stamp, status)
            self._clock = max(self._clock, (stamp, monotonic()))

    def served(self, model_key: str) -> dict[str, int]:
        """By living predictor, the version that it answers by."""
        stamp, came = self._clock
        now = stamp + (monotonic() - came) * 1000
        return {
            status.worker: status.versions.get(model_key, 0)
            for beat, status in list(self._beats.values())
            if status.role == "predictor"
            and status.state == "running"
            and now - beat <= ALIVE_S * 1000
        }

    def gone(self) -> int:
        """How many were let go."""
        return self.predictions.gone + self.outcomes.gone

    def _decode(self, cls: type[R], message: Message) -> R | None:
        try:
            return self._codec.decode_as(cls, message.value())
        except BadRecord:  # not ours: nobody waits for it
            return None


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")


class Predictions:
    """Predictions as they come; ends when it is closed, also by another thread, or by leaving its ``with``.

    Each is decoded when it is asked for: BadRecord tells of one that cannot be read, and the next may be asked for.
    """

    def __init__(
        self, kafka: Mapping[str, Any], topic: str, codec: Codec, from_beginning: bool
    ) -> None:
        self._codec, self._closed = codec, threading.Event()
        self._waiting: deque[Message] = deque()
        self._reading = threading.Lock()
        self._consumer = connect(kafka)
        starts = ends_of(self._consumer, topic)
        self._consumer.assign(
            [TopicPartition(topic, p, 0 if from_beginning else end) for p, end in starts.items()]
        )

    def __iter__(self) -> Predictions:
        return self

    def __next__(self) -> Prediction:
        with self._reading:
            while not self._closed.is_set():
                if self._waiting:
                    return self._codec.decode_as(Prediction, self._waiting.popleft().value())
                first = self._consumer.poll(POLL_S)
                if first is not None:
                    self._hold([first, *self._consumer.consume(CHUNK, 0)])
        raise StopIteration

    def _hold(self, messages: Iterable[Message]) -> None:
        for message in messages:
            error = message.error()
            if error is None:
                self._waiting.append(message)
            elif refusal(error):
                reason = f"{message.topic()} cannot be read: {error.str()}"
                raise Unavailable(reason)

    def close(self) -> None:
        """End the iteration."""
        self._closed.set()
        with self._reading:
            self._consumer.close()

    def __enter__(self) -> Predictions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


# For asyncio ---------------------------------------------------------------------------------------------------------


class AsyncClient:
    """A ``Client`` for asyncio: the same methods, run in threads, of which a client has up to 64.

    So at most 64 waits go on at a time, and others queue behind them; for more, read ``predictions()``.
    """

    def __init__(
        self, loop: str, bootstrap: str | None = None, settings: Settings | None = None
    ) -> None:
        self._client = Client(loop, bootstrap, settings)
        self._threads = ThreadPoolExecutor(WAITERS, "counterpoint-async")

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(call, *args, **kwargs)
        )

    async def send_input(
        self,
        event_id: str,
        features: Features,
        text: str | None = None,
        occurred_at: int | datetime | None = None,
    ) -> None:
        """See ``Client``."""
        await self._run(self._client.send_input, event_id, features, text, occurred_at)

    async def send_inputs(self, inputs: Iterable[Input | tuple[Any, ...]]) -> int:
        """See ``Client``; the inputs are iterated over in another thread."""
        return await self._run(self._client.send_inputs, inputs)

    async def send_feedback(self, event_id: str, **verdict: Any) -> str:
        """See ``Client``: the same arguments."""
        return await self._run(self._client.send_feedback, event_id, **verdict)

    async def send_feedbacks(self, verdicts: Iterable[Verdict]) -> list[str]:
        """See ``Client``; the verdicts are iterated over in another thread."""
        return await self._run(self._client.send_feedbacks, verdicts)

    async def predictions(self, from_beginning: bool = False) -> AsyncGenerator[Prediction, None]:
        """See ``Client``; begins with the first step of the iteration, and ends with ``aclose()``."""
        found = await self._run(self._client.predictions, from_beginning)
        try:
            while True:
                prediction = await self._run(next, found, None)
                if prediction is None:
                    return
                yield prediction
        finally:
            await self._run(found.close)

    async def wait_prediction(self, event_id: str, timeout: float = 30.0) -> Prediction:  # noqa: ASYNC109  as in Client
        """See ``Client``."""
        return await self._run(self._client.wait_prediction, event_id, timeout)

    async def wait_outcome(self, feedback_id: str, timeout: float = 30.0) -> Outcome:  # noqa: ASYNC109
        """See ``Client``."""
        return await self._run(self._client.wait_outcome, feedback_id, timeout)

    async def wait_served(
        self,
        model_version: int,
        timeout: float = 30.0,  # noqa: ASYNC109
        model_key: str = "",
    ) -> None:
        """See ``Client``."""
        await self._run(self._client.wait_served, model_version, timeout, model_key)

    async def flush(self) -> None:
        """See ``Client``."""
        await self._run(self._client.flush)

    async def close(self) -> None:
        """See ``Client``."""
        try:
            await self._run(self._client.close)
        finally:
            self._threads.shutdown(wait=False)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
