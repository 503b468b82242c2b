"""Asks about what the model is least sure of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import TypeAlias

from streams.core.errors import Mistake
from streams.core.events import Features, Label
from streams.core.experience import Experience
from streams.core.review.draws import drawer, lot
from streams.core.review.lowest import Lowest
from streams.core.review.memory import Seat
from streams.core.review.policy import Asked, Asker, Composable, Scores, share_mistakes

FLOOR = 0.1
"""This part of a policy's share is drawn whatever the confidence, so that no event is beyond being asked."""
FLOOR_ABOVE = 0.01
"""This share is drawn of the events above an Uncertain's ``below``, for the same reason."""

Measure: TypeAlias = Callable[[Scores], float]
NO_ANSWER = Asked(True, "no answer", 1.0)
COLD = Asked(True, "cold start", 1.0)


def margin(scores: Scores) -> float:
    """How far the likeliest class is ahead of the next: 0 (not at all) to 1.

    >>> margin({"a": 0.75, "b": 0.25})
    0.5
    """
    first = second = 0.0
    for score in scores.values():
        if score > first:
            first, second = score, first
        elif score > second:
            second = score
    return first - second


def certainty(scores: Scores) -> float:
    """How far the entropy is below that of guessing: 0 (guessing) to 1.

    >>> certainty({"a": 0.5, "b": 0.5}), certainty({"a": 1.0, "b": 0.0})
    (0.0, 1.0)
    """
    if len(scores) < 2:
        return 1.0
    entropy = -sum(score * log(score) for score in scores.values() if score > 0.0)
    return min(max(1.0 - entropy / log(len(scores)), 0.0), 1.0)


MEASURES: dict[str, Measure | None] = {
    "least_confident": None,
    "margin": margin,
    "entropy": certainty,
}
"""How sure an answer is, by name; None: its confidence."""


@dataclass(frozen=True, slots=True)
class Uncertain(Composable):
    """Ask about the ``share`` of the events that the model is least sure of, or about those ``below`` a number.

    How sure it is, from 0 to 1, is told by a ``measure``: the confidence (``least_confident``), the distance to the
    second class (``margin``), or 1 less the entropy, which is 1 when guessing (``entropy``).

    With a share, an event is ranked among the recent ones of its partition.  Of any stream whose confidences come in
    no particular order it asks ``share``, exactly in expectation, ties included; when confidences drift it follows
    within ``RECENT`` events.  A tenth of the share is drawn from all events, so no event's probability is 0; with
    ``below``, a hundredth of the events above it.
    Without an answer it asks; an answer without a confidence (a regression) is audited with the same share.
    """

    share: float | None = None
    below: float | None = None
    measure: str = "least_confident"

    def asker(self, seat: Seat) -> Asker:
        if self.below is not None:
            return self._by_number(seat, float(self.below))
        return self._by_rank(seat, float(self.share or 0.0))

    def _by_rank(self, seat: Seat, share: float) -> Asker:
        floor = share * FLOOR
        salt, sure_of = f"{seat.salt}uncertain", MEASURES[self.measure]
        draw, wins_floor = drawer(salt), lot(salt, floor)
        lowest = Lowest((share - floor) / (1.0 - floor))  # with the floor it makes the share
        seat.memory.keep(salt if sure_of is None else f"{salt}:{self.measure}", lowest)
        surely, unlikely = Asked(True, "uncertain", 1.0), Asked(False, "uncertain", floor)
        luckily = Asked(True, "uncertain", floor)
        holds = lowest.holds

        def ask(
            event_id: str,
            label: Label | None,
            scores: Scores,
            confidence: float | None,
            features: Features,
            knows: Experience,
        ) -> Asked:
            if label is None or confidence != confidence:  # NaN is no answer either
                return NO_ANSWER
            if confidence is None:
                probability = share
            else:
                sure = confidence if sure_of is None else sure_of(scores)
                if sure > lowest.clear and lowest.left > 1:  # most of them
                    lowest.left -= 1
                    lowest.remember(sure)
                    return luckily if wins_floor(event_id) else unlikely
                cold = lowest.is_cold
                part = holds(sure)
                if cold:
                    return COLD
                if part >= 1.0:
                    return surely
                probability = floor + (1.0 - floor) * part
            return Asked(draw(event_id) < probability, "uncertain", probability)

        return ask

    def _by_number(self, seat: Seat, below: float) -> Asker:
        sure_of, wins = MEASURES[self.measure], lot(f"{seat.salt}uncertain", FLOOR_ABOVE)
        surely = Asked(True, "uncertain", 1.0)
        luckily, unlikely = Asked(True, "uncertain", FLOOR_ABOVE), Asked(False, "", FLOOR_ABOVE)

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
            if confidence is not None:
                sure = confidence if sure_of is None else sure_of(scores)
                if sure < below:
                    return surely
            return luckily if wins(event_id) else unlikely

        return ask

    def mistakes(self) -> list[Mistake]:
        if self.below is None:
            wrong = share_mistakes("review.Uncertain(share)", self.share)
        else:
            wrong = share_mistakes("review.Uncertain(below)", self.below)
            if self.share is not None:
                given = f"share={self.share}, below={self.below}"
                wrong.append(Mistake("review.Uncertain", given, "either share or below"))
        if self.measure not in MEASURES:
            wrong.append(Mistake("review.Uncertain(measure)", self.measure, " or ".join(MEASURES)))
        return wrong
