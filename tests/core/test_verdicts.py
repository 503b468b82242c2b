"""What a verdict teaches."""

from __future__ import annotations

from typing import Any

import pytest

from streams.core.errors import BadRecord
from streams.core.events import ABSTAINED, NOTED, Feedback, Label, Prediction
from streams.core.verdicts import Lesson, Rules, Settled, TakenBack, lesson

BINARY = Rules(task="binary", classes=(False, True), window_ms=1000, early_ms=100)
ANIMALS = Rules(task="multiclass", classes=("cat", "dog", "eel"), window_ms=1000, early_ms=100)
DIGITS = Rules(task="multiclass", classes=(0, 1, 2), window_ms=1000, early_ms=100)
NUMBER = Rules(task="regression", classes=(), window_ms=1000, early_ms=100)


def answered(label: Label | None) -> Prediction:
    return Prediction("e", label, {}, None, {}, None, None, "", 0, "review", "all", 1.0)


def verdict(kind: str, label: Label | None = None) -> Feedback:
    return Feedback("f", "e", kind, label)


@pytest.mark.parametrize(
    ("rules", "answer", "other"),
    [(BINARY, True, False), (ANIMALS, "cat", "dog"), (DIGITS, 1, 2), (NUMBER, 1.5, 2)],
)
class TestOfEveryTask:
    def test_accept_teaches_the_answer(self, rules: Rules, answer: Label, other: Label) -> None:
        assert lesson(rules, answered(answer), verdict("accept")) == Lesson(answer, 1.0)

    def test_accept_teaches_the_label_the_person_saw_where_it_is_told(
        self, rules: Rules, answer: Label, other: Label
    ) -> None:
        assert lesson(rules, answered(answer), verdict("accept", other)) == Lesson(other, 1.0)
        assert lesson(rules, answered(None), verdict("accept", other)) == Lesson(other, 1.0)

    def test_accept_of_no_answer_is_refused_and_says_what_to_send(
        self, rules: Rules, answer: Label, other: Label
    ) -> None:
        with pytest.raises(BadRecord, match="did not give: send correct with the label") as refused:
            lesson(rules, answered(None), verdict("accept"))
        assert (refused.value.event_id, refused.value.feedback_id) == ("e", "f")

    def test_correct_teaches_the_label_given(
        self, rules: Rules, answer: Label, other: Label
    ) -> None:
        assert lesson(rules, answered(answer), verdict("correct", other)) == Lesson(other, 1.0)
        assert lesson(rules, answered(None), verdict("correct", other)) == Lesson(other, 1.0)

    def test_correct_without_a_label_is_refused(
        self, rules: Rules, answer: Label, other: Label
    ) -> None:
        with pytest.raises(BadRecord, match="needs the true label"):
            lesson(rules, answered(answer), verdict("correct"))

    def test_abstain_and_retract_teach_nothing(
        self, rules: Rules, answer: Label, other: Label
    ) -> None:
        assert lesson(rules, answered(answer), verdict("abstain")) == Settled(ABSTAINED)
        retracted = verdict("retract")._replace(reviewer="ann")
        assert lesson(rules, answered(answer), retracted) == TakenBack("reviewer ann")

    @pytest.mark.parametrize("kind", ["reject", "abstain", "retract"])
    def test_a_label_where_none_belongs_is_refused(
        self, rules: Rules, answer: Label, other: Label, kind: str
    ) -> None:
        with pytest.raises(BadRecord, match=f"{kind} with the label"):
            lesson(rules, answered(answer), verdict(kind, other))

    def test_an_unknown_verdict_is_refused_with_those_that_exist(
        self, rules: Rules, answer: Label, other: Label
    ) -> None:
        with pytest.raises(BadRecord, match="'approve' is none of accept, correct, reject"):
            lesson(rules, answered(answer), verdict("approve"))


@pytest.mark.parametrize("answer", [True, False])
def test_of_two_answers_a_rejected_one_tells_the_other(answer: bool) -> None:
    assert lesson(BINARY, answered(answer), verdict("reject")) == Lesson(not answer, 1.0)


def test_reject_of_no_answer_is_refused() -> None:
    with pytest.raises(BadRecord, match="did not give"):
        lesson(BINARY, answered(None), verdict("reject"))


@pytest.mark.parametrize(
    ("rules", "answer"), [(ANIMALS, "cat"), (NUMBER, 1.5), (ANIMALS, None), (NUMBER, None)]
)
def test_of_more_answers_a_rejected_one_is_only_noted(rules: Rules, answer: Label | None) -> None:
    settled = lesson(rules, answered(answer), verdict("reject"))
    assert isinstance(settled, Settled)
    assert settled.status == NOTED


@pytest.mark.parametrize(
    ("rules", "label"),
    [
        (BINARY, 1),
        (BINARY, 0.0),
        (BINARY, "true"),
        (ANIMALS, "cow"),
        (ANIMALS, True),
        (DIGITS, True),
        (DIGITS, 1.0),
        (DIGITS, "1"),
        (DIGITS, 3),
    ],
)
@pytest.mark.parametrize("kind", ["accept", "correct"])
def test_a_label_is_a_class_by_type_and_value_or_is_refused_with_the_classes(
    rules: Rules, label: Label, kind: str
) -> None:
    with pytest.raises(BadRecord, match="not a class of this loop; they are") as refused:
        lesson(rules, answered(rules.classes[0]), verdict(kind, label))
    assert repr(label) in str(refused.value)


@pytest.mark.parametrize("label", [float("nan"), float("inf"), -float("inf"), True, "1.5"])
@pytest.mark.parametrize("kind", ["accept", "correct"])
def test_a_regression_learns_finite_numbers_only(label: Any, kind: str) -> None:
    with pytest.raises(BadRecord, match="not a finite number"):
        lesson(NUMBER, answered(1.0), verdict(kind, label))


def test_a_lesson_has_the_weight_of_its_verdict_and_1_where_none_is_said() -> None:
    rules = Rules(
        task="binary",
        classes=(False, True),
        window_ms=1000,
        early_ms=100,
        weights={"accept": 0.25, "reject": 3.0},
    )
    assert lesson(rules, answered(True), verdict("accept")) == Lesson(True, 0.25)
    assert lesson(rules, answered(True), verdict("reject")) == Lesson(False, 3.0)
    assert lesson(rules, answered(True), verdict("correct", False)) == Lesson(False, 1.0)
