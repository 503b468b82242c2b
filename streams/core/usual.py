"""What a feature usually is: running means, for explanations that leave a feature out.

They are of the lessons and not of the inputs: so they are a function of the log, equal in every replica and for ever,
and whoever makes a version again has them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from streams.core.events import Features, Value

MOST_VALUES = 64
"""Different values of a feature that are counted; ones that come later are not."""


class Usual:
    """The mean of each number, and the commonest of the first ``MOST_VALUES`` values of anything else.

    >>> usual = Usual()
    >>> usual.learn({"amount": 1.0, "hour": 2, "country": "SE"})
    >>> usual.learn({"amount": 2.0, "hour": 5, "country": "NO"})
    >>> [usual.of(name) for name in ("amount", "hour", "country", "age")]
    [1.5, 4, 'SE', None]
    """

    def __init__(self) -> None:
        self._means: dict[str, tuple[int, float, bool]] = {}
        self._counts: dict[str, dict[Value, int]] = {}

    def learn(self, features: Features) -> None:
        """Take in a lesson's features."""
        means = self._means
        for name, value in features.items():
            if isinstance(value, float | int) and not isinstance(value, bool):
                if not isfinite(value):
                    continue
                count, mean, whole = means.get(name, (0, 0.0, True))
                whole = whole and isinstance(value, int)
                means[name] = count + 1, mean + (value - mean) / (count + 1), whole
            elif value is not None:
                counts = self._counts.setdefault(name, {})
                if value in counts or len(counts) < MOST_VALUES:
                    counts[value] = counts.get(value, 0) + 1

    def of(self, name: str) -> Value:
        """The usual value of a feature, rounded if all were whole; None if none was seen."""
        if name in self._means:
            _, mean, whole = self._means[name]
            return round(mean) if whole else mean
        counts = self._counts.get(name)
        return max(counts, key=counts.__getitem__) if counts else None

    def dump(self) -> dict[str, Any]:
        """The state in plain containers, for a snapshot."""
        return {"means": self._means, "counts": self._counts}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a dumped state in place of this one."""
        self._means, self._counts = state["means"], state["counts"]
