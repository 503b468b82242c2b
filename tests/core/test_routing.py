"""Routing as a whole: compositions tell the truth, budgets hold, memories come back, and nothing starves."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import anomaly, datasets, drift, naive_bayes, preprocessing, tree

from streams.core.events import REVIEW, Features
from streams.core.experience import Experience
from streams.core.review import (
    FEW,
    FLOOR,
    NOBODY_ASKED,
    SPENT,
    AllOf,
    AnyOf,
    Audit,
    Budget,
    ColdStart,
    Decision,
    Drifting,
    Everything,
    Memory,
    Novel,
    Policy,
    Selective,
    Uncertain,
    VariableUncertainty,
    When,
)
from streams.core.review.memory import ROOM
from streams.core.review.uncertain import FLOOR_ABOVE, certainty, margin
from tests.core.logs import example

HOUR = 3600.0
SCORES = {"True": 0.75, "False": 0.25}
LARGE = When(lambda event: event.features.get("amount") == 200, "a large amount")


def asking(decision: Decision) -> float:
    return decision.probability if decision.route == REVIEW else 1 - decision.probability


def confidences(count: int, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [0.5 + draw.random() / 2 for _ in range(count)]


def routed(policy: Policy, stream: list[float], memory: Memory | None = None) -> list[Decision]:
    route = policy.router(memory)
    return [route(f"event-{n}", True, {"True": c, "False": 1 - c}, c) for n, c in enumerate(stream)]


# What a composition tells

leaves = st.builds(Audit, st.floats(0.05, 0.95)) | st.just(Everything()) | st.just(LARGE)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda a, b: a | b, inner, inner) | st.builds(lambda a, b: a & b, inner, inner)
    ),
    max_leaves=5,
)


def enumerated(policy: Policy, amount: float) -> float:
    """The probability of asking, by adding up all that the leaves can say."""
    found: list[float] = []

    def collect(of: Policy) -> None:
        if isinstance(of, AnyOf | AllOf):
            for part in of.policies:
                collect(part)
        else:
            found.append(
                of.share if isinstance(of, Audit) else float(of == Everything() or amount > 100)
            )

    def says(of: Policy, said: list[bool]) -> bool:
        if isinstance(of, AnyOf | AllOf):
            each = [says(part, said) for part in of.policies]  # all of them: each takes its own
            return any(each) if isinstance(of, AnyOf) else all(each)
        return said.pop(0)

    collect(policy)
    total = 0.0
    for said in product([True, False], repeat=len(found)):
        weight = 1.0
        for yes, p in zip(said, found, strict=True):
            weight *= p if yes else 1 - p
        total += weight * says(policy, list(said))
    return total


@given(trees, st.sampled_from([1, 200]))
@settings(max_examples=60, deadline=None)
def test_the_probability_of_a_composition_is_that_of_all_its_draws_together(
    policy: Policy, amount: int
) -> None:
    decision = policy.router()("x", True, SCORES, 0.75, {"amount": amount})
    assert asking(decision) == pytest.approx(enumerated(policy, amount))


@pytest.mark.parametrize(
    "policy",
    [
        Audit(0.3) & Audit(0.5),
        Uncertain(0.2) | Audit(0.1) & Uncertain(below=0.9),
        (Uncertain(0.2, measure="margin") | Selective(0.2)).limit(Budget(per_hour=500)),
        VariableUncertainty(0.3) & Audit(0.9),
    ],
    ids=str,
)
def test_what_is_told_is_how_often_it_happens(policy: Policy) -> None:
    """Two thousand events meet the very same memory: their draws alone differ."""
    memory = Memory()
    routed(policy, confidences(300), memory)
    note = memory.note()
    decided = [
        policy.router(Memory(note=note))(f"other-{n}", True, SCORES, 0.56) for n in range(2000)
    ]
    told = asking(decided[0])
    assert [asking(d) for d in decided] == pytest.approx([told] * len(decided))
    asked = sum(d.route == REVIEW for d in decided)
    assert asked == pytest.approx(told * 2000, abs=4 * (2000 * told * (1 - told)) ** 0.5 + 1e-6)


def test_of_all_that_have_to_ask_the_reason_names_each() -> None:
    decided = (LARGE & Everything()).router()("x", True, SCORES, 0.75, {"amount": 200})
    assert decided[:3] == (REVIEW, "a large amount and everything", 1.0)
    assert (LARGE & Everything()).router()("x", True, SCORES, 0.75).reason == NOBODY_ASKED


# Single policies


def test_below_a_number_all_are_asked_and_of_the_others_a_few() -> None:
    decided = routed(Uncertain(below=0.6), confidences(2000))
    for confidence, decision in zip(confidences(2000), decided, strict=True):
        assert asking(decision) == pytest.approx(1.0 if confidence < 0.6 else FLOOR_ABOVE)
    route = Uncertain(below=0.6).router()
    assert route("x", None, {}, None)[:2] == (REVIEW, "no answer")
    assert asking(route("x", 1.5, {}, None)) == pytest.approx(FLOOR_ABOVE)


def test_measures_tell_how_sure_an_answer_is_among_several_classes() -> None:
    torn, spread = {"a": 0.5, "b": 0.5, "c": 0.0}, {"a": 0.5, "b": 0.25, "c": 0.25}
    assert margin(torn) < margin(spread)
    assert certainty(spread) < certainty(torn)
    assert certainty({"a": 1.0}) == 1.0
    for measure in ("margin", "entropy"):
        decided = routed(Uncertain(0.1, measure=measure), confidences(5000))
        assert sum(map(asking, decided[FEW:])) / 5000 == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("policy", [VariableUncertainty(0.1), Selective(0.1)], ids=str)
@pytest.mark.parametrize("sure", [False, True])
def test_active_learning_keeps_to_its_budget_and_starves_nobody(
    policy: VariableUncertainty | Selective, sure: bool
) -> None:
    stream = [1.0] * 5000 if sure else confidences(5000)
    decided = routed(policy, stream)
    assert 0.01 < sum(d.route == REVIEW for d in decided) / 5000 < 0.115
    assert min(map(asking, decided)) >= 0.1 * FLOOR * (1 - 1e-9)
    told = sum(1 / d.probability for d in decided if d.route == REVIEW)
    assert told == pytest.approx(5000, rel=0.3)
    assert asking(policy.router()("x", 1.5, {}, None)) == pytest.approx(0.1)
    assert policy.router()("x", None, {}, None).probability == 1.0


def test_a_cold_start_ends_when_verdicts_are_learned_and_each_class_has_its_own() -> None:
    knows, route = Experience(), ColdStart(first=3, per_class=2).router()
    for n in range(3):
        assert route("x", True, SCORES, 0.75, {}, knows)[:2] == (REVIEW, "cold start")
        knows.learn(n + 1, example(n, {}, True))
    assert route("x", True, SCORES, 0.75, {}, knows).reason == NOBODY_ASKED
    assert route("x", False, SCORES, 0.75, {}, knows)[:2] == (REVIEW, "cold start of the class")


def test_numbers_are_lessons_of_no_class_and_their_errors_tell_of_drift() -> None:
    detector = drift.ADWIN()
    knows = Experience("regression", [detector])
    for n in range(600):
        knows.learn(n + 1, example(n, {}, 1.0)._replace(predicted=1.0 if n < 300 else 9.0))
    assert (knows.lessons, knows.taught) == (600, {})
    assert knows.since[repr(detector)] < 300


def test_drift_has_more_asked_for_a_while_after_an_alarm() -> None:
    detector = drift.ADWIN()
    policy = Drifting(detector, share=1.0, lasts=50)
    knows, route = Experience("binary", policy.detectors()), policy.router()
    asked = []
    for n in range(1200):
        wrong = 500 <= n < 800
        said = example(n, {}, True)._replace(predicted=not wrong)
        knows.learn(n + 1, said)
        asked.append(route(f"{n}", True, SCORES, 0.75, {}, knows).route == REVIEW)
    assert not any(asked[:500])
    assert any(asked[500:700])
    assert not any(asked[1190:])
    again = Experience("binary", policy.detectors())
    again.load(knows.dump())
    assert (again.since, again.taught, again.lessons) == (knows.since, knows.taught, 1200)
    assert again.drifts == knows.drifts


def test_an_alarm_tells_the_version_the_time_and_the_errors() -> None:
    knows = Experience("binary", [drift.ADWIN()])
    assert Experience().drifts is None
    for n in range(600):
        said = example(n, {}, True)._replace(predicted=n < 500, predicted_at=n, answered_at=n + 7)
        knows.learn(n + 1, said)
        if n == 500:
            assert knows.drifts == []
    assert knows.drifts is not None
    first = knows.drifts[0]
    assert (first.detector, first.learned) == ("ADWIN", first.model_version)
    assert 500 < first.learned < 600
    assert first.at == first.learned - 1 + 7
    assert first.error == pytest.approx(min(first.learned - 500, 50) / 50)


def test_errors_beyond_all_measure_are_left_out_of_what_an_alarm_tells() -> None:
    knows = Experience("regression", [drift.ADWIN()])
    for n in range(600):
        off = 1.7e308 if n == 590 else 9.0
        said = math.inf if n == 300 else 1.0 if n < 300 else off
        knows.learn(n + 1, example(n, {}, 1.0)._replace(predicted=said))
    assert all(math.isfinite(alarm.error) for alarm in knows.drifts or ())


def test_a_composition_has_the_folds_watch_what_its_parts_need() -> None:
    eager, slow = drift.ADWIN(delta=0.1), drift.ADWIN()
    policy = (Drifting(eager, 0.5) | Audit(0.1)).limit(Budget(per_day=9)) & Drifting(slow, 0.1)
    assert list(policy.detectors()) == [eager, slow]


def test_a_novelty_is_asked_about() -> None:
    model = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(
        n_trees=5, height=4, window_size=50, seed=1
    )
    route, draw = Novel(model, share=0.05).router(), random.Random(1)
    usual: list[Decision] = []
    for n in range(1500):
        x: Features = {"a": draw.gauss(0, 1), "b": draw.gauss(0, 1), "word": "ignored"}
        usual.append(route(f"{n}", True, SCORES, 0.9, x))
    assert sum(map(asking, usual[500:])) / 1000 == pytest.approx(0.05, abs=0.05)
    assert asking(route("strange", True, SCORES, 0.9, {"a": 40.0, "b": -40.0})) > 0.05


# Budgets


@given(
    count=st.integers(1, 40),
    burst=st.none() | st.integers(1, 10),
    partitions=st.integers(1, 5),
    steps=st.lists(st.floats(0, 900) | st.just(-5.0), min_size=1, max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_a_budget_is_never_exceeded_by_all_partitions_together(
    count: int, burst: int | None, partitions: int, steps: list[float]
) -> None:
    policy = Everything().limit(Budget(per_hour=count, burst=burst))
    memories = [Memory(p, partitions) for p in range(partitions)]
    routes, asked, now, latest = [policy.router(m) for m in memories], Counter[int](), 1e6, 1e6
    for n, step in enumerate(steps):
        now += step
        latest = max(latest, now)
        for memory, route in zip(memories, routes, strict=True):
            memory.now = now
            for k in range(12):
                decision = route(f"{n}-{k}", True, SCORES, 0.75)
                asked[int(latest // HOUR)] += decision.route == REVIEW
                assert asking(decision) == (decision.route == REVIEW)
    assert all(spent <= count for spent in asked.values())


def test_a_budget_is_spent_whole_and_what_it_kept_back_is_counted_and_told() -> None:
    policy = Everything().limit(Budget(per_hour=10))
    memories = [Memory(p, 3) for p in range(3)]
    routes = [policy.router(memory) for memory in memories]
    decided = [route(f"{n}", True, SCORES, 0.75) for n in range(20) for route in routes]
    assert sum(d.route == REVIEW for d in decided) == 10
    assert {d.reason for d in decided if d.route != REVIEW} == {SPENT}
    assert sum(memory.unasked for memory in memories) == 50
    for memory in memories:
        memory.now += HOUR
    again = [route(f"{n}", True, SCORES, 0.75) for n in range(20) for route in routes]
    assert sum(d.route == REVIEW for d in again) == 10


def test_a_burst_is_followed_by_the_pace_of_the_budget() -> None:
    memory = Memory()
    memory.now = 360_000.0
    route = Everything().limit(Budget(per_hour=60, burst=5)).router(memory)
    asked = []
    for minute in range(60):
        memory.now = 360_000.0 + 60 * minute
        asked.append(
            sum(route(f"{minute}-{n}", True, SCORES, 0.7).route == REVIEW for n in "123456789")
        )
    assert asked[0] == 5
    assert set(asked[1:55]) == {1}
    assert sum(asked) <= 60


def test_a_limit_of_what_is_limited_keeps_both_budgets_through_a_restart() -> None:
    policy = Everything().limit(Budget(per_hour=10)).limit(Budget(per_day=3))
    before = Memory()
    assert sum(d.route == REVIEW for d in routed(policy, confidences(20), before)) == 3
    after = Memory(note=before.note())
    after.now = 2 * HOUR
    assert not [d for d in routed(policy, confidences(20), after) if d.route == REVIEW]
    assert after.unasked == 17 + 20
    other = Memory(note=before.note())
    changed = Everything().limit(Budget(per_day=4))
    assert sum(d.route == REVIEW for d in routed(changed, confidences(9), other)) == 4


def test_a_limit_of_one_part_leaves_the_others_alone() -> None:
    route = (Everything().limit(Budget(per_day=1)) | Audit(0.2)).router()
    assert route("a", True, SCORES, 0.75).probability == 1.0
    assert asking(route("b", True, SCORES, 0.75)) == pytest.approx(0.2)


# Memory


def test_after_a_restart_it_goes_on_where_it_was() -> None:
    policy = (Uncertain(0.1) | VariableUncertainty(0.1) | Selective(0.05)).limit(
        Budget(per_hour=150, burst=20)
    )
    stream = [round(c * 65_535) / 65_535 for c in confidences(1500)]  # as notes keep them
    through, before = Memory(), Memory()
    whole = routed(policy, stream, through)
    routed(policy, stream[: FEW + 97], before)  # no multiple of what is sorted at once
    after = policy.router(Memory(note=before.note()))
    first = after(f"event-{FEW + 97}", True, {"True": 0.9, "False": 0.1}, stream[FEW + 97])
    assert "cold start" not in first.reason
    assert before.note() == noted_again(policy, before.note())
    assert sum(d.route == REVIEW for d in whole) <= 150


def noted_again(policy: Policy, note: str) -> str:
    memory = Memory(note=note)
    policy.router(memory)
    return memory.note()


def test_a_note_fits_beside_an_offset_whatever_the_policy() -> None:
    policy: Policy = Uncertain(0.1)
    for share in range(1, 12):
        policy = policy | Uncertain(share / 20, measure="entropy").limit(Budget(per_day=9))
    memory = Memory()
    routed(policy, confidences(1000), memory)
    assert 0 < len(memory.note()) <= ROOM
    alone = Memory()
    routed(Audit(0.1), confidences(10), alone)
    assert alone.note() == ""


@pytest.mark.parametrize("note", ["17", "no JSON", '{"uncertain": 3}', '{"uncertain": "?"}', "[]"])
def test_a_note_of_something_else_is_a_start_without_one(note: str) -> None:
    decided = routed(Uncertain(0.1), confidences(5), Memory(note=note))
    assert {d.reason for d in decided} == {"cold start"}


# Mistakes and starving


def test_mistakes_are_named_by_where_they_are() -> None:
    wrong: Any = (
        Uncertain(0.1, below=0.5)
        | Uncertain(0.1, measure="odd")
        | VariableUncertainty(0)
        | Selective(2)
        | ColdStart(0, per_class=-1)
        | Drifting(3, 0, lasts=0)  # type: ignore[arg-type]  # the mistakes under test
        | Novel(3, 0)  # type: ignore[arg-type]
        | When(3, "")  # type: ignore[arg-type]
    ) & Everything().limit(Budget(per_hour=1, per_day=2))
    assert [m.name.removeprefix("review.") for m in wrong.mistakes()] == [
        "Uncertain",
        "Uncertain(measure)",
        "VariableUncertainty(budget)",
        "Selective(budget)",
        "ColdStart(first)",
        "ColdStart(per_class)",
        "Drifting(share)",
        "Drifting(lasts)",
        "Drifting(detector)",
        "Novel(detector)",
        "Novel(share)",
        "When(rule)",
        "When(reason)",
        "Budget",
    ]
    right = (ColdStart(5, 2) | Uncertain(below=0.6)).limit(Budget(per_day=5)) & LARGE
    assert right.mistakes() == []
    seeing = ColdStart(5) | Drifting(drift.ADWIN(), 0.1) | Novel(anomaly.HalfSpaceTrees(), 0.1)
    assert seeing.mistakes() == []
    with pytest.raises(TypeError):
        Audit(0.1) & 0.2  # type: ignore[operator]


@pytest.mark.parametrize(
    "model", [naive_bayes.GaussianNB(), tree.HoeffdingTreeClassifier()], ids=str
)
@pytest.mark.parametrize(
    "policy",
    [
        ColdStart(first=20) | Uncertain(0.05, measure="entropy"),
        ColdStart(first=20, per_class=10) | Selective(0.05),
        ColdStart(first=20) | VariableUncertainty(0.05),
    ],
    ids=str,
)
def test_a_selection_never_starves(model: Any, policy: Policy) -> None:
    """Where River's EntropySampler asks for nothing for ever: no probabilities before the first label."""
    model, route, knows, asked = model.clone(), policy.router(), Experience(), []
    for n, (x, y) in enumerate(datasets.Phishing()):
        scores = {str(label): p for label, p in model.predict_proba_one(x).items()}
        label = max(scores, key=scores.__getitem__) if scores else None
        confidence = None if label is None else scores[label]
        decision = route(f"event-{n}", label, scores, confidence, x, knows)
        asked.append(decision.route == REVIEW)
        assert asking(decision) > 0
        if asked[-1]:
            model.learn_one(x, y)
            knows.learn(n + 1, example(n, x, y))
    assert all(asked[:20])
    assert sum(asked[-500:]) >= 5
    assert sum(asked) < 300
