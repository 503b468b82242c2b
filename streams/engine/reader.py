"""Reads partitions from an offset to the end that they have now, in bulk and outside of any consumer group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic, sleep
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.core.errors import Unavailable

TIMEOUT_S = 30.0
BULK = {"queued.max.messages.kbytes": 32_768, "queued.min.messages": 30_000}
"""What librdkafka reads ahead: with its own 64 MB and 100,000 records a partition it holds some 300 MB."""
T = TypeVar("T")
_REFUSED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)


def group_less(kafka: Mapping[str, Any], **overrides: Any) -> Consumer:
    """A consumer that belongs to no group and commits nothing."""
    return Consumer(
        {
            "group.id": "counterpoint-reader",  # librdkafka wants a name; it is never joined
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            # What is in no committed transaction is not there; a partition ends where the first open one begins,
            # so that who reads to the end waits for nobody's commit.
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
            **kafka,
            **overrides,
        }
    )


def partitions_of(consumer: Consumer, topic: str) -> list[int]:
    """The partitions of a topic.

    Raises:
        Unavailable: There is no such topic, or it may not be read.
    """
    told = patiently(lambda left_s: consumer.list_topics(topic, timeout=left_s), f"topic {topic}")
    found = told.topics[topic]
    if found.error is not None:
        message = f"topic {topic}: {found.error.str()}"
        raise Unavailable(message)
    return sorted(found.partitions)


def patiently(ask: Callable[[float], T], what: str, timeout_s: float = TIMEOUT_S) -> T:
    """Asks the broker until it answers: leaders move, coordinators load, and a moment later all is well.

    Args:
        ask: The question, given the seconds that are left for it.
        what: What it is about, for the error.

    Raises:
        Unavailable: It did not answer in time, or may not answer this user.
    """
    deadline = monotonic() + timeout_s
    while True:
        left_s = max(deadline - monotonic(), 0.1)
        try:
            return ask(left_s)
        except KafkaException as error:
            told = error.args[0]
            if told.code() in _REFUSED or monotonic() >= deadline:
                message = f"{what}: {told.str()}"
                raise Unavailable(message) from error
            sleep(min(0.1, left_s))


def watermarks(
    consumer: Consumer, topic: str, partition: int, timeout_s: float = TIMEOUT_S
) -> tuple[int, int]:
    """First offset and end of a partition, asked of the broker.

    Raises:
        Unavailable: The broker did not answer.
    """
    where = TopicPartition(topic, partition)
    low, high = patiently(
        lambda left_s: consumer.get_watermark_offsets(where, timeout=left_s),
        f"{topic}-{partition}",
        timeout_s,
    )
    return low, high


def offset_at(consumer: Consumer, topic: str, partition: int, time_ms: int, end: int) -> int:
    """The first offset of that time or later, by the broker's clock; ``end`` if there is none.

    Raises:
        Unavailable: The broker did not answer.
    """
    where = TopicPartition(topic, partition, max(time_ms, 0))
    (found,) = patiently(
        lambda left_s: consumer.offsets_for_times([where], timeout=left_s), f"{topic}-{partition}"
    )
    return int(found.offset) if found.offset >= 0 else end


def to_end(
    kafka: Mapping[str, Any],
    topic: str,
    starts: Mapping[int, int] | None = None,
    ends: Mapping[int, int] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Message]:
    """All records of a topic that are there now.

    Args:
        kafka: Connection settings, in librdkafka's names.
        topic: The topic.
        starts: Partition to first offset; all partitions from their first record by default.
        ends: Partition to the offset to stop before; the partition's present end by default.
        stop: Asked between two chunks; true ends the reading.

    Raises:
        Unavailable: The broker did not answer, or refused.
    """
    for chunk in chunks_to_end(kafka, {topic: starts}, {topic: ends}, stop):
        yield from chunk


def chunks_to_end(
    kafka: Mapping[str, Any],
    starts: Mapping[str, Mapping[int, int] | None],
    ends: Mapping[str, Mapping[int, int] | None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[list[Message]]:
    """As :func:`to_end`, of several topics, in the chunks they come in."""
    consumer = group_less(kafka, **BULK)
    try:
        todo = _bounds(consumer, starts, ends or {})
        consumer.assign(
            [TopicPartition(topic, partition, low) for (topic, partition), (low, _) in todo.items()]
        )
        while todo and not stop():
            chunk = []
            for message in consumer.consume(5_000, 0.1):
                where = (message.topic(), message.partition())
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    if error.fatal() or error.code() in _REFUSED:
                        text = f"{where[0]}: {error.str()}"
                        raise Unavailable(text)
                    continue  # librdkafka tries again by itself
                if where not in todo:
                    continue
                end = todo[where][1]
                if error is None and message.offset() < end:
                    chunk.append(message)
                if message.offset() + (error is None) >= end:
                    del todo[where]
                    consumer.incremental_unassign([TopicPartition(*where)])
            if chunk:
                yield chunk
    finally:
        consumer.close()


def _bounds(
    consumer: Consumer,
    starts: Mapping[str, Mapping[int, int] | None],
    ends: Mapping[str, Mapping[int, int] | None],
) -> dict[tuple[str, int], tuple[int, int]]:
    bounds = {}
    for topic, wanted in starts.items():
        partitions: Iterable[int] = partitions_of(consumer, topic) if wanted is None else wanted
        until = ends.get(topic) or {}
        for partition in partitions:
            low, high = watermarks(consumer, topic, partition)
            low = max(low, (wanted or {}).get(partition, low))
            high = min(high, until.get(partition, high))
            if low < high:
                bounds[topic, partition] = (low, high)
    return bounds
