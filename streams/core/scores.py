"""Progressive metrics: each example is scored by its original answer, before it is learned.

The numbers are River's (``metrics.Accuracy``, ``LogLoss``, ``ROCAUC``, ``MacroF1``, ``MAE``, ``RMSE``, ``R2``); the
bookkeeping is ours, because River's ROC AUC alone costs more per example than learning a logistic regression does.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from streams.core.estimates import Weighted
from streams.core.events import REVIEW, Example, Label
from streams.core.topics import FEEDBACK

ROLLING = 500
"""Answers in the rolling metrics."""
_TINY = 1e-15
_STEPS = 10
_THRESHOLDS = [-1e-7, *(step / (_STEPS - 1) for step in range(1, _STEPS - 1)), 1 + 1e-7]


class Scored(NamedTuple):
    """One answer as it counts: what was true, what was said, and what the probabilities cost."""

    label: Any
    predicted: Any
    loss: float | None
    bucket: int | None


class _ClassTally:
    """Counts of (true, said), the sum of the losses, and for a binary task how many thresholds each score passed."""

    def __init__(self) -> None:
        self.counts: dict[tuple[Any, Any], int] = {}
        self.loss, self.losses = 0.0, 0
        self.passed: dict[bool, list[int]] = {yes: [0] * (_STEPS + 1) for yes in (False, True)}

    def add(self, scored: Scored) -> None:
        label, predicted, loss, bucket = scored
        pair = label, predicted
        self.counts[pair] = self.counts.get(pair, 0) + 1
        if loss is not None:
            self.loss += loss
            self.losses += 1
        if bucket is not None:
            self.passed[bool(label)][bucket] += 1

    def values(self) -> dict[str, float]:
        told: dict[str, float] = {}
        answered = sum(self.counts.values())
        if answered:
            right = sum(n for (label, predicted), n in self.counts.items() if label == predicted)
            told["accuracy"] = right / answered
            told["macro_f1"] = _macro_f1(self.counts)
        if self.losses:
            told["log_loss"] = self.loss / self.losses
        if any(self.passed[True]) or any(self.passed[False]):
            told["roc_auc"] = _roc_auc(self.passed[True], self.passed[False])
        return told


class _NumberTally:
    """Sums of the errors, and the true values' running mean and variance (Welford)."""

    def __init__(self) -> None:
        self.count, self.absolute, self.squared = 0, 0.0, 0.0
        self.mean, self.spread = 0.0, 0.0

    def add(self, scored: Scored) -> None:
        label, error = scored.label, scored.label - scored.predicted
        self.count += 1
        self.absolute += abs(error)
        self.squared += error * error
        off = label - self.mean
        self.mean += off / self.count
        self.spread += off * (label - self.mean)

    def values(self) -> dict[str, float]:
        if not self.count:
            return {}
        r2 = 1 - self.squared / self.spread if self.count > 1 and self.spread else 0.0
        return {
            "mae": self.absolute / self.count,
            "rmse": math.sqrt(self.squared / self.count),
            "r2": r2,
        }


_Tally: TypeAlias = _ClassTally | _NumberTally


class Scores:
    """All metrics of one model key.

    ``accuracy`` (or ``mae``) is told for the answers that people's verdicts were about; ``.rolling`` for the last 500
    of them; ``.frozen`` for the model as it was after its first lessons; ``.baseline`` for always saying the commonest
    label so far (the mean so far).  ``accuracy.weighted``, between ``.weighted.low`` and ``.weighted.high``, is told
    for all events from the lessons on those that were sent to people (see ``estimates``); a verdict that teaches
    nothing, such as a reject of one class of many, is not in it.  An event without an answer counts in ``coverage`` and
    nowhere else, as in River.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        numbers = task == "regression"
        self._tally: Callable[[], _Tally] = _NumberTally if numbers else _ClassTally
        self._main = "mae" if numbers else "accuracy"
        self._read: Callable[[Example], Scored | None] = {
            "binary": _binary,
            "multiclass": _multiclass,
            "regression": _number,
        }[task]
        self._all = self._tally()
        self._recent: deque[Scored] = deque(maxlen=ROLLING)
        self._asked = 0
        self._weighted = None if numbers else Weighted()
        self._beside = {"frozen": [0, 0.0], "baseline": [0, 0.0]}
        self._baseline: _Majority | _Mean = _Mean() if numbers else _Majority()
        self._cost: Callable[[Any, Any], float] = _error if numbers else _hit

    def update(self, example: Example, frozen_answer: Label | None) -> None:
        """Score the example's original answer, and what the frozen model and the baseline say beside it."""
        label = example.label
        if label is None:  # it takes a verdict back, and tells no truth
            return
        self._asked += 1
        scored = self._read(example)
        if scored is not None:
            self._all.add(scored)
            self._recent.append(scored)
            if self._weighted is not None and _was_sampled(example):
                self._weighted.add(example.predicted == label, example.probability)
        self._count("frozen", label, frozen_answer)
        self._count("baseline", label, self._baseline.said)
        self._baseline.learn(label)

    def _count(self, name: str, label: Label, answer: Label | None) -> None:
        if answer is not None:
            held = self._beside[name]
            held[0] += 1
            held[1] += self._cost(label, answer)

    def values(self) -> dict[str, float]:
        """Name to number; what cannot be told yet is left out."""
        told = self._all.values()
        told |= {f"{name}.rolling": v for name, v in _tallied(self._tally(), self._recent).items()}
        if self._asked:
            told["coverage"] = self._answered() / self._asked
        for name, (count, total) in self._beside.items():
            if count:
                told[f"{self._main}.{name}"] = total / count
        weighted = None if self._weighted is None else self._weighted.estimate()
        if weighted is not None:
            name = f"{self._main}.weighted"
            bounds = {f"{name}.low": weighted.low, f"{name}.high": weighted.high}
            told |= {name: weighted.value, **bounds}
        return {name: value for name, value in told.items() if math.isfinite(value)}

    def confused(self, label: Label, predicted: Label | None) -> int | None:
        """How often this was true when that had been said; None of numbers, which seldom repeat."""
        held = self._all
        return None if isinstance(held, _NumberTally) else held.counts.get((label, predicted), 0)

    def _answered(self) -> int:
        held = self._all
        return held.count if isinstance(held, _NumberTally) else sum(held.counts.values())

    def dump(self) -> dict[str, Any]:
        """The state in plain containers, for a snapshot."""
        return {
            "task": self.task,
            "all": vars(self._all),
            "recent": [tuple(scored) for scored in self._recent],
            "asked": self._asked,
            "weighted": None if self._weighted is None else self._weighted.dump(),
            "beside": self._beside,
            "baseline": vars(self._baseline),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a dumped state in place of this one."""
        vars(self._all).update(state["all"])
        self._recent = deque((Scored(*scored) for scored in state["recent"]), maxlen=ROLLING)
        self._asked = state["asked"]
        weighted = state.get("weighted")  # none in a state from before there were such sums
        if self._weighted is not None and weighted is not None:
            self._weighted.load(weighted)
        self._beside = state["beside"]
        vars(self._baseline).update(state["baseline"])


def _was_sampled(example: Example) -> bool:
    """Whether the event was chosen for people, and one of them answered: what somebody volunteers has no probability."""
    return example.route == REVIEW and example.sources[0].topic == FEEDBACK


def _tallied(tally: _Tally, answers: Iterable[Scored]) -> dict[str, float]:
    # The rolling metrics are counted anew when they are asked for: 500 additions now and then are cheaper than
    # taking back every 501st answer from each sum, and never drift.
    for scored in answers:
        tally.add(scored)
    return tally.values()


def _binary(example: Example) -> Scored | None:
    if example.predicted is None:
        return None
    scores, label = example.scores, example.label
    if not scores:
        return Scored(label, example.predicted, None, None)
    yes = scores.get("True", 0.0)
    bounded = min(max(yes, _TINY), 1 - _TINY)
    loss = -math.log(bounded if label else 1 - bounded)
    return Scored(label, example.predicted, loss, bisect_left(_THRESHOLDS, yes))


def _multiclass(example: Example) -> Scored | None:
    if example.predicted is None:
        return None
    scores, label = example.scores, example.label
    if not scores:
        return Scored(label, example.predicted, None, None)
    # A class that the model has never met has probability 0. (River's CrossEntropy lets it go free.)
    likely = scores.get(str(label), 0.0)
    return Scored(label, example.predicted, -math.log(min(max(likely, _TINY), 1 - _TINY)), None)


def _number(example: Example) -> Scored | None:
    said, label = example.predicted, example.label
    if isinstance(said, str) or isinstance(label, str) or said is None or not math.isfinite(said):
        return None
    return Scored(label, said, None, None)


class _Majority:
    """Says the commonest label so far; the first to get there, of several."""

    def __init__(self) -> None:
        self.said: Any = None
        self.counts: dict[Any, int] = {}

    def learn(self, label: Any) -> None:
        counts = self.counts
        held = counts[label] = counts.get(label, 0) + 1
        if label != self.said and held > counts.get(self.said, 0):
            self.said = label


class _Mean:
    """Says the mean so far."""

    def __init__(self) -> None:
        self.said: float | None = None
        self.count = 0

    def learn(self, label: Any) -> None:
        self.count += 1
        before = self.said or 0.0
        self.said = before + (label - before) / self.count


def _hit(label: Any, answer: Any) -> float:
    return 1.0 if label == answer else 0.0


def _error(label: Any, answer: Any) -> float:
    return abs(float(label) - float(answer))


def _macro_f1(counts: Mapping[tuple[Any, Any], int]) -> float:
    true: dict[Any, int] = {}
    said: dict[Any, int] = {}
    for (label, predicted), count in counts.items():
        true[label] = true.get(label, 0) + count
        said[predicted] = said.get(predicted, 0) + count
    known = true | said
    # 2·hits / (true + said) is the harmonic mean of precision and recall, and 0 where either is undefined.
    return sum(2 * counts.get((c, c), 0) / (true.get(c, 0) + said.get(c, 0)) for c in known) / len(
        known
    )


def _roc_auc(positive: list[int], negative: list[int]) -> float:
    tprs, fprs = _rates(positive), _rates(negative)
    pairs = zip(pairwise(fprs), pairwise(tprs), strict=True)
    return sum((x0 - x1) * (y0 + y1) / 2 for (x0, x1), (y0, y1) in pairs)


def _rates(passed: list[int]) -> list[float]:
    """For each threshold the share of scores above it; a score in bucket b is above the first b thresholds."""
    total = sum(passed)
    return [sum(passed[step + 1 :]) / total if total else 0.0 for step in range(_STEPS)]
