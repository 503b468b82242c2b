"""How right a model is, as far as a sample of its answers tells, and how far people agree.

Reviewers see mostly the hard cases, so the share of right answers among them tells too little of all.  Each counts as
often as it stands for others: one over the probability with which it was chosen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import sqrt
from typing import NamedTuple

from streams.core.events import Label

Z = 1.959964
"""The interval holds the true value 95 times of a hundred."""


class Estimate(NamedTuple):
    """A share, between what it may as well be, of so many cases."""

    value: float
    low: float
    high: float
    cases: int


def share(right: int, cases: int) -> Estimate | None:
    """The share of right answers, with Wilson's interval; None without a case.

    >>> share(9, 10)
    Estimate(value=0.9, low=0.596, high=0.982, cases=10)
    """
    if cases == 0:
        return None
    return _wilson(right / cases, cases, cases)


def weighted_share(judged: Iterable[tuple[bool, float]]) -> Estimate | None:
    """The share of right answers among all from which these were drawn.

    It is Hájek's estimate, with Wilson's interval for as many cases as these are worth (Kish's effective sample size):
    that says how little is known, too, where all answers were right.

    Args:
        judged: Whether an answer was right, and the probability with which it was chosen.

    >>> weighted_share([(False, 1.0)] * 5 + [(True, 0.1)] * 5)
    Estimate(value=0.9090909090909091, low=0.509, high=0.99, cases=10)
    >>> weighted_share([(True, 0.5)] * 10)
    Estimate(value=1.0, low=0.722, high=1.0, cases=10)
    """
    cases = [(right, 1 / probability) for right, probability in judged if probability > 0]
    if not cases:
        return None
    stands_for = sum(weight for _, weight in cases)
    value = sum(weight for right, weight in cases if right) / stands_for
    effective = stands_for**2 / sum(weight**2 for _, weight in cases)
    return _wilson(value, effective, len(cases))


def _wilson(p: float, effective: float, cases: int) -> Estimate:
    z2 = Z * Z
    middle = (p + z2 / (2 * effective)) / (1 + z2 / effective)
    half = Z * sqrt(p * (1 - p) / effective + z2 / (4 * effective**2)) / (1 + z2 / effective)
    return Estimate(p, round(middle - half, 3), round(middle + half, 3), cases)


def alpha(units: Iterable[Sequence[Label]]) -> float | None:
    """Krippendorff's alpha of labels: 1 where all agree, 0 where they agree as by chance.

    Args:
        units: Of each event, the labels that people gave; those that one person saw tell nothing.

    >>> alpha([["a", "a"], ["b", "b"]]), alpha([["a", "b"], ["a", "b"]])
    (1.0, -0.5)
    """
    pairs: dict[tuple[object, object], float] = defaultdict(float)
    for said in units:
        if len(said) < 2:
            continue
        counts = Counter((type(label), label) for label in said)
        for one, n in counts.items():
            for other, m in counts.items():
                pairs[one, other] += n * (m - (one == other)) / (len(said) - 1)
    totals: dict[object, float] = defaultdict(float)
    for (label, _), count in pairs.items():
        totals[label] += count
    total = sum(totals.values())
    expected = total * total - sum(count * count for count in totals.values())
    if not expected:
        return 1.0 if total else None
    observed = sum(count for (label, other), count in pairs.items() if label != other)
    return 1 - (total - 1) * observed / expected
