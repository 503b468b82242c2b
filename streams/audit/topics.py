"""Reading topics, and the places of records in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.audit.report import Fields

Place: TypeAlias = tuple[str, int, int]
"""Topic, partition, offset."""
Bounds: TypeAlias = Mapping[int, tuple[int, int]]
"""Partition to its first offset and its end."""


AHEAD_BYTES = 4 << 20
"""So much may be read ahead of what is counted: librdkafka would take 64 MB, and more in one answer."""


def consumer_of(kafka: Mapping[str, Any]) -> Consumer:
    """A consumer that belongs to no group."""
    return Consumer(
        {
            "group.id": "counterpoint-audit",  # librdkafka wants a name; it is never joined
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "queued.max.messages.kbytes": AHEAD_BYTES >> 10,
            "fetch.max.bytes": AHEAD_BYTES,
            **kafka,
        }
    )


def bounds_of(consumer: Consumer, topic: str) -> Bounds:
    """Where a topic begins and ends now."""
    found = consumer.list_topics(topic, timeout=30).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return {
        p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)
        for p in sorted(found.partitions)
    }


def read(
    consumer: Consumer,
    topic: str,
    bounds: Bounds,
    progress: Callable[[float], None] = lambda part: None,
) -> Iterator[Message]:
    """Every record within the bounds, partition by partition."""
    total, done = sum(high - low for low, high in bounds.values()), 0
    for partition, (low, high) in bounds.items():
        if low == high:
            continue
        consumer.assign([TopicPartition(topic, partition, low)])
        for message in _to(consumer, high):
            done += 1
            if done % 10_000 == 0:
                progress(done / total)
            yield message
    consumer.unassign()
    progress(1.0)


def _to(consumer: Consumer, end: int) -> Iterator[Message]:
    while True:
        for message in consumer.consume(5_000, 0.02):  # a longer wait is one for a full chunk
            error, offset = message.error(), message.offset() or 0
            if error is None:
                if offset < end:
                    yield message
                if offset >= end - 1:
                    return
            elif error.code() == KafkaError._PARTITION_EOF:
                return
            elif error.fatal() or not error.retriable():
                raise KafkaException(error)


def at(source: Fields) -> Place:
    """Where a source is."""
    return source["topic"], source["partition"], source["offset"]


def place(message: Message) -> Place:
    """Where a record is."""
    return message.topic() or "", message.partition() or 0, message.offset() or 0


def show(where: Place) -> str:
    """A place in words."""
    topic, partition, offset = where
    return f"{topic}-{partition} at {offset}"
