"""The loops that are measured; their name comes from the environment, so that each run has topics of its own."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

from river import datasets, forest, linear_model, preprocessing

from streams import Loop, review

NAME = os.environ.get("BENCH_LOOP", "bench")


def trained() -> Any:
    """Scaler and logistic regression that have seen Phishing: an unlearned one has no weights to multiply with."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    for features, label in datasets.Phishing():
        model.learn_one(features, label)
    return model


# None of them explains: the yardstick writes the same records without, and what it costs is measured by itself.
linear = Loop(name=NAME, task="binary", model=trained(), review=review.Audit(0.01), explain=False)
committed = replace(linear, delivery="transactional")
routed = replace(linear, review=review.Uncertain(0.05))
asked = Loop(
    name=NAME,
    task="binary",
    model=preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    review=review.Everything(),
    explain=False,
)
trees = Loop(
    name=NAME,
    task="binary",
    model=forest.ARFClassifier(n_models=10, seed=42),
    review=review.Everything(),
    explain=False,
)
flat = Loop(
    name=NAME,
    task="binary",
    model=preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    window=timedelta(minutes=float(os.environ.get("BENCH_WINDOW_MIN", "2"))),
    early=timedelta(seconds=10),
    explain=False,
)


def named(loop: Loop, name: str) -> Loop:
    """The same loop under another name, as the processes with that ``BENCH_LOOP`` have it."""
    return replace(loop, name=name)
