"""Review policies: shares come out right, probabilities are true, nothing is beyond being asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import datasets, linear_model, naive_bayes, preprocessing, tree

from streams.core.events import AUTO, REVIEW
from streams.core.review import (
    FEW,
    FLOOR,
    NOBODY_ASKED,
    AnyOf,
    Audit,
    Decision,
    Everything,
    Lowest,
    Policy,
    Uncertain,
    drawer,
    priority_of,
)

EVENTS = 40_000


def decisions(policy: Policy, confidences: Iterable[float | None]) -> list[Decision]:
    route = policy.router()
    return [route(f"event-{n}", True, {}, c) for n, c in enumerate(confidences)]


def share_asked(decided: list[Decision]) -> float:
    return sum(d.route == REVIEW for d in decided) / len(decided)


def mean_probability_of_asking(decided: list[Decision]) -> float:
    return sum(asking(d) for d in decided) / len(decided)


def asking(decision: Decision) -> float:
    return decision.probability if decision.route == REVIEW else 1 - decision.probability


@cache
def uniform(seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [0.5 + draw.random() / 2 for _ in range(EVENTS)]


def few_values(seed: int = 1) -> list[float]:
    return [round(c, 1) for c in uniform(seed)]


def mostly_certain(seed: int = 1) -> list[float]:
    return [c if c < 0.51 else 1.0 for c in uniform(seed)]


def all_the_same(seed: int = 1) -> list[float]:
    return [1.0] * EVENTS


def drifting(seed: int = 1) -> list[float]:
    return [0.5 + (c - 0.5) * n / EVENTS for n, c in enumerate(uniform(seed))]


STREAMS: list[Callable[[], list[float]]] = [
    uniform,
    few_values,
    mostly_certain,
    all_the_same,
    drifting,
]


def test_everything_asks_about_every_event_with_probability_one() -> None:
    decided = decisions(Everything(), uniform())
    assert {d[:3] for d in decided} == {(REVIEW, "everything", 1.0)}


def test_the_less_sure_an_answer_is_the_sooner_people_look_at_it() -> None:
    assert priority_of(False, 0.75) == 0.25
    assert priority_of(1.5, None) == 0.5
    assert priority_of(None, None) == priority_of(True, float("nan")) == 1.0


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 1.0])
def test_an_audit_asks_its_share_whatever_the_confidence(share: float) -> None:
    decided = decisions(Audit(share), uniform())
    assert share_asked(decided) == pytest.approx(share, abs=4 * (share / EVENTS) ** 0.5)
    assert [asking(d) for d in decided] == pytest.approx([share] * EVENTS)
    assert {d.reason for d in decided} <= {"audit", NOBODY_ASKED}


def test_the_same_event_meets_the_same_luck_in_another_process_and_after_a_crash() -> None:
    assert decisions(Audit(0.3), uniform()) == decisions(Audit(0.3), uniform())
    assert drawer("audit")("event-1") == 0.1249025653928475


def test_draws_are_uniform_and_salts_draw_independently() -> None:
    one, other = drawer("a"), drawer("b")
    ids = [f"event-{n}" for n in range(EVENTS)]
    tenths = [0] * 10
    for event_id in ids:
        tenths[int(one(event_id) * 10)] += 1
    assert all(abs(count - EVENTS / 10) < 5 * (EVENTS / 10) ** 0.5 for count in tenths)
    both = sum(one(i) < 0.3 and other(i) < 0.3 for i in ids) / EVENTS
    assert both == pytest.approx(0.09, abs=0.008)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("stream", STREAMS[:4])
def test_uncertain_asks_its_share_of_any_stream_in_no_particular_order(
    stream: Callable[[], list[float]], share: float
) -> None:
    decided = decisions(Uncertain(share), stream())[FEW:]
    assert share_asked(decided) == pytest.approx(share, abs=5 * (share / EVENTS) ** 0.5)
    assert mean_probability_of_asking(decided) == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize("stream", STREAMS)
def test_the_probability_told_is_the_probability_with_which_it_happens(
    stream: Callable[[], list[float]],
) -> None:
    """Each told probability weighs a counted event: 1 / p of each asked one adds up to all events."""
    for policy in (Uncertain(0.05), Uncertain(0.05) | Audit(0.02), Audit(0.1) | Audit(0.1)):
        decided = decisions(policy, stream())
        asked = sum(1 / d.probability for d in decided if d.route == REVIEW)
        left = sum(1 / d.probability for d in decided if d.route == AUTO)
        assert asked == pytest.approx(EVENTS, rel=0.1)
        assert left == pytest.approx(sum(asking(d) < 1 for d in decided), rel=0.1)


def test_uncertain_asks_about_those_the_model_is_least_sure_of() -> None:
    confidences = uniform()
    decided = decisions(Uncertain(0.1), confidences)[FEW:]
    asked = [c for c, d in zip(confidences[FEW:], decided, strict=True) if d.reason == "uncertain"]
    assert sum(c < 0.56 for c in asked) / len(asked) > 0.85


def test_uncertain_follows_a_drift_of_the_confidences() -> None:
    """The stream's confidences rise all the time, so a fixed threshold would come to ask nothing."""
    decided = decisions(Uncertain(0.1), drifting())
    assert share_asked(decided[-10_000:]) == pytest.approx(0.1, abs=0.03)


def test_no_event_is_beyond_being_asked() -> None:
    decided = decisions(Uncertain(0.05), uniform())
    assert min(map(asking, decided)) == pytest.approx(0.05 * FLOOR)


def test_the_first_events_and_those_without_an_answer_are_asked() -> None:
    route = Uncertain(0.01).router()
    first = [route(f"event-{n}", True, {}, 0.9) for n in range(FEW)]
    assert {d[:3] for d in first} == {(REVIEW, "cold start", 1.0)}
    for n in range(1000):
        route(f"event-{n}", True, {}, 0.9)
    assert route("x", None, {}, None)[:3] == (REVIEW, "no answer", 1.0)
    assert route("x", True, {}, float("nan"))[:3] == (REVIEW, "no answer", 1.0)


def test_an_answer_without_a_confidence_is_audited_with_the_share() -> None:
    decided = decisions(Uncertain(0.2), [None] * EVENTS)
    assert [asking(d) for d in decided] == pytest.approx([0.2] * EVENTS)
    assert share_asked(decided) == pytest.approx(0.2, abs=0.01)


def test_of_a_composition_any_asks_and_the_reason_names_all_that_did() -> None:
    decided = decisions(Audit(0.3) | Uncertain(0.3), uniform())
    counted = {d.reason for d in decided[FEW:]}
    assert counted == {"audit", "uncertain", "audit + uncertain", NOBODY_ASKED}
    assert decided[0].reason in ("cold start", "audit + cold start")


def test_equal_policies_in_a_composition_draw_independently() -> None:
    decided = decisions(Audit(0.2) | Audit(0.2), uniform())
    assert [asking(d) for d in decided] == pytest.approx([0.36] * EVENTS)
    assert share_asked(decided) == pytest.approx(0.36, abs=0.01)
    assert {d.reason for d in decided} == {"audit", NOBODY_ASKED}


def test_a_composition_sees_every_event_in_each_of_its_parts() -> None:
    alone = decisions(Uncertain(0.05), uniform())
    joined = decisions(Uncertain(0.05) | Audit(0.5), uniform())
    expected = [1 - (1 - asking(d)) * 0.5 for d in alone]
    assert [asking(d) for d in joined] == pytest.approx(expected)


def test_compositions_are_flat_and_equal_by_value() -> None:
    a, b, c = Audit(0.1), Uncertain(0.1), Everything()
    assert (a | b) | c == a | (b | c) == AnyOf((a, b, c))


def test_only_policies_compose() -> None:
    with pytest.raises(TypeError):
        Audit(0.1) | 0.2  # type: ignore[operator]  # the mistake under test


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan"), True, "0.1", None])
def test_a_share_is_above_zero_and_at_most_one(share: object) -> None:
    wrong = Audit(share) | Everything() | Uncertain(share)  # type: ignore[arg-type]  # likewise
    assert [m.name for m in wrong.mistakes()] == ["review.Audit(share)", "review.Uncertain(share)"]
    assert (Audit(0.1) | Uncertain(1) | Everything()).mistakes() == []


shares = st.floats(0.001, 1.0)
policies = st.recursive(
    st.builds(Audit, shares) | st.builds(Uncertain, shares) | st.just(Everything()),
    lambda inner: st.builds(lambda a, b: a | b, inner, inner),
    max_leaves=4,
)
answers = st.tuples(
    st.text(),
    st.none() | st.booleans(),
    st.none() | st.floats(0, 1) | st.sampled_from([0.5, 1.0]) | st.just(float("nan")),
)


@given(policies, st.lists(answers, max_size=80))
@settings(max_examples=40, deadline=None)
def test_any_policy_tells_a_probability_above_zero_of_asking(
    policy: Policy, stream: list[tuple[str, bool | None, float | None]]
) -> None:
    route = policy.router()
    for event_id, label, confidence in stream:
        decision = route(event_id, label, {}, confidence)
        assert 0 < decision.probability <= 1
        assert asking(decision) > 0
        assert decision.reason
        assert decision.route == REVIEW or decision.reason == NOBODY_ASKED


@given(
    st.floats(0.001, 1),
    st.lists(st.floats(0, 1) | st.sampled_from([0.5, 0.7]), max_size=FEW),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_the_share_is_exact_in_expectation_for_every_order_of_any_confidences(
    share: float, seen: list[float], order: random.Random
) -> None:
    """Each of the values takes its turn to come last, in front of the others: on average they hold the share."""
    values = [*seen, 0.5]
    order.shuffle(values)
    parts = []
    for n, last in enumerate(values):
        lowest = Lowest(share)
        for value in (*values[:n], *values[n + 1 :]):
            lowest.holds(value)
        parts.append(lowest.holds(last))
    assert sum(parts) / len(parts) == pytest.approx(share)


@pytest.mark.parametrize(
    "model",
    [
        naive_bayes.GaussianNB(),
        tree.HoeffdingTreeClassifier(),
        preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_selection_never_starves(model: object) -> None:
    """Where River's EntropySampler asks for nothing for ever: models without an answer before the first label."""
    route = Uncertain(0.05).router()
    asked = []
    for n, (x, y) in enumerate(datasets.Phishing()):
        scores = model.predict_proba_one(x)  # type: ignore[attr-defined]  # River has no one type
        label = max(scores, key=scores.get) if scores else None
        decision = route(f"event-{n}", label, scores, scores.get(label) if scores else None)
        asked.append(decision.route == REVIEW)
        if asked[-1]:
            model.learn_one(x, y)  # type: ignore[attr-defined]
    assert asked[0]
    assert sum(asked[-500:]) >= 5
    assert sum(asked) < 200
