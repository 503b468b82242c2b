"""Finds everything about one event on a loop's topics, and asks today's model about it.

The event id is the key, so one partition of each topic is read, and of that only the time in which it can be.  Two
things tell nothing about where they are: the inputs of a user's own topic, which are searched backwards from the
prediction, and dead letters, which are few.  What the records mean is ``core/story``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, Message

from streams import bootstrap
from streams.config import Settings
from streams.core.errors import BadRecord, NotFound, StreamsError
from streams.core.events import (
    DeadLetter,
    Example,
    Feedback,
    Input,
    Outcome,
    Prediction,
    Review,
)
from streams.core.failure import Failure, Now
from streams.core.story import Found, Moment, given, moments
from streams.core.topics import (
    DEAD_LETTERS,
    EXAMPLES,
    FEEDBACK,
    INPUTS,
    OUTCOMES,
    PREDICTIONS,
    REVIEWS,
    partition_of,
    topics,
)
from streams.engine import reader
from streams.engine.log import DEFINE, control_kind
from streams.engine.sources import input_reader
from streams.loop import Loop
from streams.operate import require
from streams.show import jsonable
from streams.why import why

SKEW_MS = 5_000
"""How far the clocks of two brokers are apart, at most."""
BACK_MS = (60_000, 3_600_000, 86_400_000)
"""An input is looked for so long before its prediction, then further back, at last in all that is there."""


class Story(NamedTuple):
    """An event's history.

    Attributes:
        today: The answer of today's model to the features of the prediction that counts, with its version; or why
            there is none.
        explanation: Why the prediction that counts is as it is; or why nobody knows.
        failure: What was wrong with it; None if no verdict says otherwise.
    """

    loop: str
    event_id: str
    moments: tuple[Moment, ...]
    today: Mapping[str, Any]
    explanation: Mapping[str, Any]
    failure: Failure | None

    def as_json(self) -> dict[str, Any]:
        """The story in plain values."""
        plain: dict[str, Any] = jsonable(self._asdict())
        if self.failure is not None:
            plain["failure"]["words"] = self.failure.words()
        return plain


def history(loop: Loop, settings: Settings, event_id: str) -> Story:
    """An event's whole story.

    Raises:
        NotFound: Nothing is known of it, or the loop's topics are not there.
        Unavailable: The broker does not answer.
    """
    suffixes = (INPUTS, PREDICTIONS, REVIEWS, FEEDBACK, EXAMPLES, OUTCOMES, DEAD_LETTERS)
    require(loop, settings, *suffixes)
    search = _Search(loop, settings, event_id)
    try:
        found, controls = search.run()
    finally:
        search.close()
    told = moments(found, controls, loop.window_ms)
    if not told:
        message = (
            f"loop {loop.name!r} knows nothing of event {event_id!r}: no input, prediction, verdict, lesson or dead "
            "letter that is still kept has this id"
        )
        raise NotFound(message)
    first = next((each.record for each in found if isinstance(each.record, Prediction)), None)
    if first is None:
        nothing = {"why": "there is no prediction, so nobody knows its features"}
        return Story(loop.name, event_id, told, nothing, nothing, None)
    now = _now(loop, settings, first)
    if isinstance(now, Now):
        says = {"model_version": now.version, **now.answer._asdict()}
        today, asked = {"model_key": first.model_key, **says}, now
    else:
        today, asked = {"why": now}, None
    return Story(loop.name, event_id, told, today, *why(loop, settings, first, given(found), asked))


def _now(loop: Loop, settings: Settings, prediction: Prediction) -> Now | str:
    """What the model of today says, or why it cannot be asked."""
    try:
        fold = bootstrap.today(loop, settings, prediction.model_key)
        return Now(fold.version, fold.answer(prediction.features))
    except StreamsError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  the model is the user's code
        return f"the model raises {type(error).__name__}: {error}"


class _Search:
    """The reading for one event."""

    def __init__(self, loop: Loop, settings: Settings, event_id: str) -> None:
        self._loop, self._kafka, self._codec = loop, settings.kafka(), bootstrap.codec(settings)
        self._specs = topics(loop)
        self._id, self._key = event_id, event_id.encode()
        self._consumer: Consumer = reader.group_less(self._kafka)

    def close(self) -> None:
        self._consumer.close()

    def run(self) -> tuple[list[Found], list[Found]]:
        """The records about the event, and the control records of the log that may be about it."""
        predictions = self._keyed(PREDICTIONS, Prediction)
        feedback = self._keyed(FEEDBACK, Feedback)
        since = min((each.at for each in (*predictions, *feedback)), default=0) - SKEW_MS
        found = predictions + feedback + self._inputs(predictions) + self._letters()
        if predictions:
            found += self._keyed(REVIEWS, Review, since)
        if feedback:
            found += self._keyed(OUTCOMES, Outcome, since)
        keys = {each.record.model_key for each in predictions}
        if keys or not found:  # of a loop's seed, or what nobody knows: only the whole log tells
            lessons, controls = self._lessons(keys, since)
            return found + lessons, controls
        return found, []

    def _keyed(self, suffix: str, cls: type[Any], since: int | None = None) -> list[Found]:
        name = self._specs[suffix].name
        partition = partition_of(self._key, len(self._partitions(name)))
        bounds = {partition: self._since(name, partition, since)}
        return list(self._read(name, bounds, self._has_key, lambda m: self._own(cls, m)))

    def _has_key(self, message: Message) -> bool:
        return bool(message.key() == self._key)

    def _mentions(self, message: Message) -> bool:
        return self._has_key(message) or self._key in (message.value() or b"")

    def _own(self, cls: type[Any], message: Message) -> Any:
        record = self._codec.decode_as(cls, message.value())
        return record if record.event_id == self._id else None

    def _inputs(self, predictions: list[Found]) -> list[Found]:
        spec = self._specs[INPUTS]
        read = input_reader(self._loop.inputs, self._codec)
        partitions = self._partitions(spec.name)

        def own(message: Message) -> Input | None:
            event = read(message.key(), message.value())
            return event if event.event_id == self._id else None

        # What a user's record calls the event may look otherwise in its bytes
        wanted = self._mentions if spec.own else lambda message: True
        likely = [partition_of(self._key, len(partitions))]
        rest = [partition for partition in partitions if partition not in likely]
        for of_these in (likely, rest) if spec.own else (partitions,):
            for bounds in self._backwards(spec.name, of_these, predictions):
                found = list(self._read(spec.name, bounds, wanted, own))
                if found:
                    return found
        return []

    def _backwards(
        self, topic: str, partitions: Iterable[int], predictions: list[Found]
    ) -> Iterator[dict[int, tuple[int, int]]]:
        """Ranges to look at, one after the other: the time of the predictions, then what lies before."""
        ends = {p: reader.watermarks(self._consumer, topic, p) for p in partitions}
        if not predictions:
            yield ends
            return
        first, last = predictions[0].at, predictions[-1].at
        until = {p: self._at(topic, p, last + SKEW_MS, high) for p, (_, high) in ends.items()}
        for back in BACK_MS:
            begin = {p: self._at(topic, p, first - back, until[p]) for p in ends}
            yield {p: (begin[p], until[p]) for p in ends}
            until = begin
        yield {p: (low, until[p]) for p, (low, _) in ends.items()}

    def _letters(self) -> list[Found]:
        def about(message: Message) -> DeadLetter | None:
            letter = self._codec.decode_as(DeadLetter, message.value())
            is_about = letter.event_id == self._id or letter.key == self._key
            return letter if is_about else None

        name = self._specs[DEAD_LETTERS].name
        bounds = {p: self._since(name, p, None) for p in self._partitions(name)}
        return list(self._read(name, bounds, self._mentions, about))

    def _lessons(self, keys: set[str], since: int) -> tuple[list[Found], list[Found]]:
        name = self._specs[EXAMPLES].name
        partitions = self._partitions(name)
        if keys:
            partitions = sorted({partition_of(key.encode(), len(partitions)) for key in keys})
        bounds = {p: self._since(name, p, since if keys else None) for p in partitions}

        def of(message: Message) -> Any:
            kind = control_kind(message.headers())
            if kind is None:
                return self._own(Example, message)
            return None if kind == DEFINE else self._codec.decode_any(message.value())[1]

        def wanted(message: Message) -> bool:
            return control_kind(message.headers()) is not None or self._mentions(message)

        found = list(self._read(name, bounds, wanted, of))
        lessons = [each for each in found if isinstance(each.record, Example)]
        return lessons, [each for each in found if not isinstance(each.record, Example)]

    def _read(
        self,
        topic: str,
        bounds: Mapping[int, tuple[int, int]],
        wanted: Callable[[Message], bool],
        of: Callable[[Message], Any],
    ) -> Iterator[Found]:
        starts = {p: start for p, (start, _) in bounds.items()}
        ends = {p: end for p, (_, end) in bounds.items()}
        for message in reader.to_end(self._kafka, topic, starts, ends):
            if not wanted(message):
                continue
            try:
                record = of(message)
            except BadRecord:  # it is a dead letter, and found there
                continue
            if record is not None:
                at = message.timestamp()[1]
                where = topic, message.partition() or 0, message.offset() or 0
                yield Found(*where, at, record)

    def _partitions(self, topic: str) -> list[int]:
        return reader.partitions_of(self._consumer, topic)

    def _since(self, topic: str, partition: int, since: int | None) -> tuple[int, int]:
        low, high = reader.watermarks(self._consumer, topic, partition)
        return low if since is None else self._at(topic, partition, since, high), high

    def _at(self, topic: str, partition: int, time_ms: int, end: int) -> int:
        return min(reader.offset_at(self._consumer, topic, partition, time_ms, end), end)
