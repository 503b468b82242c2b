"""Policies that do not look at how sure the model is: everything, a random share, a rule of the business."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from streams.core.errors import Mistake
from streams.core.events import Features, Label
from streams.core.review.draws import lot
from streams.core.review.memory import Seat
from streams.core.review.policy import Asked, Asker, Composable, Scores, share_mistakes


class Answered(NamedTuple):
    """An event and what the model says to it, as rules see it."""

    event_id: str
    features: Features
    label: Label | None
    scores: Scores
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Everything(Composable):
    """Ask about every event."""

    def asker(self, seat: Seat) -> Asker:
        always = Asked(True, "everything", 1.0)
        return lambda event_id, label, scores, confidence, features, knows: always


@dataclass(frozen=True, slots=True)
class Audit(Composable):
    """Ask about a random share of the events, whatever the model says."""

    share: float

    def asker(self, seat: Seat) -> Asker:
        share = float(self.share)
        wins = lot(f"{seat.salt}audit", share)
        yes, no = Asked(True, "audit", share), Asked(False, "audit", share)
        return lambda event_id, label, scores, confidence, features, knows: (
            yes if wins(event_id) else no
        )

    def mistakes(self) -> list[Mistake]:
        return share_mistakes("review.Audit(share)", self.share)


@dataclass(frozen=True, slots=True)
class When(Composable):
    """Ask about the events of which a rule says so; the rule sees an :class:`Answered`.

    >>> policy = When(lambda event: event.features["amount"] > 10_000, "a large amount")
    >>> route = policy.router()
    >>> route("event-1", True, {}, 0.99, {"amount": 20_000}).reason
    'a large amount'
    """

    rule: Callable[[Answered], bool]
    reason: str

    def asker(self, seat: Seat) -> Asker:
        holds, yes, no = self.rule, Asked(True, self.reason, 1.0), Asked(False, self.reason, 0.0)
        return lambda event_id, label, scores, confidence, features, knows: (
            yes if holds(Answered(event_id, features, label, scores, confidence)) else no
        )

    def mistakes(self) -> list[Mistake]:
        wrong: list[Mistake] = []
        if not callable(self.rule):
            wrong.append(Mistake("review.When(rule)", self.rule, "a function of an event"))
        if not self.reason:
            wrong.append(Mistake("review.When(reason)", self.reason, "why it asks, in words"))
        return wrong
