"""What a fold knows that routing needs: how many verdicts there were of each class, and whether the model fails anew.

It is a function of the log alone, as the model is, and comes back with it from a snapshot.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from streams.core.events import Drift, Example, Label

RECENT, KEPT = 50, 20
"""Errors that an alarm tells the mean of; alarms that are remembered."""


class Detector(Protocol):
    """A drift detector, as River has them."""

    @property
    def drift_detected(self) -> bool:
        """Whether the last error raised the alarm."""

    def update(self, x: Any) -> Any:
        """Take one error."""


class Experience:
    """See the module.

    Attributes:
        lessons: Verdicts that were learned.
        taught: Class, as text, to how many of them said so; empty of numbers.
        since: Detector, as its text, to the lessons since its last alarm; those that were quiet so far are not in it.
    """

    __slots__ = ("_alarms", "_classes", "_errors", "_watching", "lessons", "since", "taught")

    def __init__(self, task: str = "binary", detectors: Iterable[Detector] = ()) -> None:
        self._classes = task != "regression"
        self._watching = {repr(detector): copy.deepcopy(detector) for detector in detectors}
        self.lessons = 0
        self.taught: dict[str, int] = {}
        self.since: dict[str, int] = {}
        self._errors: deque[float] = deque(maxlen=RECENT)
        self._alarms: deque[Drift] = deque(maxlen=KEPT)

    @property
    def drifts(self) -> list[Drift] | None:
        """The newest alarms, oldest first; None where nothing watches."""
        return list(self._alarms) if self._watching else None

    def learn(self, version: int, example: Example) -> None:
        """Take in an example that the model has learned, which is at this version with it."""
        self.lessons += 1
        label = example.label
        if self._classes:
            name = str(label)
            self.taught[name] = self.taught.get(name, 0) + 1
        if self._watching and label is not None and example.predicted is not None:
            answered_at = example.answered_at
            at = example.predicted_at if answered_at is None else answered_at
            self._watch(version, at, _error(label, example.predicted, self._classes))

    def _watch(self, version: int, at: int | None, error: float) -> None:
        if math.isfinite(error):
            self._errors.append(error)
        for name, detector in self._watching.items():
            detector.update(error)
            if detector.drift_detected:
                self.since[name] = 0
                mean = sum(each / len(self._errors) for each in self._errors)
                kind = type(detector).__name__
                self._alarms.append(Drift(kind, version, self.lessons, mean, at))
            elif name in self.since:
                self.since[name] += 1

    def dump(self) -> dict[str, Any]:
        """The state, for a snapshot."""
        return {
            "lessons": self.lessons,
            "taught": self.taught,
            "since": self.since,
            "watching": self._watching,
            "errors": list(self._errors),
            "alarms": [tuple(alarm) for alarm in self._alarms],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a dumped state in place of this one; a detector that is not in it begins here."""
        self.lessons, self.taught = state["lessons"], dict(state["taught"])
        self.since = {name: n for name, n in state["since"].items() if name in self._watching}
        self._watching |= {n: d for n, d in state["watching"].items() if n in self._watching}
        self._errors = deque(state.get("errors", ()), maxlen=RECENT)  # none before alarms were kept
        self._alarms = deque((Drift(*alarm) for alarm in state.get("alarms", ())), maxlen=KEPT)


def _error(label: Label, predicted: Label, classes: bool) -> float:
    return float(label != predicted) if classes else abs(float(label) - float(predicted))


NOTHING = Experience()
"""What is known before the first lesson."""
