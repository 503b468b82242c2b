"""Follows topics in one background thread and keeps what its caller takes from them, so that waiting misses nothing.

It does not know what the records mean: whoever makes it says what to take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from time import monotonic, sleep
from typing import Any, Generic, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.core.errors import StreamsError, Unavailable
from streams.engine.reader import TIMEOUT_S, group_less, partitions_of

K = TypeVar("K")
V = TypeVar("V")

POLL_S = RETRY_S = 0.05
CHUNK = 2_000
LOW_LATENCY = {"fetch.wait.max.ms": 20, "fetch.error.backoff.ms": 50, "fetch.queue.backoff.ms": 20}


class Recent(Generic[K, V]):
    """A dict of the newest keys; older ones are let go, and counted."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[K, V] = {}
        self.gone = 0

    def get(self, key: K) -> V | None:
        """The value, or None."""
        return self._held.get(key)

    def holds(self, key: K) -> bool:
        """Whether there is a value."""
        return key in self._held

    def put(self, key: K, value: V) -> None:
        """Keep a value."""
        self._held[key] = value
        if len(self._held) > self._most:
            del self._held[next(iter(self._held))]
            self.gone += 1

    def drop(self, key: K) -> None:
        """Let go of a value, if there is one."""
        self._held.pop(key, None)

    def put_first(self, key: K, value: V) -> None:
        """Keep a value unless its key has one."""
        if key not in self._held:
            self.put(key, value)


def connect(kafka: Mapping[str, Any]) -> Consumer:
    """A consumer of no group that hands over records as soon as they are there."""
    return group_less(kafka, **LOW_LATENCY)


def ends_of(consumer: Consumer, topic: str) -> dict[int, int]:
    """Where the partitions of a topic end now.

    Raises:
        Unavailable: The broker does not answer, or has no such topic.
    """
    deadline = monotonic() + TIMEOUT_S
    while True:
        try:
            partitions = partitions_of(consumer, topic)
            return {p: _end(consumer, topic, p) for p in partitions}
        except KafkaException as error:
            # A partition's leader may just be moving, or not be chosen yet.
            if not error.args[0].retriable() or monotonic() > deadline:
                message = f"topic {topic} cannot be looked up: {error.args[0].str()}"
                raise Unavailable(message) from error
            sleep(RETRY_S)


def _end(consumer: Consumer, topic: str, partition: int) -> int:
    found = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_S)
    return int(found[1])


def refusal(error: KafkaError) -> bool:
    """Whether Kafka will not get over an error by itself."""
    return error.fatal() or error.code() in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    )


class Follower:
    """See the module.  Nothing is connected before ``mark``, and nothing read before the first ``wait_for``.

    Args:
        kafka: Connection settings, in librdkafka's names.
        takers: By topic, what is done with each of its records; called in the thread, under the lock that claims
            are tried under.
        back: By topic, how many records before its end the reading starts.
    """

    def __init__(
        self,
        kafka: Mapping[str, Any],
        takers: Mapping[str, Callable[[Message], None]],
        back: Mapping[str, int] = {},
    ) -> None:
        self._kafka, self._takers, self._back = kafka, takers, back
        self._starts: dict[str, dict[int, int] | StreamsError] = {}
        self._followed: set[str] = set()
        self._setting_up = threading.Lock()
        self._changed = threading.Condition()
        self._wanted: SimpleQueue[list[TopicPartition]] = SimpleQueue()
        self._consumer: Consumer | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._failure: str | None = None

    def mark(self) -> None:
        """Note where the topics end: what comes later is not missed.  Does so once.

        A topic that may not be looked at is told of when it is waited for: who only writes needs no such right.
        """
        with self._setting_up:
            if self._starts:
                return
            self._consumer = connect(self._kafka)
            for topic in self._takers:
                try:
                    ends = ends_of(self._consumer, topic)
                    back = self._back.get(topic, 0)
                    self._starts[topic] = {p: max(end - back, 0) for p, end in ends.items()}
                except StreamsError as error:
                    self._starts[topic] = error

    def wait_for(
        self, topics: tuple[str, ...], claim: Callable[[], object], timeout_s: float
    ) -> bool:
        """Wait until a claim comes true; false if it does not in time.

        Raises:
            Unavailable: The topics cannot be read.
        """
        self.mark()
        deadline = monotonic() + timeout_s
        self._follow(topics)
        with self._changed:
            while not claim():
                left = deadline - monotonic()
                if left <= 0:
                    return False
                if self._failure is not None:
                    raise Unavailable(self._failure)
                self._changed.wait(min(left, 1.0))  # claims about time come true without records
        return True

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        with self._setting_up:
            if self._thread is not None:
                self._thread.join()
            elif self._consumer is not None:
                self._consumer.close()
            self._thread = self._consumer = None

    def _follow(self, topics: tuple[str, ...]) -> None:
        with self._setting_up:
            if self._consumer is None:
                message = "the client is closed"
                raise Unavailable(message)
            for topic in topics:
                starts = self._starts[topic]
                if isinstance(starts, StreamsError):
                    raise starts
                if topic not in self._followed:
                    self._followed.add(topic)
                    self._wanted.put([TopicPartition(topic, p, at) for p, at in starts.items()])
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run,
                    args=(self._consumer,),
                    name="counterpoint-client",
                    daemon=True,
                )
                self._thread.start()

    def _run(self, consumer: Consumer) -> None:
        try:
            while not self._closing.is_set():
                while (
                    not self._wanted.empty()
                ):  # here and not where it is asked for: that deadlocks
                    consumer.incremental_assign(self._wanted.get())
                first = consumer.poll(POLL_S)
                if first is not None:  # consume() alone would wait until it is full
                    self._take([first, *consumer.consume(CHUNK, 0)])
        except (KafkaException, StreamsError) as error:
            self._fail(str(error))
        finally:
            consumer.close()

    def _take(self, messages: list[Message]) -> None:
        with self._changed:
            for message in messages:
                error = message.error()
                if error is None:
                    self._takers[message.topic()](message)
                elif refusal(error):
                    self._failure = f"{message.topic()} cannot be read: {error.str()}"
            self._changed.notify_all()

    def _fail(self, reason: str) -> None:
        with self._changed:
            self._failure = reason
            self._changed.notify_all()
