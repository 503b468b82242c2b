"""Tells those who watch that something has changed; what it is, they read themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

PREDICTIONS, REVIEWS, VERDICTS = "predictions", "reviews", "verdicts"
OUTCOMES, QUALITY, TROUBLE, HELD = "outcomes", "quality", "trouble", "held"
KINDS = (PREDICTIONS, REVIEWS, VERDICTS, OUTCOMES, QUALITY, TROUBLE, HELD)


class Pulse:
    """Counts changes, by kind; many threads may beat it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._counts = dict.fromkeys(KINDS, 0)
        self._ended = False

    def beat(self, kinds: Iterable[str]) -> None:
        """Something of these kinds has changed."""
        with self._lock:
            for kind in kinds:
                self._counts[kind] += 1
            for woken in self._listeners:
                woken()

    def counts(self) -> dict[str, int]:
        """How often each kind has changed, to compare with later."""
        with self._lock:
            return dict(self._counts)

    @property
    def ended(self) -> bool:
        """Whether the desk is about to stop."""
        return self._ended

    def end(self) -> None:
        """Lets all who wait go: the desk stops."""
        with self._lock:
            self._ended = True
            for woken in self._listeners:
                woken()

    @contextmanager
    def listening(self, woken: Callable[[], None]) -> Iterator[None]:
        """Calls a function, which must not wait, at each change: how an event loop watches without a thread."""
        with self._lock:
            self._listeners.append(woken)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(woken)
