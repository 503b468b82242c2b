"""Follows the loop's topics and keeps the projection, in a thread of its own.

The positions read to are stored with the rows that were made, in one transaction: nothing is left out or taken twice,
however it ends.  What people are asked and what they said comes before predictions; what the rows are is ``folding``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from streams.core import topics as names
from streams.core.errors import StreamsError, Unavailable
from streams.core.events import (
    DeadLetter,
    Feedback,
    Outcome,
    Prediction,
    Review,
    Score,
)
from streams.desk import live
from streams.desk.folding import Came, Folding, Read
from streams.desk.live import Pulse
from streams.desk.store import Store

log = logging.getLogger("counterpoint.desk")

FIRST = (names.REVIEWS, names.FEEDBACK, names.OUTCOMES, names.SCORES, names.DEAD_LETTERS)
FOLLOWED = (*FIRST, names.PREDICTIONS)
KEEP = 200_000
"""Of the newest so many predictions of a loop those are kept, too, that nobody is asked about."""
CHUNK, IDLE_S, ASK_S, STOP_S = 2_000, 0.02, 10.0, 5.0
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
UNASKED = ("route", b"auto")
"""The header of a prediction that nobody is asked about: it tells without decoding."""
TELLS: Mapping[type, str] = {
    Prediction: live.PREDICTIONS,
    Review: live.REVIEWS,
    Feedback: live.VERDICTS,
    Outcome: live.OUTCOMES,
    Score: live.QUALITY,
    DeadLetter: live.TROUBLE,
}
CONSUMER = {
    "group.id": "counterpoint-desk",  # librdkafka wants a name; it is never joined
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": 20,
    "queued.max.messages.kbytes": 32_768,
    "log_level": 0,  # what is wrong is told in words, once
}
_REFUSED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)
Place = tuple[str, int]


class Projection:
    """Reads until it is stopped; through outages of Kafka and of the database.

    Args:
        kafka: Connection settings, in librdkafka's names.
        topics: By suffix, the names of the loop's topics.
        topic_ids: Asks for the identities of the topics.
        keep: Of the newest so many predictions, an equal share in each partition, those are kept that nobody is asked
            about; older ones are not even read.
    """

    def __init__(
        self,
        kafka: Mapping[str, Any],
        topics: Mapping[str, str],
        store: Store,
        folding: Folding,
        pulse: Pulse,
        topic_ids: Callable[[], Mapping[str, str]],
        keep: int = KEEP,
    ) -> None:
        self._kafka, self._topics = kafka, topics
        self._keep, self._share = keep, keep
        self._store, self._folding, self._pulse = store, folding, pulse
        self._topic_ids = topic_ids
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="desk-projection", daemon=True)
        self._position: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._caught_up = threading.Event()
        self.skipped = 0
        self.taken = 0
        self.trouble: str | None = None

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, after the batch it is at; does not wait for a Kafka that is away."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    @property
    def ready(self) -> bool:
        """Whether it has been where the topics ended when it began."""
        return self._caught_up.is_set()

    def behind(self) -> int:
        """How many records are not yet read, as far as is known."""
        return sum(
            max(end - self._position.get(place, 0), 0) for place, end in list(self._ends.items())
        )

    def await_ready(self, timeout_s: float) -> bool:
        """Waits until it has been at the topics' ends."""
        return self._caught_up.wait(timeout_s)

    def _run(self) -> None:
        failures = 0
        while not self._ending.is_set():
            before = self.taken
            try:
                self._follow()
            except (KafkaException, StreamsError, SQLAlchemyError) as error:
                failures = 0 if self.taken > before else failures
                self.trouble = _in_words(error)
                log.warning("the desk does not read on: %s", self.trouble)
                self._ending.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
                failures += 1

    def _follow(self) -> None:
        """Reads on from the stored positions."""
        self._folding.topic_ids = self._topic_ids()
        with self._store.reading() as connection:
            stored = self._folding.positions(connection)
        first, second = Consumer({**CONSUMER, **self._kafka}), Consumer({**CONSUMER, **self._kafka})
        try:
            self._assign(first, FIRST, stored)
            self._share = self._keep // self._assign(second, (names.PREDICTIONS,), stored)
            began = dict(self._ends)
            while not self._ending.is_set():
                self._step(first, second)
                self.trouble = None
                if not self.ready and all(self._position[p] >= end for p, end in began.items()):
                    self._caught_up.set()
        finally:
            first.close()
            second.close()

    def _assign(
        self, consumer: Consumer, suffixes: tuple[str, ...], stored: dict[Place, int]
    ) -> int:
        """Gives a consumer the partitions of these topics, each from where it was read to; how many there are."""
        for suffix in suffixes:
            topic = self._topics[suffix]
            found = consumer.list_topics(topic, timeout=ASK_S).topics[topic]
            if found.error is not None:
                message = f"topic {topic}: {found.error.str()}"
                raise Unavailable(message)
            for partition in found.partitions:
                place = (topic, partition)
                low, high = consumer.get_watermark_offsets(TopicPartition(*place), timeout=ASK_S)
                self._ends[place] = high
                self._position[place] = max(stored.get(place, 0), low)
        mine = {self._topics[suffix] for suffix in suffixes}
        partitions = [
            TopicPartition(*place, at) for place, at in self._position.items() if place[0] in mine
        ]
        consumer.assign(partitions)
        return len(partitions)

    def _step(self, first: Consumer, second: Consumer) -> None:
        """Takes in what has come; predictions only when the rest does not fill a batch."""
        messages = first.consume(CHUNK, 0)
        if len(messages) < CHUNK:
            messages += second.consume(CHUNK, 0)
        if not messages:
            one = first.poll(IDLE_S)
            messages = [] if one is None else [one, *first.consume(CHUNK, 0)]
        if messages:
            self._watch(first)
            self._watch(second)
            self._take(messages)

    def _watch(self, consumer: Consumer) -> None:
        """Where the partitions end, as the last fetch told."""
        for place in consumer.assignment():
            high = consumer.get_watermark_offsets(place, cached=True)[1]
            if high not in (OFFSET_INVALID, -1):
                self._ends[place.topic, place.partition] = high

    def _take(self, messages: list[Any]) -> None:
        came: list[Came] = []
        position: dict[Place, int] = {}
        for message in messages:
            place = (message.topic(), message.partition())
            error = message.error()
            if error is None:
                position[place] = message.offset() + 1
                if self._is_wanted(message, place):
                    value = message.value()
                    stamp = message.timestamp()[1]
                    came.append(Came(*place, message.offset(), stamp, message.key(), value))
            elif error.code() == KafkaError._PARTITION_EOF:
                self._ends[place] = position[place] = message.offset()
            elif error.fatal() or error.code() in _REFUSED:
                raise Unavailable(f"{place[0]}: {error.str()}")
        read = [
            Read(*place, at, self._keep_from(place, at))
            for place, at in position.items()
            if at > self._position.get(place, 0)
        ]
        if not read:
            return
        with self._store.projecting() as connection:
            kinds = self._folding.take(connection, came, read)
        self._position.update(position)
        self.taken += len(came)
        self._pulse.beat({TELLS[kind] for kind in kinds if kind in TELLS})

    def _is_wanted(self, message: Any, place: Place) -> bool:
        if not message.value():
            return False
        if message.offset() >= self._keep_from(place, self._ends.get(place, 0)):
            return True
        unasked = UNASKED in (message.headers() or ())
        self.skipped += unasked
        return not unasked

    def _keep_from(self, place: Place, position: int) -> int:
        """The offset from which on unasked predictions are kept, where a partition of them is read to a position."""
        return position - self._share if place[0] == self._topics[names.PREDICTIONS] else 0


def _in_words(error: Exception) -> str:
    if isinstance(error, KafkaException):
        return f"Kafka: {error.args[0].str()}"
    return str(error.orig) if isinstance(error, DBAPIError) else str(error)
