"""The lowest share of recent numbers, followed along a stream."""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from bisect import bisect_left, bisect_right
from collections import deque
from math import ceil, inf
from typing import Any

RECENT = 512
"""So many numbers an event's is compared with."""
FEW = 30
"""Before so many, nobody knows what is low: all are asked."""
_STEPS = 65_535
"""A note holds the numbers in so many steps."""


class Lowest:
    """The lowest share of the recent numbers from 0 to 1, and how far another one belongs to it.

    They are sorted anew every few events and not at each: what an event is compared with ends a little earlier, which
    biases nothing, and the sorting costs a tenth of keeping them in order.

    Attributes:
        is_cold: Whether there are too few.
        clear: Whatever is above it is not in the share.
        left: Numbers to be remembered until they are sorted anew.
        remember: Takes one that is above ``clear``, the caller counting ``left`` down, which stays above 0.
    """

    __slots__ = (
        "_bound",
        "_ranked",
        "_recent",
        "_share",
        "_wanted",
        "clear",
        "is_cold",
        "left",
        "remember",
    )

    def __init__(self, share: float) -> None:
        self._share = share
        self._take(())

    def _take(self, numbers: tuple[float, ...]) -> None:
        self._recent: deque[float] = deque(numbers, maxlen=RECENT)
        self._bound = inf
        self.remember = self._recent.append
        self._rank()

    def _rank(self) -> None:
        count = len(self._recent)
        self.left = 128 if count > FEW else 1
        self.is_cold = count < FEW
        # A new one has a rank of its own among them: one more place than there are.
        self._wanted = self._share * (count + 1)
        edge = ceil(self._wanted)
        # Who is above the edge only has to be known to be: sorting the lowest alone costs a third.
        bound = self._bound
        ranked = sorted([number for number in self._recent if number <= bound])
        if len(ranked) <= edge:
            ranked = sorted(self._recent)
        self._ranked = ranked
        self._bound = ranked[2 * edge] if 2 * edge < len(ranked) else inf
        self.clear = ranked[edge] if edge < len(ranked) else inf

    def holds(self, number: float) -> float:
        """How much of it is in the share: 1 or 0, and between them at the edge; then remember it."""
        part = 0.0
        if number <= self.clear:
            below = bisect_left(self._ranked, number)
            ties = bisect_right(self._ranked, number, below) - below
            # Uniformly among those that tie with it, it has `below` to `below + ties` before it.
            part = (self._wanted - below) / (ties + 1)
            part = 0.0 if part < 0.0 else part if part < 1.0 else 1.0
        self.remember(number)
        self.left -= 1
        if not self.left:
            self._rank()
        return part

    def dump(self, room: int) -> Any:
        """The latest of them, as many as there is room for, each rounded to 16 bits."""
        most = min(len(self._recent), room // 4 * 3 // 2)
        latest = list(self._recent)[len(self._recent) - most :]
        steps = array("H", (min(max(round(n * _STEPS), 0), _STEPS) for n in latest))
        return b64encode(steps.tobytes()).decode()

    def load(self, note: Any) -> None:
        """Take them in place of these."""
        steps = array("H", b64decode(note))
        self._take(tuple(step / _STEPS for step in steps))
