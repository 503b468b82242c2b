"""The naive fold: what a lineage means, how a model is taught and asked, when two answers are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isclose
from typing import Any, NamedTuple, TypeAlias

from streams.audit.report import Fields

NEAR = 1e-6
"""So far apart, relatively, may answers be on machines that round otherwise."""


class Lineage(NamedTuple):
    """What the definitions in a partition of the log say.

    Attributes:
        learn_from: Examples below this offset teach this code's model nothing.
        comparable_after: Versions up to this one were made by other code, or from a state that is not in the log.
        base: The stored model that it starts from.
    """

    learn_from: int = 0
    comparable_after: float = -1
    base: str | None = None


def lineage_of(definitions: Sequence[tuple[int, Fields]]) -> Lineage:
    """What the definitions of a partition, by offset, say; one that repeats the one before says nothing."""
    effective: list[tuple[int, Fields]] = []
    for offset, define in definitions:
        before = effective[-1][1] if effective else None
        if before is None or not (
            define["definition"] == before["definition"]
            and define["mode"] == before["mode"]
            and define["base"] in (None, before["base"])
        ):
            effective.append((offset, define))
    newest, base = effective[-1][0], effective[-1][1]["base"]
    later = effective[1:]
    if not later:
        return Lineage(0, -1, base)
    if later[-1][1]["mode"] == "continue":  # from a state that its author's code made
        return Lineage(newest, inf, base)
    fresh = max((offset for offset, define in later if define["mode"] == "fresh"), default=0)
    return Lineage(fresh, newest, base)


def teach(model: Any, example: Fields) -> None:
    """Learns, as plainly as it can be said."""
    try:
        if example["weight"] == 1:
            model.learn_one(example["features"], example["label"])
        else:
            model.learn_one(example["features"], example["label"], w=example["weight"])
    except Exception:  # noqa: BLE001, S110  the model is the user's code; its dead letter was counted
        pass


Said: TypeAlias = tuple[Any, Mapping[str, float]]
"""A label, and the scores of all labels."""


def answer(model: Any, features: Fields) -> Said:
    """What a model says, as plainly as it can be asked; what it raises is what it says."""
    try:
        return _answer(model, features)
    except Exception as error:  # noqa: BLE001  the model is the user's code
        return f"raised {type(error).__name__}", {}


def _answer(model: Any, features: Fields) -> Said:
    try:
        likely = model.predict_proba_one(features)
    except (AttributeError, NotImplementedError):
        return model.predict_one(features), {}
    if not likely:
        return None, {}
    return model.predict_one(features), {str(label): p for label, p in likely.items()}


def said(prediction: Fields) -> Said:
    """What a prediction says."""
    return prediction["label"], prediction["scores"]


def same(one: Said, other: Said) -> bool:
    """Whether two answers are equal to the last bit; not-a-number is itself here."""
    (label, scores), (label_2, scores_2) = one, other
    return scores.keys() == scores_2.keys() and all(
        a == b or (a != a and b != b)
        for a, b in [(label, label_2), *((scores[name], scores_2[name]) for name in scores)]
    )


def nearly(one: Said, other: Said) -> bool:
    """Whether two answers are equal but for rounding; the likeliest label may be another where two are as likely."""
    (label, scores), (label_2, scores_2) = one, other
    if not scores:
        return not scores_2 and _near(label, label_2)
    return scores.keys() == scores_2.keys() and all(
        _near(scores[name], scores_2[name]) for name in scores
    )


def _near(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return isclose(a, b, rel_tol=NEAR, abs_tol=NEAR / 1000) or (a != a and b != b)
    return bool(a == b)
