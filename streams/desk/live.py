"""Tells those who watch that something has changed; what it is, they read themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterable

PREDICTIONS, REVIEWS, VERDICTS = "predictions", "reviews", "verdicts"
OUTCOMES, QUALITY, TROUBLE, HELD = "outcomes", "quality", "trouble", "held"
KINDS = (PREDICTIONS, REVIEWS, VERDICTS, OUTCOMES, QUALITY, TROUBLE, HELD)


class Pulse:
    """Counts changes, by kind; many threads may beat it and wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._counts = dict.fromkeys(KINDS, 0)
        self._ended = False

    def beat(self, kinds: Iterable[str]) -> None:
        """Something of these kinds has changed."""
        with self._changed:
            for kind in kinds:
                self._counts[kind] += 1
            self._changed.notify_all()

    def counts(self) -> dict[str, int]:
        """How often each kind has changed, to compare with later."""
        with self._changed:
            return dict(self._counts)

    @property
    def ended(self) -> bool:
        """Whether the desk is about to stop."""
        return self._ended

    def end(self) -> None:
        """Lets all who wait go: the desk stops."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def changes_since(self, before: dict[str, int], timeout_s: float) -> dict[str, int]:
        """The kinds that have changed since, with their counts; waits for one, and is empty if there is none in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._counts != before, timeout_s)
            return {kind: n for kind, n in self._counts.items() if n != before[kind]}
