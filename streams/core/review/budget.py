"""A budget: so many reviews in an hour or a day, split evenly over the input partitions, and never more.

Hours and days are the clock's, in UTC.  Each partition has a whole number of the reviews in each, and those that do not
divide evenly go to one partition after another: together they are exactly the budget, whoever owns the partitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streams.core.errors import Mistake

HOUR_S, DAY_S = 3600, 86_400


@dataclass(frozen=True, slots=True)
class Budget:
    """So many reviews ``per_hour`` or ``per_day``, and at most ``burst`` of them at once: the others as time goes by."""

    per_hour: int | None = None
    per_day: int | None = None
    burst: int | None = None

    def purse(self, partition: int, partitions: int) -> Purse:
        """What one of the partitions has of it."""
        count, span_s = (
            (self.per_hour, HOUR_S) if self.per_hour is not None else (self.per_day, DAY_S)
        )
        return Purse(count or 0, span_s, self.burst, partition, partitions)

    def mistakes(self) -> list[Mistake]:
        """What is wrong with it."""
        given = [count for count in (self.per_hour, self.per_day) if count is not None]
        wrong = [
            count for count in (*given, self.burst) if count is not None and not _counts(count)
        ]
        if len(given) == 1 and not wrong:
            return []
        expected = "per_hour or per_day, and perhaps burst, whole numbers above 0"
        return [Mistake("review.Budget", (self.per_hour, self.per_day, self.burst), expected)]


class Purse:
    """What a partition has left of a budget.

    Attributes:
        name: Of which budget.
    """

    __slots__ = (
        "_at",
        "_burst",
        "_count",
        "_left",
        "_partition",
        "_partitions",
        "_ready",
        "_span_s",
        "_window",
        "name",
    )

    def __init__(
        self, count: int, span_s: int, burst: int | None, partition: int, partitions: int
    ) -> None:
        self._count, self._span_s = count, span_s
        self.name = f"{count}/{span_s}" + (f"/{burst}" if burst else "")
        self._partition, self._partitions = partition, partitions
        self._burst = None if burst is None else max(1, burst // partitions)
        self._window, self._left, self._at = -1, 0, 0.0
        self._ready = float(self._burst or 0)

    def holds(self, now: float) -> bool:
        """Whether another review may be asked for; a clock that goes back brings nothing back."""
        window = int(now // self._span_s)
        if window > self._window:
            self._window, self._left = window, self._whole(window)
        if self._burst is None:
            return self._left > 0
        if now > self._at:
            filled = self._ready + (now - self._at) * self._whole(self._window) / self._span_s
            self._ready, self._at = min(filled, float(self._burst)), now
        return self._left > 0 and self._ready >= 1.0

    def spend(self) -> None:
        """Take one out."""
        self._left -= 1
        self._ready -= 1.0

    def _whole(self, window: int) -> int:
        even, odd = divmod(self._count, self._partitions)
        return even + ((self._partition + window) % self._partitions < odd)

    def dump(self, room: int) -> Any:
        """See :class:`streams.core.review.memory.Kept`."""
        return [self._window, self._left, self._ready, self._at]

    def load(self, note: Any) -> None:
        """See :class:`streams.core.review.memory.Kept`."""
        window, left, ready, at = note
        self._window, self._left = int(window), int(left)
        self._ready, self._at = float(ready), float(at)


def _counts(count: object) -> bool:
    return isinstance(count, int) and not isinstance(count, bool) and count > 0
