"""Active learning with a budget of labels, after Žliobaitė, Bifet, Pfahringer and Holmes, 2014: *Active Learning With
Drifting Streaming Data*.

Both strategies keep an estimate of what they spend, over about ``WINDOW`` events, and ask nothing while it is above the
budget.  A tenth of the budget is taken from them and drawn from all events, so that none is beyond being asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, sqrt
from typing import Any

from streams.core.errors import Mistake
from streams.core.events import Features, Label
from streams.core.experience import Experience
from streams.core.review.draws import drawer
from streams.core.review.memory import Seat
from streams.core.review.policy import Asked, Asker, Composable, Scores, share_mistakes
from streams.core.review.uncertain import FLOOR, NO_ANSWER

WINDOW = 100
STEP = 0.01
"""By so much of itself a threshold moves with each event."""
SPREAD = 1.0
"""The standard deviation of what the threshold is multiplied by, whose mean is 1."""


class Threshold:
    """A threshold that moves, and what was spent.

    Attributes:
        at: Where it is.
        spent: The labels of the last ``WINDOW`` events, nearly.
    """

    __slots__ = ("at", "spent")

    def __init__(self) -> None:
        self.at, self.spent = 1.0, 0.0

    def count(self, asks: bool) -> None:
        """Take in whether the strategy asked."""
        self.spent += asks - self.spent / WINDOW

    def dump(self, room: int) -> Any:
        """See :class:`streams.core.review.memory.Kept`."""
        return [self.at, self.spent]

    def load(self, note: Any) -> None:
        """See :class:`streams.core.review.memory.Kept`."""
        at, spent = map(float, note)
        self.at, self.spent = at, spent


@dataclass(frozen=True, slots=True)
class VariableUncertainty(Composable):
    """Ask about answers below a threshold that rises while nothing is below it, and falls with each one that is.

    The threshold is multiplied by a random number for each event (the article's randomised variant), so that changes
    where the model is sure of itself are found too.  Without an answer it asks.
    """

    budget: float

    def asker(self, seat: Seat) -> Asker:
        floor, within = self.budget * FLOOR, self.budget * (1.0 - FLOOR)
        name, threshold = f"{seat.salt}variable", Threshold()
        draw = drawer(name)
        seat.memory.keep(name, threshold)

        def ask(
            event_id: str,
            label: Label | None,
            scores: Scores,
            confidence: float | None,
            features: Features,
            knows: Experience,
        ) -> Asked:
            if label is None or confidence != confidence:
                return NO_ANSWER
            luck = draw(event_id)
            if confidence is None:
                return Asked(luck < self.budget, "audit", self.budget)
            likely = 0.0
            if threshold.spent / WINDOW < within:
                likely = 1.0 - _normal((confidence / threshold.at - 1.0) / SPREAD)
                below = luck < likely
                threshold.at *= 1.0 - STEP if below else 1.0 + STEP
                threshold.at = min(max(threshold.at, 1e-3), 1e3)
                threshold.count(below)
            else:
                threshold.count(False)
            probability = max(likely, floor)
            return Asked(luck < probability, "uncertain", probability)

        return ask

    def mistakes(self) -> list[Mistake]:
        return share_mistakes("review.VariableUncertainty(budget)", self.budget)


@dataclass(frozen=True, slots=True)
class Selective(Composable):
    """Ask with a probability of ``budget / (budget + c)``, where c is how far the confidence is above guessing.

    Without an answer it asks.
    """

    budget: float

    def asker(self, seat: Seat) -> Asker:
        budget = float(self.budget)
        floor, within = budget * FLOOR, budget * (1.0 - FLOOR)
        name, threshold = f"{seat.salt}selective", Threshold()
        draw = drawer(name)
        seat.memory.keep(name, threshold)

        def ask(
            event_id: str,
            label: Label | None,
            scores: Scores,
            confidence: float | None,
            features: Features,
            knows: Experience,
        ) -> Asked:
            if label is None or confidence != confidence:
                return NO_ANSWER
            luck = draw(event_id)
            if confidence is None:
                return Asked(luck < budget, "audit", budget)
            likely = 0.0
            if threshold.spent / WINDOW < within:
                likely = budget / (budget + abs(confidence - 1.0 / max(len(scores), 2)))
            threshold.count(luck < likely)
            probability = max(likely, floor)
            return Asked(luck < probability, "uncertain", probability)

        return ask

    def mistakes(self) -> list[Mistake]:
        return share_mistakes("review.Selective(budget)", self.budget)


def _normal(x: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * (1.0 + erf(x / sqrt(2.0)))
