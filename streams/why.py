"""Looks into one prediction: why the model said it, and if a verdict says otherwise, what was wrong and is it learned.

A prediction that was sent to a person brings its explanation along.  For any other the version that made it is made
again, which takes as long as folding the log from the snapshot before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from streams.config import Settings
from streams.core.errors import NotFound, StreamsError
from streams.core.events import Label, Prediction
from streams.core.explain import Explanation
from streams.core.failure import Failure, Now, failure
from streams.core.model import REGRESSION, Answer
from streams.corrections import Opened, open_log
from streams.loop import Loop
from streams.versions import made_again

NEAR = 1e-9
"""How far a probability may be off on a machine that rounds otherwise."""


class Why(NamedTuple):
    """What was found.

    Attributes:
        explanation: Contributions and basis, and where they come from: ``prediction`` or ``version made again``; or
            ``why`` there are none.
        failure: What was wrong; None if no verdict says otherwise.
    """

    explanation: Mapping[str, Any]
    failure: Failure | None


class _Looking:
    """The looking into one prediction; the log is opened when it is needed first."""

    def __init__(self, loop: Loop, settings: Settings, prediction: Prediction) -> None:
        self._loop, self._settings, self._prediction = loop, settings, prediction
        self._opened: Opened | None = None
        self.answer = Answer(prediction.label, prediction.scores, prediction.confidence)

    def recorded(self) -> Explanation | None:
        contributions, basis = self._prediction.explanation, self._prediction.basis
        if contributions is None or basis is None:
            return None
        return Explanation(contributions, basis)

    def again(self, against: Label | None) -> Explanation:
        """By the version that predicted, made again.

        Raises:
            NotFound: There is none.
        """
        told = self._prediction
        fold = made_again(self._open(), told.model_key, told.model_version).fold
        if not _is_alike(fold.answer(told.features), self.answer):
            message = f"version {told.model_version} cannot be made again exactly: its model does not replay here"
            raise NotFound(message)
        found = fold.explain(told.features, self.answer, against)
        if found is None:
            message = "the model had no answer, or knew no other one"
            raise NotFound(message)
        return found

    def alike(self, given: Label) -> int | None:
        """How many learned verdicts said this where the model had said that."""
        if self._loop.task == REGRESSION:
            return None
        scores = made_again(self._open(), self._prediction.model_key).fold.scores
        return None if scores is None else scores.confused(given, self.answer.label)

    def _open(self) -> Opened:
        if self._opened is None:
            self._opened = open_log(self._loop, self._settings)
        return self._opened


def why(
    loop: Loop, settings: Settings, prediction: Prediction, given: Label | None, now: Now | None
) -> Why:
    """Looks into a prediction; what cannot be found out is left out, with the reason.

    Args:
        given: The label of the verdict that stands; None if there is none.
        now: What the model of now says.
    """
    looking = _Looking(loop, settings, prediction)
    differs = given is not None and prediction.label not in (None, given)
    found, reason = looking.recorded(), ""
    source = "prediction"
    if found is None or (differs and not _is_about(found, given)):
        try:
            found, source = looking.again(given if differs else None), "version made again"
        except StreamsError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  the model is the user's code
            reason = f"the model raises {type(error).__name__}: {error}"
    if found is None:
        told: dict[str, Any] = {"why": reason}
    else:
        basis = found.basis._asdict()
        told = {"contributions": found.contributions, **basis, "total": found.total(), "by": source}
    if given is None or not differs:
        return Why(told, None)
    try:
        alike = looking.alike(given)
    except StreamsError:
        alike = None
    return Why(told, failure(looking.answer, given, found, alike, now))


def _is_about(explanation: Explanation, given: Label | None) -> bool:
    """Whether the verdict's label is one of the two sides of an explanation, or one of all others."""
    _, _, towards, against, *_ = explanation.basis
    return against is None or given in (towards, against)


def _is_alike(some: Answer, other: Answer) -> bool:
    if isinstance(some.label, float) and isinstance(other.label, float):
        return abs(some.label - other.label) <= NEAR * max(1.0, abs(other.label))
    return some.label == other.label and all(
        abs(p - some.scores.get(label, 0.0)) <= NEAR for label, p in other.scores.items()
    )
