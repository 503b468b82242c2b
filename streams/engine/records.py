"""Messages of librdkafka as the records that a partition of the joiner takes in."""

from __future__ import annotations

from collections import defaultdict

from confluent_kafka import Message

from streams.engine.partition import Record


def by_partition(chunk: list[Message]) -> dict[tuple[str, int], list[Record]]:
    """The records of a chunk, in order, by topic and partition."""
    found: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for message in chunk:
        where = message.topic() or "", message.partition() or 0
        time_ms, headers = message.timestamp()[1], message.headers() or ()
        record = Record(
            *where, message.offset() or 0, time_ms, message.key(), message.value(), headers
        )
        found[where].append(record)
    return found
