"""What it costs to decide who is asked: nothing else of a prediction is done meanwhile."""

from __future__ import annotations

import random
from statistics import median
from time import perf_counter

from streams.core.review import Policy, Uncertain
from tests.benchmarks.lab import Lab
from tests.benchmarks.report import Figure

DECISIONS, ROUNDS = 100_000, 5


def measure(lab: Lab) -> list[Figure]:
    """Events of which one in twenty is uncertain, and the confidences are never the same."""
    figure = Figure("routing_uncertain_us", _each_us(Uncertain(0.05), lab.count(DECISIONS)))
    lab.say(f"{figure.key} {figure.value:.2f}")
    return [figure]


def _each_us(policy: Policy, many: int) -> float:
    draw, spent = random.Random(1), []
    confidences = [0.5 + draw.random() / 2 for _ in range(many)]
    events = [(f"event-{n}", {"True": c, "False": 1 - c}, c) for n, c in enumerate(confidences)]
    route = policy.router()
    for _ in range(ROUNDS):
        began = perf_counter()
        for event_id, scores, confidence in events:
            route(event_id, True, scores, confidence)
        spent.append((perf_counter() - began) / many * 1e6)
    return median(spent)
