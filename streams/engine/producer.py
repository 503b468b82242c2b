"""One confluent-kafka producer per process; what it was given is delivered, or its flush says what was not.

It does not know what it carries: bytes in, bytes out.  Every output of a role goes through here, so that one flush
before the offsets are committed makes the whole role at-least-once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from streams.core.errors import Unavailable

Headers = Sequence[tuple[str, bytes | None]]
Made: TypeAlias = tuple[str, bytes, bytes | None, Headers]
"""A record for a topic: topic, value, key and headers."""
NO_HEADERS: Headers = []

# Longer than any outage a role is to live through: a broker away for a minute stops nothing.
DELIVERY_TIMEOUT_S = 180
# librdkafka may take a partition that once had no leader for lost, whatever it is told later (its issue 5430, met with
# 2.16 when a broker stops under load).  Only a new producer helps, which is what a new process has.
STUCK_S = 20


class Outputs:
    """A producer whose ``flush`` raises unless everything produced so far was delivered."""

    def __init__(self, kafka: Mapping[str, Any], **overrides: Any) -> None:
        self._error: str | None = None
        self._kafka = kafka
        config = {
            "partitioner": "murmur2_random",  # what Kafka's own clients use: else a join misses
            "compression.type": "zstd",
            "enable.idempotence": True,
            "linger.ms": 2,
            "queue.buffering.max.messages": 500_000,
            "message.max.bytes": 32 << 20,  # dead letters hold records of any size
            "delivery.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
            **kafka,
            **overrides,
        }
        only_errors = {"delivery.report.only.error": True, "on_delivery": self._on_delivery}
        self.producer = Producer({**config, **only_errors})
        self._config: Mapping[str, Any] = {**config, "linger.ms": 0}
        self._teller: Producer | None = (
            None  # reports what it delivered, which costs too much for all
        )
        self._produce = self.producer.produce

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._error = f"a record for {message.topic()} was not delivered: {error.str()}"

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int = -1,
    ) -> None:
        """Hands a record over; waits while the local queue is full, which is the back-pressure."""
        while True:
            try:
                if headers is None:
                    self._produce(topic, value, key, partition)
                else:
                    self._produce(topic, value, key, partition, headers=headers)
            except BufferError:
                self.producer.poll(0.05)
            else:
                return

    def send_all(self, made: list[Made]) -> None:
        """Hands many records over in one go, and empties the list: so they leave in few and large requests.

        Spread over the time that it takes to make them they would leave in many small ones, and each would wake a
        thread that takes the interpreter's time: a third of it all, measured.
        """
        produce, poll = self._produce, self.producer.poll
        for topic, value, key, headers in made:
            while True:
                try:
                    produce(topic, value, key, headers=headers)
                except BufferError:
                    poll(0.05)
                else:
                    break
        made.clear()

    def poll(self) -> None:
        """Serves delivery reports without waiting."""
        self.producer.poll(0)

    def flush(self, timeout_s: float = DELIVERY_TIMEOUT_S) -> None:
        """Waits until everything is delivered.

        Raises:
            Unavailable: Something was not, and will not be.
        """
        deadline, stuck = monotonic() + timeout_s, Stuck(self._has_leaders)
        while left := self.producer.flush(max(min(deadline - monotonic(), 1.0), 0)):
            if self._error is not None or monotonic() >= deadline:
                break
            if stuck.after(monotonic(), left):
                message = (
                    f"{left} records are not delivered, although the broker is there again: the producer did not "
                    "recover from an outage; start this process again"
                )
                raise Unavailable(message)
        if self._error is not None:
            raise Unavailable(self._error)
        if left:
            message = f"{left} records were not delivered within {timeout_s:g} s: is the broker up?"
            raise Unavailable(message)

    def _has_leaders(self) -> bool:
        try:
            found = AdminClient({**self._kafka, "log_level": 0}).list_topics(timeout=1.0)
        except KafkaException:
            return False
        return all(
            p.leader >= 0 for topic in found.topics.values() for p in topic.partitions.values()
        )

    def deliver(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers | None = None,
        partition: int = -1,
        timeout_s: float = 30.0,
    ) -> Message:
        """Writes one record and waits until it is there; the message tells its offset and timestamp.

        Raises:
            Unavailable: It was not delivered in time.
        """
        delivered: list[Message] = []

        def report(error: KafkaError | None, message: Message) -> None:
            if error is None:
                delivered.append(message)

        if self._teller is None:
            self._teller = Producer(self._config)
        self._teller.produce(
            topic, value, key, partition, on_delivery=report, headers=list(headers or ())
        )
        deadline = monotonic() + timeout_s
        while not delivered:
            self._teller.poll(0.05)
            if monotonic() > deadline:
                message = f"a record for {topic} was not delivered within {timeout_s:g} s: is the broker up?"
                raise Unavailable(message)
        return delivered[0]


class Stuck:
    """Tells a producer that will not deliver from a broker that is away or slow.

    Args:
        has_leaders: Whether the broker answers, and every partition has a leader.
    """

    def __init__(self, has_leaders: Callable[[], bool]) -> None:
        self._has_leaders = has_leaders
        self._since: tuple[float, int] | None = None

    def after(self, now: float, left: int) -> bool:
        """Whether for long enough nothing became less while it could have, ``left`` records being left ``now``."""
        if self._since is None or left < self._since[1] or not self._has_leaders():
            self._since = (now, left)
        return now - self._since[0] >= STUCK_S
