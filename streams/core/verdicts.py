"""What a verdict teaches: the table of verdicts and tasks.

    verdict   binary                      multiclass                  regression
    accept    the label the person saw    the label the person saw    the number the person saw
    correct   the label given             the label given             the number given
    reject    the other label             outcome ``noted``           outcome ``noted``
    abstain   outcome ``abstained``       outcome ``abstained``       outcome ``abstained``
    retract   takes back                  takes back                  takes back

What ``retract`` takes back are the earlier verdicts of the same author on the event.  It does not know when a verdict came, or what other verdicts there are on the event: that is ``join``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import NamedTuple

from streams.core import events
from streams.core.consensus import LEARN_AGAIN, Consensus
from streams.core.errors import BadRecord
from streams.core.events import ABSTAINED, NOTED, VERDICTS, Feedback, Label, Prediction

BINARY, REGRESSION = "binary", "regression"
UNANSWERED = "unanswered"

NOTHING_TO_TAKE_BACK = "noted; nothing that {author} said about this event stands and was learned"
NO_OTHER = (
    "noted; of more than two answers, a rejected one does not tell the true one: correct does"
)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a loop says about its verdicts.

    Attributes:
        task: ``binary``, ``multiclass`` or ``regression``.
        classes: All labels; none for regression.
        window_ms: A verdict that comes later than this after its prediction is expired.
        early_ms: A verdict may come this much before its prediction.
        weights: Verdict, or ``unanswered``, to the weight of its lessons; 1 where nothing is said.
        corrections: Whether a later verdict on an event is learned too (``learn-again``), not (``keep-first``), or in
            place of the earlier ones, which are taken out of what was learned (``repair``).
        unanswered: The label of an event without a verdict within the window; None: such an event teaches nothing.
        reviewers: How many people's verdicts make a lesson; None: each verdict makes one.
    """

    task: str
    classes: tuple[Label, ...]
    window_ms: int
    early_ms: int
    weights: Mapping[str, float] = field(default_factory=dict)
    corrections: str = LEARN_AGAIN
    unanswered: Label | None = None
    reviewers: Consensus | None = None

    @cached_property
    def known_ms(self) -> int:
        """For so long after a feedback its id is known: another with it is a duplicate, and a later one a new feedback."""
        return 2 * self.window_ms + self.early_ms

    @cached_property
    def known(self) -> frozenset[tuple[type, Label]]:
        """The classes with their types: True, 1 and 1.0 are equal, and three different labels."""
        return frozenset((type(label), label) for label in self.classes)

    def weight(self, verdict: str) -> float:
        """The weight of a lesson from a verdict."""
        return self.weights.get(verdict, 1.0)


class Lesson(NamedTuple):
    """What a verdict teaches."""

    label: Label
    weight: float


class TakenBack(NamedTuple):
    """Whose earlier verdicts on the event do not count any more."""

    author: str


class Settled(NamedTuple):
    """What becomes of a verdict that teaches nothing."""

    status: str
    detail: str | None = None


def author(feedback: Feedback) -> str:
    """Who gave a verdict, and so may take it back: the reviewer, or the channel of those that name none.

    >>> author(Feedback("f", "e", "accept", reviewer="ann", channel="desk"))
    'reviewer ann'
    >>> author(Feedback("f", "e", "accept", channel="labels"))
    'channel labels'
    """
    if feedback.reviewer is not None:
        return f"reviewer {feedback.reviewer}"
    return f"channel {feedback.channel}"


def lesson(
    rules: Rules, prediction: Prediction, feedback: Feedback
) -> Lesson | TakenBack | Settled:
    """What a verdict on a prediction teaches.

    >>> rules = Rules(task="binary", classes=(False, True), window_ms=1000, early_ms=0)
    >>> seen = Prediction("e", True, {}, None, {}, None, None, "", 0, "review", "all", 1.0)
    >>> lesson(rules, seen, Feedback("f", "e", "reject"))
    Lesson(label=False, weight=1.0)

    Raises:
        BadRecord: The verdict contradicts itself, or has a label that the loop does not know.
    """
    try:
        return _lesson(rules, prediction, feedback)
    except BadRecord as error:
        error.event_id, error.feedback_id = feedback.event_id, feedback.feedback_id
        raise


def _lesson(
    rules: Rules, prediction: Prediction, feedback: Feedback
) -> Lesson | TakenBack | Settled:
    verdict, label = feedback.verdict, feedback.label
    match verdict:
        case events.ACCEPT:
            shown = prediction.label if label is None else label
            return Lesson(_checked(rules, _some(verdict, shown)), rules.weight(verdict))
        case events.CORRECT:
            if label is None:
                raise BadRecord("correct needs the true label, and there is none")
            return Lesson(_checked(rules, label), rules.weight(verdict))
        case events.REJECT | events.ABSTAIN | events.RETRACT if label is not None:
            raise BadRecord(
                f"{verdict} with the label {label!r}: send correct with the label,"
                f" or {verdict} without one"
            )
        case events.REJECT if rules.task == BINARY:
            other = not _checked(rules, _some(verdict, prediction.label))
            return Lesson(other, rules.weight(verdict))
        case events.REJECT:
            return Settled(NOTED, NO_OTHER)
        case events.ABSTAIN:
            return Settled(ABSTAINED)
        case events.RETRACT:
            return TakenBack(author(feedback))
        case _:
            raise BadRecord(f"verdict {verdict!r} is none of {', '.join(VERDICTS)}")


def _some(verdict: str, answer: Label | None) -> Label:
    if answer is None:
        raise BadRecord(
            f"{verdict} of an answer that the model did not give: send correct with the label"
        )
    return answer


def _checked(rules: Rules, label: Label) -> Label:
    if rules.task == REGRESSION:
        if isinstance(label, bool | str) or not isfinite(label):
            raise BadRecord(f"label {label!r} is not a finite number, which a regression needs")
        return label
    if (type(label), label) not in rules.known:
        classes = ", ".join(map(repr, rules.classes))
        raise BadRecord(f"label {label!r} is not a class of this loop; they are {classes}")
    return label
