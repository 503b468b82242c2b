"""Policies that know more than the answer: what the model was taught, whether it fails anew, what was seen before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from streams.core.errors import Mistake
from streams.core.events import Features, Label
from streams.core.experience import Detector, Experience
from streams.core.review.draws import drawer, lot
from streams.core.review.lowest import Lowest
from streams.core.review.memory import Seat
from streams.core.review.policy import (
    Asked,
    Asker,
    Composable,
    Scores,
    count_mistakes,
    share_mistakes,
)
from streams.core.review.uncertain import COLD, FLOOR


@dataclass(frozen=True, slots=True)
class ColdStart(Composable):
    """Ask about everything until the model has learned ``first`` verdicts, and ``per_class`` of the class it predicts.

    Verdicts count when they are learned: while people have not answered yet it goes on asking, so that a start with
    nobody there does not end it; ``limit`` it where that is too much.
    """

    first: int
    per_class: int = 0

    def asker(self, seat: Seat) -> Asker:
        first, per_class = self.first, self.per_class
        new_class, no = Asked(True, "cold start of the class", 1.0), Asked(False, "cold start", 0.0)

        def ask(
            event_id: str,
            label: Label | None,
            scores: Scores,
            confidence: float | None,
            features: Features,
            knows: Experience,
        ) -> Asked:
            if knows.lessons < first:
                return COLD
            if per_class and confidence is not None and knows.taught.get(str(label), 0) < per_class:
                return new_class
            return no

        return ask

    def mistakes(self) -> list[Mistake]:
        wrong = count_mistakes("review.ColdStart(first)", self.first)
        if self.per_class != 0:
            wrong += count_mistakes("review.ColdStart(per_class)", self.per_class)
        return wrong


@dataclass(frozen=True, slots=True)
class Drifting(Composable):
    """Ask about a random ``share`` of the events while drift is on: for ``lasts`` verdicts after a detector's alarm.

    The detector (``river.drift.ADWIN()``) sees the errors of the original answers, in every fold alike.
    """

    detector: Detector
    share: float
    lasts: int = 500

    def asker(self, seat: Seat) -> Asker:
        share, lasts, name = float(self.share), self.lasts, repr(self.detector)
        wins = lot(f"{seat.salt}drifting", share)
        yes, unlucky = Asked(True, "drift", share), Asked(False, "drift", share)
        calm = Asked(False, "drift", 0.0)

        def ask(
            event_id: str,
            label: Label | None,
            scores: Scores,
            confidence: float | None,
            features: Features,
            knows: Experience,
        ) -> Asked:
            since = knows.since.get(name)
            if since is None or since >= lasts:
                return calm
            return yes if wins(event_id) else unlucky

        return ask

    def detectors(self) -> Iterator[Detector]:
        yield self.detector

    def mistakes(self) -> list[Mistake]:
        wrong = share_mistakes("review.Drifting(share)", self.share)
        wrong += count_mistakes("review.Drifting(lasts)", self.lasts)
        if not hasattr(self.detector, "drift_detected"):
            expected = "a drift detector, such as river.drift.ADWIN()"
            wrong.append(Mistake("review.Drifting(detector)", self.detector, expected))
        return wrong


class Anomalies(Protocol):
    """An anomaly detector, as River has them: the higher the score, the stranger."""

    def score_one(self, x: Any) -> float:
        """How strange it is, 0 to 1."""

    def learn_one(self, x: Any) -> Any:
        """Take it as seen."""


@dataclass(frozen=True, slots=True)
class Novel(Composable):
    """Ask about the ``share`` of the events whose numbers are strangest to a detector that learns all of them.

    It is ranked as in ``Uncertain``, with the same random floor.  The detector, such as
    ``preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees()``, is of one partition and starts anew with the process;
    what its scores are compared with comes back.
    """

    detector: Anomalies
    share: float

    def asker(self, seat: Seat) -> Asker:
        floor, name = self.share * FLOOR, f"{seat.salt}novel"
        detector = copy.deepcopy(self.detector)
        draw, lowest = drawer(name), Lowest((self.share - floor) / (1.0 - floor))
        seat.memory.keep(name, lowest)

        def ask(
            event_id: str,
            label: Label | None,
            scores: Scores,
            confidence: float | None,
            features: Features,
            knows: Experience,
        ) -> Asked:
            numbers = {f: value for f, value in features.items() if isinstance(value, int | float)}
            strange = detector.score_one(numbers)
            detector.learn_one(numbers)
            cold = lowest.is_cold
            part = lowest.holds(1.0 - strange)
            # Before it has seen a few, nothing is novel, and the share is drawn.
            probability = self.share if cold else floor + (1.0 - floor) * part
            return Asked(draw(event_id) < probability, "novel", probability)

        return ask

    def mistakes(self) -> list[Mistake]:
        wrong = share_mistakes("review.Novel(share)", self.share)
        if not hasattr(self.detector, "score_one"):
            expected = "an anomaly detector, such as river.anomaly.HalfSpaceTrees()"
            wrong.insert(0, Mistake("review.Novel(detector)", self.detector, expected))
        return wrong
