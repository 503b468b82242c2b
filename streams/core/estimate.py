"""How often the model is right on all events, told from those that people were asked about.

They see mostly hard cases, so the accuracy of what they saw is not that of the stream.  Each event here counts as many
as it stands for: 1 / p, where p is the probability with which it was sent to them (Hájek's estimator).  The confidence
interval is Wilson's, for as many equally weighted events as these are worth (Kish).
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

from streams.core.events import REVIEW, Example
from streams.core.topics import FEEDBACK

Z = 1.959964
"""Of 95 %."""


class Estimate(NamedTuple):
    """A share, and the interval that holds the true one 95 times of 100."""

    share: float
    low: float
    high: float


class Weighted:
    """Sums of the weights; it takes in only what has a sampling probability.

    That is the first verdict of a person on an event whose first prediction was sent to people: neither verdicts that
    somebody volunteered, nor corrections of earlier ones, nor what nobody answered.
    """

    __slots__ = ("hits", "squares", "total")

    def __init__(self) -> None:
        self.total = self.squares = self.hits = 0.0

    def update(self, example: Example) -> None:
        """Take in an example, if it counts."""
        if example.route != REVIEW or example.corrects or example.predicted is None:
            return
        if example.probability <= 0.0 or example.sources[0].topic != FEEDBACK:
            return
        weight = 1.0 / example.probability
        self.total += weight
        self.squares += weight * weight
        if example.predicted == example.label:
            self.hits += weight

    def estimate(self) -> Estimate | None:
        """The share of right answers; None before the first."""
        if not self.total:
            return None
        share, worth = self.hits / self.total, self.total * self.total / self.squares
        spread = Z * Z / worth
        middle = (share + spread / 2) / (1 + spread)
        reach = Z / (1 + spread) * sqrt(share * (1 - share) / worth + spread / (4 * worth))
        return Estimate(share, max(middle - reach, 0.0), min(middle + reach, 1.0))

    def dump(self) -> list[float]:
        """The state, for a snapshot."""
        return [self.total, self.squares, self.hits]

    def load(self, state: Any) -> None:
        """Take a dumped state in place of this one."""
        self.total, self.squares, self.hits = state
