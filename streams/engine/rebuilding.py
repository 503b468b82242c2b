"""A model that is made again while its learner goes on: in a thread; what comes for it meanwhile waits, in order."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from confluent_kafka import KafkaException

from streams.core.errors import Unavailable
from streams.core.exclusions import Places
from streams.core.fold import Fold
from streams.engine.guard import Raw
from streams.engine.rebuild import Rebuilder, Rebuilt, Stopped, Target
from streams.failpoints import failpoint

log = logging.getLogger("counterpoint.learner")

AGAIN_S = 1.0
STOP_S = 1.0
"""How long a stop waits for the thread, which looks up at every lesson."""


class Rebuilding:
    """See the module.

    It aims at the newest control record in the log: where many follow each other, one rebuild does for all.  So the
    model may come out newer than what its learner has read, and the outcomes in between are still to be told: ``before``,
    the model as it was, knows which sources are new there.

    Args:
        maker: Makes versions of the model key.
        target: The version to make at least.
        before: The model that it replaces.
        first: Offset of the control record that asks for it.
        wake: Called from the thread when the model is there.
    """

    def __init__(
        self,
        maker: Callable[[Callable[[], bool]], Rebuilder],
        target: Target,
        before: Fold,
        first: int,
        wake: Callable[[], None],
    ) -> None:
        self.before, self.first, self._wake = before, first, wake
        self.parked: deque[Raw] = deque()
        self.told = first + 1
        self.done: Rebuilt | None = None
        self.failure: Exception | None = None
        self._target, self._fixed = target, before.head.fixed
        self._stop = threading.Event()
        self._maker = maker(self._stop.is_set)
        self._thread = threading.Thread(target=self._run, name="rebuild", daemon=True)

    @property
    def is_waiting(self) -> bool:
        """Whether it is still to be started."""
        return self._thread.ident is None

    @property
    def is_running(self) -> bool:
        """Whether it is under way."""
        return not (self.is_waiting or self.done is not None or self.failure is not None)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.done = self._rebuilt(self._target, self._fixed)
            except Stopped:
                return
            except (KafkaException, Unavailable) as error:
                log.warning("cannot rebuild a model: %s; trying again", error)
                self._stop.wait(AGAIN_S)
                continue
            except Exception as error:  # noqa: BLE001  nobody waits for this thread: the learner's tick raises it
                self.failure = error
            self._wake()
            return

    def _rebuilt(self, target: Target, fixed: Places) -> Rebuilt:
        failpoint("rebuild.begun")
        rebuilt = self._maker.rebuild(self._maker.ahead(target, fixed))
        failpoint("rebuild.done")
        return rebuilt

    def park(self, record: Raw) -> None:
        """Keeps a record for when the model is there."""
        if record.offset >= self.told and (
            not self.parked or record.offset > self.parked[-1].offset
        ):
            self.parked.append(record)

    def stop(self) -> None:
        """Ends it, whatever it has come to."""
        self._stop.set()

    def join(self) -> None:
        """Waits for its end."""
        if not self.is_waiting:
            self._thread.join(STOP_S)
