"""People who are not there: they know the truth, take their time, and sometimes press a button twice.

What they do depends on the event id alone, so that every run is alike.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple
from uuid import uuid4

from streams.core.events import ACCEPT, CORRECT, Feedback, Label, Review

FASTEST_S, SLOWEST_S = 0.2, 2.0
TWICE, TWICE_AFTER_S = 0.04, 0.3
"""The share of verdicts that is sent a second time, and how much later."""
NAMES = ("ann", "ben", "cho")


class Answer(NamedTuple):
    """A verdict, and when it is to be given."""

    due: float
    feedback: Feedback


def draw(event_id: str, salt: str) -> float:
    """A number from 0 up to 1 that is this event's own.

    >>> draw("a", "delay") == draw("a", "delay") != draw("a", "twice")
    True
    """
    digest = blake2b(event_id.encode(), digest_size=8, salt=salt.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def verdict(review: Review, truth: Label) -> Feedback:
    """What a person says who knows the truth."""
    is_right = review.label is not None and review.label == truth
    return Feedback(
        feedback_id=str(uuid4()),
        event_id=review.event_id,
        verdict=ACCEPT if is_right else CORRECT,
        label=review.label if is_right else truth,
        reviewer=NAMES[int(draw(review.event_id, "name") * len(NAMES))],
        channel="demo",
    )


class Reviewers:
    """Answers reviews in time; each event once, however often it is asked about.

    Args:
        truths: Event id to the right label.
    """

    def __init__(self, truths: Mapping[str, Label]) -> None:
        self._truths = truths
        self._asked: set[str] = set()
        self._due: list[Answer] = []

    def ask(self, review: Review, now: float) -> None:
        """Puts a review on the pile."""
        if review.event_id in self._asked or review.event_id not in self._truths:
            return
        self._asked.add(review.event_id)
        answer = verdict(review, self._truths[review.event_id])
        due = now + FASTEST_S + (SLOWEST_S - FASTEST_S) * draw(review.event_id, "delay")
        heapq.heappush(self._due, Answer(due, answer))
        if draw(review.event_id, "twice") < TWICE:
            heapq.heappush(self._due, Answer(due + TWICE_AFTER_S, answer))

    def answers(self, now: float) -> list[Feedback]:
        """The verdicts that are due."""
        due = []
        while self._due and self._due[0].due <= now:
            due.append(heapq.heappop(self._due).feedback)
        return due
