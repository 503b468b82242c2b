"""What the policies of one input partition remember, as a note that is committed along with the partition's offset.

A note is text of at most ``ROOM`` characters, for Kafka keeps no more beside an offset.  It holds what each policy
remembers under the policy's name, and what a policy does not find there it begins anew: so a changed policy, or a note
of another release, costs a cold start and nothing else.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

ROOM = 4000
"""Characters of a note, all of them ASCII: a broker's ``offset.metadata.max.bytes`` is 4,096."""
UNASKED = "unasked"


class Kept(Protocol):
    """What one policy remembers."""

    def dump(self, room: int) -> Any:
        """It as plain JSON, of about ``room`` characters at most."""

    def load(self, note: Any) -> None:
        """Take it in place of what is there; ValueError, TypeError or LookupError if it is something else."""


class Memory:
    """What all policies of one partition remember.

    Attributes:
        partition: Which of ...
        partitions: ... so many: a budget is split over them.
        now: The time, in seconds since the epoch; whoever routes sets it.
        unasked: Events that a policy would have had asked and for which its budget had nothing left.
    """

    __slots__ = ("_kept", "_note", "now", "partition", "partitions", "unasked")

    def __init__(self, partition: int = 0, partitions: int = 1, note: str = "") -> None:
        self.partition, self.partitions = partition, partitions
        self.now, self.unasked = 0.0, 0
        self._kept: dict[str, Kept] = {}
        self._note = _read(note)
        with suppress(ValueError, TypeError):
            self.unasked = int(self._note.get(UNASKED, 0))

    def keep(self, name: str, kept: Kept) -> None:
        """Have it in the notes, and take from this one what is of it."""
        self._kept[name] = kept
        if name in self._note:
            with suppress(ValueError, TypeError, LookupError):
                kept.load(self._note[name])

    def note(self) -> str:
        """All that is remembered; empty if nothing is."""
        if not self._kept:
            return ""
        room = ROOM // len(self._kept) - 40  # its name and its punctuation
        parts = {name: kept.dump(room) for name, kept in self._kept.items()}
        if self.unasked:
            parts[UNASKED] = self.unasked
        text = json.dumps(parts, separators=(",", ":"))
        return text if len(text) <= ROOM else ""


class Seat(NamedTuple):
    """Where a policy decides: the salt of its draws, which no other one has, and the memory of the partition."""

    salt: str
    memory: Memory

    def part(self, number: int) -> Seat:
        """The seat of one of several policies."""
        return Seat(f"{self.salt}{number}/", self.memory)


def _read(note: str) -> dict[str, Any]:
    try:
        parts = json.loads(note) if note else {}
    except ValueError:
        return {}
    return parts if isinstance(parts, dict) else {}
