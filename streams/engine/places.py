"""Whether a worker may go on where its group's offsets say: lost offsets and lost records stop it, in words.

What a group had committed is also told by its members' heartbeats, so an offset that is gone does not pass for a new
group, nor one that was set back for where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faust.types import TP

from streams.core.errors import BadRecord, ConfigError, Mistake
from streams.core.events import Position, Status
from streams.engine.codec import Codec
from streams.engine.reader import group_less, to_end, watermarks


class Places:
    """The places of one role's group.

    Args:
        kafka: Connection settings, in librdkafka's names.
        status: The loop's status topic.
        topic_ids: Identities of the topics now.
        rewind: Whether to go on where the offsets are though members had committed more.
    """

    def __init__(
        self,
        *,
        kafka: Mapping[str, Any],
        codec: Codec,
        status: str,
        role: str,
        group: str,
        topic_ids: Mapping[str, str],
        rewind: bool = False,
    ) -> None:
        self._rewind = rewind
        self._kafka, self._codec, self._status = kafka, codec, status
        self._role, self._group, self._ids = role, group, topic_ids

    def check(self, committed: Mapping[TP, int | None]) -> None:
        """Compares the group's offsets with what its members had read, and with what is still there.

        Raises:
            ConfigError: Offsets vanished or went back, a topic was made again, or records were deleted before they were
                read.
            Unavailable: The broker does not answer.
        """
        if not committed:
            return
        told = {} if self._rewind else self._told()
        consumer = group_less(self._kafka)
        try:
            lows = {tp: watermarks(consumer, tp.topic, tp.partition)[0] for tp in committed}
        finally:
            consumer.close()
        mistakes = lost(self._group, committed, told, lows, self._ids)
        if mistakes:
            raise ConfigError(mistakes)

    def _told(self) -> dict[TP, Position]:
        told: dict[TP, tuple[int, Position]] = {}
        for message in to_end(self._kafka, self._status):
            try:
                status = self._codec.decode_as(Status, message.value() or b"")
            except BadRecord:  # a stranger's
                continue
            if status.role == self._role:
                for position in status.positions:
                    tp = TP(position.topic, position.partition)
                    if tp not in told or told[tp][0] <= status.at:
                        told[tp] = (status.at, position)
        return {tp: position for tp, (_, position) in told.items()}


def lost(
    group: str,
    committed: Mapping[TP, int | None],
    told: Mapping[TP, Position],
    lows: Mapping[TP, int],
    topic_ids: Mapping[str, str],
) -> list[Mistake]:
    """What a group cannot read any more, each with the way out."""
    return [
        mistake
        for tp, offset in sorted(committed.items())
        if (mistake := _lost(group, tp, offset, told.get(tp), lows[tp], topic_ids.get(tp.topic)))
    ]


def _lost(
    group: str, tp: TP, offset: int | None, told: Position | None, low: int, topic_id: str | None
) -> Mistake | None:
    where, had = f"{tp.topic}-{tp.partition}", 0 if told is None else told.committed
    reset = (
        f"kafka-consumer-groups --group {group} --topic {tp.topic}:{tp.partition} "
        "--reset-offsets --to-earliest --execute"
    )
    if told is not None and told.topic_id and topic_id and told.topic_id != topic_id:
        if offset is None and had:
            expected = (
                f"the topic that was read up to {had}, but it was deleted and made again. "
                f"To go on with the new one: {reset}"
            )
            return Mistake(where, topic_id, expected)
    elif (offset or 0) < had:
        what = "its offsets are gone" if offset is None else "it was set back, or the broker forgot"
        expected = (
            f"group {group} to be at {had}: {what}. To go on where it was: {reset} with --to-offset {had} in place of "
            "--to-earliest. To read again what it had read, on purpose: start it once with --rewind"
        )
        return Mistake(where, offset, expected)
    if offset is not None and offset < low:
        expected = (
            f"to be at most {offset}, where group {group} is: {low - offset} records were deleted before they were "
            f"read. Give the topic a longer retention; to go on without them: {reset}"
        )
        return Mistake(f"{where} log start", low, expected)
    return None
