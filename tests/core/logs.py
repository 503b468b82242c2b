"""Logs of examples for the tests of the fold: real data, answered by the fold itself, as the roles would do it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from river import datasets, linear_model, preprocessing

from streams.core.events import Example, Label, Source
from streams.core.fold import Fold
from streams.core.model import Answer
from streams.core.scores import Scores

BINARY = (False, True)


def logistic() -> Any:
    """A fresh scaler + logistic regression."""
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


@cache
def phishing() -> tuple[tuple[dict[str, Any], bool], ...]:
    """River's 1,250 real URLs."""
    return tuple(datasets.Phishing())


def source(offset: int, partition: int = 0) -> Source:
    """A feedback at a position."""
    return Source("f", partition, offset, f"{partition}-{offset}", None, "test")


def example(
    offset: int,
    features: dict[str, Any],
    label: Label,
    answer: Answer | None = None,
    *,
    sources: Sequence[Source] | None = None,
    weight: float = 1.0,
) -> Example:
    """An example that rests on the feedback at ``offset``, unless told otherwise."""
    said = answer or Answer(None, {}, None)
    return Example(
        event_id=str(offset),
        model_key="",
        features=features,
        label=label,
        weight=weight,
        sources=list(sources) if sources is not None else [source(offset)],
        predicted=said.label,
        scores=said.scores,
        model_version=0,
        route="review",
        reason="test",
        probability=1.0,
        predicted_at=0,
        answered_at=None,
    )


def lockstep(fold: Fold, lessons: Iterable[tuple[dict[str, Any], Label]]) -> list[Example]:
    """Predict, then learn, one after the other; the examples that came of it."""
    log: list[Example] = []
    for offset, (features, label) in enumerate(lessons):
        log.append(example(offset, features, label, fold.answer(features)))
        fold.apply(offset + 1, log[-1])
    return log


def binary_fold(model: Any, *, scored: bool = True) -> Fold:
    """A fold of a binary model."""
    return Fold(model, "binary", BINARY, scores=Scores("binary") if scored else None)
