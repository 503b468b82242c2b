"""Why an answer was wrong."""

from __future__ import annotations

from typing import Any

import pytest

from streams.core.events import Basis, Contribution, Label
from streams.core.explain import Explanation
from streams.core.failure import Now, failure
from streams.core.model import Answer


def explained(towards: Label | None, against: Label | None, **weights: float) -> Explanation:
    told = [Contribution(name, 1.0, weight) for name, weight in weights.items()]
    return Explanation(told, Basis("linear", "logit", towards, against, 0.0, 0.0))


def pushed(answer: Answer, given: Label, why: Explanation) -> list[str]:
    found = failure(answer, given, why, None, None)
    assert found is not None
    assert found.pushed is not None
    return [each.feature for each in found.pushed]


def test_an_answer_that_is_right_has_not_failed_nor_one_that_was_not_given() -> None:
    assert failure(Answer(True, {}, 0.9), True, None, 3, None) is None
    assert failure(Answer(None, {}, None), True, None, 3, None) is None


def test_what_pushed_the_wrong_way_comes_strongest_first() -> None:
    why = explained(True, False, age=-2.0, hour=0.5, amount=0.7, country=-0.1)
    assert pushed(Answer(True, {}, 0.9), False, why) == ["amount", "hour"]
    assert pushed(Answer(False, {}, 0.9), True, why) == ["age", "country"]
    why = explained("spam", "legit", age=-2.0, hour=0.5)
    assert pushed(Answer("spam", {}, 0.9), "phishing", why) == ["hour"]


def test_of_a_number_that_was_too_high_what_raised_it_was_wrong() -> None:
    why = explained(None, None, age=-2.0, hour=0.5)
    assert pushed(Answer(3.0, {}, None), 2.0, why) == ["hour"]
    assert pushed(Answer(3.0, {}, None), 4, why) == ["age"]


@pytest.mark.parametrize(
    ("said", "given", "now", "learned"),
    [
        ("spam", "legit", "legit", True),
        ("spam", "legit", "spam", False),
        ("spam", "legit", None, False),
        (True, False, True, False),
        (3, 4, 5, False),  # classes: there is no nearer
        (3.0, 4.0, 3.5, True),
        (3.0, 4, 5.5, False),
        (3.0, 4.0, 4.0, True),
    ],
)
def test_it_is_learned_if_the_model_of_now_says_what_the_verdict_says_or_comes_nearer(
    said: Any, given: Label, now: Any, learned: bool
) -> None:
    found = failure(Answer(said, {}, None), given, None, None, Now(40, Answer(now, {}, None)))
    assert found is not None
    assert found.has_learned is learned


def test_it_is_told_in_words() -> None:
    why = explained("phishing", "legit", ip=0.71, age=-0.2)
    said, now = Answer("phishing", {}, 0.91), Now(1400, Answer("legit", {}, 0.62))
    found = failure(said, "legit", why, 1, now)
    assert found is not None
    assert found.words() == [
        "said phishing 0.91, and the verdict is legit",
        "what pushed the wrong way: ip=1 +0.71",
        "1 learned verdict says legit where it said phishing",
        "version 1,400 has learned it: legit 0.62, was phishing 0.91",
    ]
    found = failure(Answer(3.14159, {}, None), 4.0, None, None, Now(1, Answer(None, {}, None)))
    assert found is not None
    assert found.words() == [
        "said 3.142, and the verdict is 4",
        "version 1 has not learned it: nothing, was 3.142",
    ]
    unasked = failure(said, "legit", None, None, None)
    assert unasked is not None
    assert unasked.words() == [
        "said phishing 0.91, and the verdict is legit",
        "the model cannot be asked what it says now",
    ]
