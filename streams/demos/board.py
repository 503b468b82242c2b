"""What a demo knows of its loop: a fold of what was sent and of what came back on the topics.

No clock, no Kafka: whoever feeds it says when things were seen, in seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from streams.core.events import LEARNED, DeadLetter, Outcome, Prediction, Score, Status

RATE_WINDOW_S = 3.0


class Point(NamedTuple):
    """The metrics after so many lessons."""

    learned: int
    model: float
    frozen: float
    baseline: float


class Board:
    """Counts, metrics and latencies of one run.

    Args:
        total: Inputs that will be sent.
        metric: Name of the metric that is shown: accuracy or mae.
    """

    def __init__(self, total: int, metric: str) -> None:
        self.total, self.metric = total, metric
        self.inputs = self.duplicates = self.refused = self.learned = self.dead_letters = 0
        self.pending = 0  # predictions that wait for a verdict, as the joiner tells once a second
        self.predicted: set[str] = set()
        self.metrics: dict[str, float] = {}
        self.curve: list[Point] = []
        self.latencies_s: list[float] = []
        self.running: set[str] = set()
        self._buried: set[str] = set()
        self._sent_at: dict[str, float] = {}
        self._waiting: dict[str, float] = {}
        self._served: list[tuple[int, float]] = []
        self._unserved: deque[tuple[int, float]] = deque()
        self._scored = 0
        self._counts: deque[tuple[float, int, int]] = deque()

    @property
    def feedback(self) -> int:
        """Verdicts given; one that is sent twice is one."""
        return len(self._sent_at)

    @property
    def waiting(self) -> int:
        """Predictions on which nobody has given a verdict."""
        return max(len(self.predicted) - self.feedback, 0)

    @property
    def version(self) -> int:
        """The version that the predictor serves."""
        return self._served[-1][0] if self._served else 0

    @property
    def is_complete(self) -> bool:
        """Whether every input has its prediction, and every verdict its outcome, or a dead letter."""
        done = self.inputs == self.total and len(self.predicted | self._buried) >= self.total
        answered = self.feedback >= len(self.predicted) and not self._waiting
        return done and answered and self.refused >= self.duplicates

    @property
    def is_settled(self) -> bool:
        """Whether, besides, every lesson is served and scored."""
        return self.is_complete and not self._unserved and self._scored >= self.learned

    def missing(self) -> str:
        """What has not come yet, in words."""
        counts = {
            "inputs to be sent": self.total - self.inputs,
            "predictions": self.total - len(self.predicted | self._buried),
            "verdicts": self.waiting,
            "outcomes": len(self._waiting),
            "outcomes of duplicates": self.duplicates - self.refused,
            "lessons to be served": len(self._unserved),
            "lessons to be scored": self.learned - self._scored,
        }
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count > 0)

    def sent_input(self) -> None:
        """An input was sent."""
        self.inputs += 1

    def sent_feedback(self, feedback_id: str, now: float) -> None:
        """A verdict was sent, for the first time or again."""
        if feedback_id in self._sent_at:
            self.duplicates += 1
        else:
            self._sent_at[feedback_id] = self._waiting[feedback_id] = now

    def saw_prediction(self, prediction: Prediction) -> None:
        """A prediction came."""
        self.predicted.add(prediction.event_id)

    def saw_outcome(self, outcome: Outcome, now: float) -> None:
        """It is known what became of a verdict."""
        if outcome.status == "duplicate":
            self.refused += 1
            return
        sent_at = self._waiting.pop(outcome.feedback_id, None)
        if sent_at is not None and outcome.status == LEARNED and outcome.model_version is not None:
            self.learned += 1
            self._await_service(outcome.model_version, sent_at)

    def _await_service(self, version: int, sent_at: float) -> None:
        at = bisect_left(self._served, (version, -math.inf))
        if at < len(self._served):  # the predictor was faster than the learner's note
            self.latencies_s.append(self._served[at][1] - sent_at)
        else:
            self._unserved.append((version, sent_at))

    def saw_status(self, status: Status, now: float) -> None:
        """A worker's heartbeat came."""
        if status.state == "running":
            self.running.add(status.role)
        if status.role == "joiner":
            self.pending = int(status.numbers.get("pending", 0))
        version = max(status.versions.values(), default=0)
        if status.role != "predictor" or version <= self.version:
            return
        self._served.append((version, now))
        self.latencies_s += [now - sent for learned, sent in self._unserved if learned <= version]
        self._unserved = deque(each for each in self._unserved if each[0] > version)

    def saw_score(self, score: Score) -> None:
        """The learner's metrics came."""
        self._scored, self.metrics = score.learned, dict(score.metrics)
        names = (self.metric, f"{self.metric}.frozen", f"{self.metric}.baseline")
        if self.metric in self.metrics:
            values = (self.metrics.get(name, math.nan) for name in names)
            self.curve.append(Point(score.learned, *values))

    def saw_dead_letter(self, letter: DeadLetter) -> None:
        """A record could not be used."""
        self.dead_letters += 1
        if letter.feedback_id is not None:
            self._waiting.pop(letter.feedback_id, None)
        elif letter.event_id is not None:
            self._buried.add(letter.event_id)

    def rates(self, now: float) -> tuple[float, float]:
        """Inputs and predictions per second, over the last few."""
        counts = self._counts
        counts.append((now, self.inputs, len(self.predicted)))
        while now - counts[0][0] > RATE_WINDOW_S:
            counts.popleft()
        then, inputs, predictions = counts[0]
        lasted = max(now - then, 0.1)
        return (self.inputs - inputs) / lasted, (len(self.predicted) - predictions) / lasted

    def latency_ms(self, share: float) -> float | None:
        """The time from verdict to improved model that this share of the verdicts stayed below."""
        found = percentile(self.latencies_s, share)
        return None if found is None else found * 1000


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that is not below this share of them.

    >>> percentile([5, 1, 3, 2, 4], 0.5), percentile([], 0.5)
    (3, None)
    """
    if not values:
        return None
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
