"""Progressive metrics: River's numbers, on the original answers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import metrics

from streams.core.events import Example, Label
from streams.core.model import Answer
from streams.core.scores import ROLLING, Scores
from tests.core.logs import example

SHARES = st.floats(0, 1)


def told(task: str, answers: list[tuple[Label, Answer]]) -> dict[str, float]:
    scores = Scores(task)
    for number, (label, answer) in enumerate(answers):
        scores.update(example(number, {}, label, answer), answer.label)
    return scores.values()


def binary(yes: float) -> Answer:
    return Answer(yes > 0.5, {"False": 1 - yes, "True": yes}, max(yes, 1 - yes))


@given(st.lists(st.tuples(st.booleans(), SHARES), min_size=1, max_size=40))
def test_binary_metrics_are_rivers(answers: list[tuple[bool, float]]) -> None:
    values = told("binary", [(label, binary(yes)) for label, yes in answers])
    river: dict[str, Any] = {
        "accuracy": metrics.Accuracy(),
        "macro_f1": metrics.MacroF1(),
        "log_loss": metrics.LogLoss(),
        "roc_auc": metrics.ROCAUC(),
    }
    for label, yes in answers:
        for name, metric in river.items():
            metric.update(label, yes > 0.5 if name in ("accuracy", "macro_f1") else {True: yes})
    for name, metric in river.items():
        assert values[name] == pytest.approx(metric.get(), abs=1e-9), name
        assert values[f"{name}.rolling"] == values[name]


CLASSES = ("a", "b", "c")


@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.tuples(SHARES, SHARES, SHARES)), min_size=1))
def test_multiclass_metrics_are_rivers(answers: list[tuple[str, tuple[float, ...]]]) -> None:
    river = metrics.Accuracy(), metrics.MacroF1(), metrics.CrossEntropy()
    said: list[tuple[Label, Answer]] = []
    for label, shares in answers:
        scores = dict(zip(CLASSES, shares, strict=True))
        best = max(scores, key=lambda name: scores[name])
        said.append((label, Answer(best, scores, scores[best])))
        for metric, what in zip(river, (best, best, scores), strict=True):
            metric.update(label, what)
    values = told("multiclass", said)
    for name, metric in zip(("accuracy", "macro_f1", "log_loss"), river, strict=True):
        assert values[name] == pytest.approx(metric.get(), abs=1e-9), name
    assert "roc_auc" not in values


NUMBERS = st.integers(-(10**6), 10**6).map(lambda thousandths: thousandths / 1e3)
"""None so small that its square is nothing: then it is for rounding to say whether the true values vary."""


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1))
def test_regression_metrics_are_rivers(answers: list[tuple[float, float]]) -> None:
    river = {"mae": metrics.MAE(), "rmse": metrics.RMSE(), "r2": metrics.R2()}
    for label, number in answers:
        for metric in river.values():
            metric.update(label, number)
    values = told("regression", [(label, Answer(number, {}, None)) for label, number in answers])
    assert values["mae"] == pytest.approx(river["mae"].get(), rel=1e-9, abs=1e-9)
    assert values["rmse"] == pytest.approx(river["rmse"].get(), rel=1e-9, abs=1e-9)
    if abs(river["r2"].get()) < 1e6:  # else the true values hardly vary, and both are rounding
        assert values["r2"] == pytest.approx(river["r2"].get(), rel=1e-5, abs=1e-5)


def stream(task: str, count: int) -> Iterator[tuple[Example, Label]]:
    drawn = random.Random(1)
    for number in range(count):
        if task == "regression":
            label: Label = drawn.gauss(10, 3)
            answer = Answer(drawn.gauss(10, 3), {}, None)
        else:
            label, answer = drawn.random() < 0.3, binary(drawn.random())
        yield example(number, {}, label, answer), label


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_rolling_metrics_are_those_of_the_last_answers(task: str) -> None:
    whole, last = Scores(task), Scores(task)
    for number, (scored, label) in enumerate(stream(task, ROLLING + 300)):
        whole.update(scored, label)
        if number >= 300:
            last.update(scored, label)
    rolling = {k: v for k, v in whole.values().items() if k.endswith(".rolling")}
    assert rolling == {k: v for k, v in last.values().items() if k.endswith(".rolling")}
    assert rolling
    assert all(rolling[k] != whole.values()[k.removesuffix(".rolling")] for k in rolling)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_scores_that_were_stored_go_on_alike(task: str) -> None:
    whole, first, second = Scores(task), Scores(task), Scores(task)
    for number, (scored, label) in enumerate(stream(task, 900)):
        if number == 450:
            second.load(first.dump())
        (first if number < 450 else second).update(scored, label)
        whole.update(scored, label)
    assert second.values() == whole.values()


def test_nothing_is_told_before_the_first_example() -> None:
    assert Scores("binary").values() == {}
    assert Scores("regression").values() == {}


def test_an_event_without_an_answer_counts_in_coverage_alone() -> None:
    values = told("binary", [(True, Answer(None, {}, None)), (True, binary(0.9))])
    assert (values["coverage"], values["accuracy"], values["accuracy.frozen"]) == (0.5, 1.0, 1.0)
    assert told("multiclass", [("a", Answer(None, {}, None))]) == {"coverage": 0.0}
    assert told("regression", [(1.0, Answer(None, {}, None))]) == {"coverage": 0.0}


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_without_probabilities_there_is_accuracy_and_no_loss(task: str) -> None:
    values = told(task, [(True, Answer(True, {}, None))])
    assert values["accuracy"] == 1.0
    assert "log_loss" not in values
    assert "roc_auc" not in values


def test_a_class_that_the_model_never_met_is_not_free() -> None:
    values = told("multiclass", [("new", Answer("a", {"a": 1.0}, 1.0))])
    assert values["log_loss"] == pytest.approx(-math.log(1e-15))


def test_the_baseline_of_classes_says_the_commonest_label_so_far() -> None:
    labels = ["a", "b", "b", "b", "a", "b"]
    values = told("multiclass", [(label, Answer("c", {}, None)) for label in labels])
    # Says a, a, a (a and b are level: the first to get there), b, b.
    assert values["accuracy.baseline"] == pytest.approx(2 / 5)


def test_the_baseline_of_numbers_says_the_mean_so_far() -> None:
    values = told("regression", [(label, Answer(0.0, {}, None)) for label in (1.0, 3.0, 5.0)])
    assert values["mae.baseline"] == pytest.approx((2.0 + 3.0) / 2)


def test_a_number_that_is_none_is_no_answer() -> None:
    values = told("regression", [(1.0, Answer(math.inf, {}, None)), (2.0, Answer(2.0, {}, None))])
    assert values["coverage"] == 0.5
    assert values["mae"] == 0.0
    assert all(math.isfinite(value) for value in values.values())


def test_it_is_known_how_often_one_label_was_said_where_another_was_true() -> None:
    scores = Scores("multiclass")
    for number, (label, said) in enumerate([("a", "b"), ("a", "b"), ("b", "a"), ("a", "a")]):
        scores.update(example(number, {}, label, Answer(said, {}, None)), None)
    assert scores.confused("a", "b") == 2
    assert scores.confused("b", "b") == 0
    assert Scores("regression").confused(1.0, 2.0) is None
