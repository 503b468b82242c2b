"""What a fold knows that routing needs: how many verdicts there were of each class, and whether the model fails anew.

It is a function of the log alone, as the model is, and comes back with it from a snapshot.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from streams.core.events import Example, Label


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

    __slots__ = ("_classes", "_watching", "lessons", "since", "taught")

    def __init__(self, task: str = "binary", detectors: Iterable[Detector] = ()) -> None:
        self._classes = task != "regression"
        self._watching = {repr(detector): copy.deepcopy(detector) for detector in detectors}
        self.lessons = 0
        self.taught: dict[str, int] = {}
        self.since: dict[str, int] = {}

    def learn(self, example: Example) -> None:
        """Take in an example that the model has learned."""
        self.lessons += 1
        label = example.label
        if self._classes:
            name = str(label)
            self.taught[name] = self.taught.get(name, 0) + 1
        if self._watching and label is not None and example.predicted is not None:
            self._watch(_error(label, example.predicted, self._classes))

    def _watch(self, error: float) -> None:
        for name, detector in self._watching.items():
            detector.update(error)
            if detector.drift_detected:
                self.since[name] = 0
            elif name in self.since:
                self.since[name] += 1

    def dump(self) -> dict[str, Any]:
        """The state, for a snapshot."""
        return {
            "lessons": self.lessons,
            "taught": self.taught,
            "since": self.since,
            "watching": self._watching,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a dumped state in place of this one; a detector that is not in it begins here."""
        self.lessons, self.taught = state["lessons"], dict(state["taught"])
        self.since = {name: n for name, n in state["since"].items() if name in self._watching}
        self._watching |= {n: d for n, d in state["watching"].items() if n in self._watching}


def _error(label: Label, predicted: Label, classes: bool) -> float:
    return float(label != predicted) if classes else abs(float(label) - float(predicted))


NOTHING = Experience()
"""What is known before the first lesson."""
