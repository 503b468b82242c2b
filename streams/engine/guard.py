"""What happens to a record that cannot be used: it becomes a dead letter with its original bytes, and the stream goes on.

A dead letter is safe (flushed with the other outputs) before the record it holds is acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import time
from typing import Protocol

from streams.core.errors import BadRecord
from streams.core.events import DeadLetter, Header
from streams.engine.codec import Codec
from streams.engine.producer import NO_HEADERS, Made, Outputs


class Raw(Protocol):
    """A Kafka record as the transport hands it over (aiokafka's ConsumerRecord)."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes | None]]


def check_size(record: Raw, limit: int) -> None:
    """Refuses what could not be passed on.

    Raises:
        BadRecord: The record is larger than the limit.
    """
    size = len(record.value or b"")
    if size > limit:
        reason = (
            f"the record has {size:,} bytes, more than the {limit:,} allowed (max_record_bytes)"
        )
        raise BadRecord(reason)


class Guard:
    """Sends what a role gives up on to the dead letters."""

    def __init__(self, role: str, topic: str, codec: Codec, outputs: Outputs, limit: int) -> None:
        self.role, self.topic, self.limit = role, topic, limit
        self.count = 0
        self._encode, self._outputs = codec.encoder(DeadLetter, topic), outputs

    def check_size(self, record: Raw) -> None:
        """Refuses what could not be passed on.

        Raises:
            BadRecord: The record is larger than the limit.
        """
        check_size(record, self.limit)

    def bury(
        self, record: Raw, stage: str, error: BaseException, event_id: str | None = None
    ) -> None:
        """Writes the dead letter of a record; the error may know the event better."""
        topic, value, key, _ = self.letter(record, stage, error, event_id)
        self._outputs.send(topic, value, key)

    def letter(
        self, record: Raw, stage: str, error: BaseException, event_id: str | None = None
    ) -> Made:
        """The dead letter of a record, to be sent with what the rest of its batch makes."""
        self.count += 1
        known = error if isinstance(error, BadRecord) else None
        letter = DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            key=record.key,
            value=record.value,
            headers=[Header(name, value) for name, value in record.headers],
            role=self.role,
            stage=stage,
            reason=known.reason if known else f"{type(error).__name__}: {error}",
            event_id=(known.event_id if known else None) or event_id,
            feedback_id=known.feedback_id if known else None,
            failed_at=int(time() * 1000),
        )
        return self.topic, self._encode(letter), record.key, NO_HEADERS
