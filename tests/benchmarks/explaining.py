"""What it costs to tell why a model said what it said: nothing else of a prediction is done meanwhile."""

from __future__ import annotations

import copy
import random
from statistics import median
from time import perf_counter
from typing import Any

from river import datasets, forest, linear_model, preprocessing

from streams.core.events import Example
from streams.core.fold import Fold
from tests.benchmarks import material
from tests.benchmarks.lab import Lab
from tests.benchmarks.report import Figure

FEATURES, LESSONS, EXPLAINED, ROUNDS = 30, 1_000, 5_000, 5


def measure(lab: Lab) -> list[Figure]:
    """A linear model of 30 features; and a forest, which is asked once more for each of nine."""
    draw = random.Random(1)
    wide = [{f"f{n:02}": draw.gauss(n, 2) for n in range(FEATURES)} for _ in range(LESSONS)]
    linear = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    by_label = [(event, event["f00"] + event["f03"] > 3) for event in wide]
    phishing = list(datasets.Phishing())[:LESSONS]
    figures = [
        Figure("explain_linear_us", _each_us(linear, by_label, lab.count(EXPLAINED))),
        Figure(
            "explain_forest_us",
            _each_us(forest.ARFClassifier(n_models=10, seed=42), phishing, lab.count(100)),
        ),
    ]
    lab.say(", ".join(f"{figure.key} {figure.value:.0f}" for figure in figures))
    return figures


def _each_us(model: Any, lessons: list[tuple[Any, bool]], many: int) -> float:
    """The median of a few rounds over as many events."""
    fold = Fold(copy.deepcopy(model), "binary", (False, True))
    (_, value), *_ = material.examples(0, 1)
    template = material.CODEC.decode_as(Example, value)
    for version, (event, label) in enumerate(lessons, 1):
        source = template.sources[0]._replace(offset=version)
        fold.apply(version, template._replace(features=event, label=label, sources=[source]))
    asked = [(event, fold.answer(event)) for event, _ in lessons]
    explain, spent = fold.explain, []
    for _ in range(ROUNDS):
        began = perf_counter()
        for number in range(many):
            explain(*asked[number % len(asked)])
        spent.append((perf_counter() - began) / many * 1e6)
    return median(spent)
