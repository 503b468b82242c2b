"""What the models of a loop say now: a replica beside the desk, as predictors have, which nobody waits for.

It is opened and folds in a thread of its own; until it is there, or while its log cannot be had, there is no answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaException

from streams.core.errors import StreamsError
from streams.core.events import Features
from streams.core.failure import Now
from streams.engine.replica import Replica

AGAIN_S, EVERY_S, STOP_S = 10.0, 0.2, 3.0
FOLD_S = 0.02
"""So long an answer waits for the folding at most."""
log = logging.getLogger("counterpoint.present")


class Present:
    """Answers with the models of now.

    Args:
        make: Makes a replica that is not opened yet.
    """

    def __init__(self, make: Callable[[], Replica]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._replica: Replica | None = None
        self._ending = threading.Event()

    def answer(self, model_key: str, features: Features) -> Now | None:
        """What a model says to these features now; None if it cannot be asked, or raises."""
        with self._lock:
            if self._replica is None:
                return None
            try:
                fold = self._replica.serving(model_key)
                return Now(fold.version, fold.answer(features))
            except Exception:  # noqa: BLE001  the model is the user's code; predictors bury what it raises on
                return None

    @contextmanager
    def following(self) -> Iterator[None]:
        """Meanwhile, the models follow the log."""
        thread = threading.Thread(target=self._run, name="present", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join(STOP_S)

    def _run(self) -> None:
        said = ""
        while not self._ending.is_set():
            try:
                self._follow()
            except (StreamsError, KafkaException) as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("the desk cannot tell what the models say now: %s", said)
                self._ending.wait(AGAIN_S)

    def _follow(self) -> None:
        replica = self._make()
        try:
            replica.open()
            with self._lock:
                self._replica = replica
            while not self._ending.is_set():
                with self._lock:
                    is_behind = replica.fold(FOLD_S)
                self._ending.wait(0.0 if is_behind else EVERY_S)
        finally:
            with self._lock:
                self._replica = None
            replica.close()
