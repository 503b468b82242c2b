"""Why an answer was wrong: what a verdict that differs tells of the model that gave it, and of the one of now.

It is told from what was recorded and from two models' answers; neither is asked here.
"""

from __future__ import annotations

from math import copysign
from typing import TYPE_CHECKING, NamedTuple

from streams.core.events import Contribution, Label

if TYPE_CHECKING:
    from streams.core.explain import Explanation
    from streams.core.model import Answer


class Now(NamedTuple):
    """What a model says now.

    Attributes:
        version: Which model says it.
    """

    version: int
    answer: Answer


class Failure(NamedTuple):
    """A verdict that differs from the answer.

    Attributes:
        predicted: The answer.
        given: The label of the verdict.
        confidence: How sure the model was of its answer; None if it did not tell.
        pushed: What pushed towards the wrong answer, the strongest first; None if that is not known.
        alike: How many learned verdicts said this where the model had said that; None of numbers, which seldom repeat.
        now: What the model says to the event by now; None if it cannot be asked.
        has_learned: Whether it says what the verdict says, or of numbers, comes nearer to it.
    """

    predicted: Label
    given: Label
    confidence: float | None
    pushed: tuple[Contribution, ...] | None
    alike: int | None
    now: Now | None
    has_learned: bool | None

    def words(self) -> list[str]:
        """The same as sentences.

        >>> from streams.core.model import Answer
        >>> now = Now(40, Answer("legit", {}, 0.62))
        >>> print(*Failure("phishing", "legit", 0.91, None, 3, now, True).words(), sep="; ")
        said phishing 0.91, and the verdict is legit; 3 learned verdicts say legit where it said phishing; version 40 has \
learned it: legit 0.62, was phishing 0.91
        """
        was = _words(self.predicted, self.confidence)
        told = [f"said {was}, and the verdict is {_words(self.given)}"]
        if self.pushed:
            told.append(f"what pushed the wrong way: {', '.join(map(pushes, self.pushed))}")
        if self.alike is not None:
            verdicts = (
                "1 learned verdict says"
                if self.alike == 1
                else f"{self.alike:,} learned verdicts say"
            )
            told.append(f"{verdicts} {_words(self.given)} where it said {_words(self.predicted)}")
        if self.now is None:
            return [*told, "the model cannot be asked what it says now"]
        version, (label, _, confidence) = self.now
        learned = "has learned it" if self.has_learned else "has not learned it"
        said = "nothing" if label is None else _words(label, confidence)
        return [*told, f"version {version:,} {learned}: {said}, was {was}"]


def _words(label: Label, confidence: float | None = None) -> str:
    name = f"{label:.4g}" if isinstance(label, float) else str(label)
    return name if confidence is None else f"{name} {confidence:.2f}"


def pushes(each: Contribution) -> str:
    """A contribution in words.

    >>> pushes(Contribution("country", 1, -0.25, "country_SE"))
    'country (country_SE)=1 -0.25'
    """
    part = "" if each.part is None else f" ({each.part})"
    value = f"{each.value:.4g}" if isinstance(each.value, float) else each.value
    return f"{each.feature}{part}={value} {each.weight:+.3g}"


def failure(
    answer: Answer,
    given: Label,
    explanation: Explanation | None,
    alike: int | None,
    now: Now | None,
) -> Failure | None:
    """Why the answer was wrong; None if it was not, or if there was none."""
    said = answer.label
    if said is None or said == given:
        return None
    pushed = None if explanation is None else _pushed(explanation, said, given)
    has_learned = None if now is None else _is_nearer(now.answer.label, said, given)
    return Failure(said, given, answer.confidence, pushed, alike, now, has_learned)


def _pushed(explanation: Explanation, said: Label, given: Label) -> tuple[Contribution, ...]:
    towards = explanation.basis.towards
    if towards is not None:
        wrong = 1.0 if towards == said else -1.0
    else:
        wrong = copysign(1.0, float(said) - float(given))
    some = [each for each in explanation.contributions if each.weight * wrong > 0]
    return tuple(sorted(some, key=lambda each: -abs(each.weight)))


def _is_nearer(now: Label | None, said: Label, given: Label) -> bool:
    if now == given:
        return True
    # Of classes, bool included, there is no nearer
    if isinstance(now, float) and isinstance(said, float) and not isinstance(given, str | bool):
        return abs(now - given) < abs(said - given)
    return False
