"""How popular is the president today? 1,001 days of five polls, bundled with River: a number, in per cent."""

from __future__ import annotations

from collections.abc import Iterator

from river import datasets, linear_model, preprocessing

from streams import Loop, review
from streams.core.events import Features, Label

loop = Loop(
    name="trump",
    task="regression",
    # The target is scaled too: verdicts come some dozens late, and large steps on late errors overshoot
    model=preprocessing.StandardScaler()
    | preprocessing.TargetStandardScaler(linear_model.LinearRegression()),
    review=review.Everything(),
)


def stream() -> Iterator[tuple[str, Features, Label]]:
    """Event id, polls and the approval that FiveThirtyEight made of them, of every day."""
    days = datasets.TrumpApproval()
    for features, approval in days:
        yield f"day-{features['ordinal_date']}", features, approval
