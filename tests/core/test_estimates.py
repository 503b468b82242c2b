"""What is true of the whole stream, told from the events that people were asked about."""

from __future__ import annotations

import random

import pytest

from streams.core.estimates import share, weighted_share
from streams.core.events import REVIEW, Example, Source
from streams.core.fold import Fold
from streams.core.model import Answer
from streams.core.review import Audit, Uncertain
from streams.core.scores import Scores
from streams.core.topics import FEEDBACK, PREDICTIONS
from tests.core.logs import BINARY, example, logistic

EVENTS = 6000
POLICY = Uncertain(0.05) | Audit(0.02)


def verdict(
    n: int, truth: bool, confidence: float = 0.9, route: str = REVIEW, p: float = 0.5
) -> Example:
    said = Answer(True, {"True": confidence, "False": 1 - confidence}, confidence)
    sources = [Source(FEEDBACK, 0, n, f"f-{n}", "anna", "desk")]
    return example(n, {}, truth, said, sources=sources)._replace(route=route, probability=p)


def reviewed(seed: int) -> tuple[float, Scores]:
    """The true accuracy of a stream whose model is right as often as it says, and the scores of who was asked."""
    draw, route, scores, right = random.Random(seed), POLICY.router(), Scores("binary"), 0
    for n in range(EVENTS):
        confidence = 0.5 + 0.5 * draw.random() ** 0.5
        truth = draw.random() < confidence  # it says True
        right += truth
        decision = route(f"{seed}-{n}", True, {}, confidence)
        if decision.route == REVIEW:
            scores.update(verdict(n, truth, confidence, REVIEW, decision.probability), True)
    return right / EVENTS, scores


def test_the_raw_accuracy_is_wrong_about_the_stream_and_the_weighted_one_is_right() -> None:
    inside, off, raw = 0, [], []
    for seed in range(20):
        truth, scores = reviewed(seed)
        told = scores.values()
        inside += told["accuracy.weighted.low"] <= truth <= told["accuracy.weighted.high"]
        off.append(told["accuracy.weighted"] - truth)
        raw.append(told["accuracy"] - truth)
    assert max(raw) < -0.08  # each time, and far off
    assert abs(sum(off)) / 20 < 0.02
    assert inside >= 18


def test_only_verdicts_of_people_who_were_asked_count() -> None:
    scores = Scores("binary")
    for counted in (verdict(0, True), verdict(1, False, p=1.0)):
        scores.update(counted, None)
    told = scores.values()["accuracy.weighted"]
    assert told == pytest.approx(2 / 3)
    unanswered = [Source(PREDICTIONS, 0, 7, "", None, "unanswered")]
    for other in (
        verdict(2, False, route="auto"),
        verdict(3, False)._replace(sources=unanswered),
        verdict(4, False)._replace(predicted=None),
    ):
        scores.update(other, None)
    assert scores.values()["accuracy.weighted"] == told


def test_numbers_are_neither_right_nor_wrong() -> None:
    scores = Scores("regression")
    scores.update(verdict(0, True)._replace(label=1.5, predicted=1.0), None)
    assert not [name for name in scores.values() if "weighted" in name]


def test_the_interval_of_equal_weights_is_wilsons() -> None:
    assert weighted_share([]) is None
    assert share(0, 0) is None
    weighted = weighted_share([(n < 9, 0.25) for n in range(10)])
    assert weighted == pytest.approx((0.9, 0.596, 0.982, 10))
    assert weighted == pytest.approx(share(9, 10))


def test_what_could_not_be_chosen_stands_for_nothing_and_heavy_cases_widen_the_interval() -> None:
    assert weighted_share([(True, 0.0)]) is None
    alike = weighted_share([(True, 0.5)] * 100)
    uneven = weighted_share([(True, 0.5)] * 99 + [(True, 0.005)])
    assert alike is not None
    assert uneven is not None
    assert uneven.low < alike.low < alike.value == uneven.value == 1.0


def test_a_snapshot_keeps_the_sums_and_what_routing_knows() -> None:
    fold = Fold(logistic(), "binary", BINARY, scores=Scores("binary"))
    for n in range(20):
        fold.apply(n + 1, verdict(n, n % 4 > 0)._replace(features={"a": float(n)}))
    again = Fold(logistic(), "binary", BINARY, scores=Scores("binary"))
    again.load(fold.dump())
    assert again.scores is not None
    assert fold.scores is not None
    assert again.scores.values() == fold.scores.values()
    assert (again.experience.lessons, again.experience.taught) == (20, {"True": 15, "False": 5})
