"""The replay check, in real processes."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pytest
from river import base, forest, linear_model, neighbors, preprocessing, tree

from streams.core.model import specimens
from streams.engine.replay import replays

LESSONS = specimens("binary", dict.fromkeys("abcdefghij", float), (False, True), count=1_200)


class Talkative(base.Classifier):
    """A model that changes by being asked."""

    def __init__(self) -> None:
        self.asked = 0

    def learn_one(self, x: dict[str, Any], y: bool) -> None:  # type: ignore[override]
        """Learns nothing."""

    def predict_proba_one(self, x: dict[str, Any]) -> dict[bool, float]:  # type: ignore[override]
        """Answers by how often it was asked."""
        self.asked += 1
        return {True: 1 / (1 + self.asked), False: 1 - 1 / (1 + self.asked)}


class Lucky(base.Classifier):
    """A model that draws from the process's own generator."""

    def learn_one(self, x: dict[str, Any], y: bool) -> None:  # type: ignore[override]
        """Remembers a draw."""
        self.drawn = random.random()

    def predict_proba_one(self, x: dict[str, Any]) -> dict[bool, float]:  # type: ignore[override]
        """Answers with it."""
        return {True: self.drawn, False: 1 - self.drawn}


@pytest.mark.parametrize(
    ("model", "same"),
    [
        (tree.HoeffdingAdaptiveTreeClassifier(seed=1), True),
        (forest.AMFClassifier(n_estimators=3, seed=1), True),
        (neighbors.KNNClassifier(engine=neighbors.SWINN(seed=1)), False),
        (
            preprocessing.GaussianRandomProjector(seed=1) | linear_model.LogisticRegression(),
            False,
        ),
        (Lucky(), False),
        (Talkative(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_replays_if_two_processes_make_the_same_of_it(model: Any, same: bool) -> None:
    """Trees that iterate over sets do, since roles hash alike; KNN loses its order when it is stored, and the projector
    draws for each feature when it is first seen, were it to predict."""
    assert replays(pickle.dumps((model, "binary", LESSONS))) == same


def test_a_model_that_other_processes_cannot_load_does_not_replay() -> None:
    assert not replays(b"not a pickle")
