"""A worker's heartbeat on the compacted ``status`` topic: what it serves, how far it has read, how it is."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic, time
from typing import NamedTuple

from faust.types import TP

from streams.core.errors import Unavailable
from streams.core.events import Position, Status
from streams.engine.codec import Codec
from streams.engine.producer import Outputs

# A verdict shows in `status` this soon after it is served, and not more often than this.
SERVED_INTERVAL_S = 0.02
FOR_LONG_S = 0.5
STORED_AT = "stored_at:"
TIMES = ("oldest_waiting_at",)
"""Numbers that are times, in milliseconds since the epoch."""


SHARES = ("unanswered_share",)


class Progress(NamedTuple):
    """How far a worker is in a partition.

    Attributes:
        position: The next offset to process.
        end: Where the partition ended when last looked.
        committed: The offset that its group has committed; 0 before the first commit.
    """

    position: int
    end: int
    committed: int


class Heart:
    """Writes the status records of one worker.  ``beat`` and ``served`` may be called from two threads."""

    def __init__(
        self,
        *,
        loop: str,
        role: str,
        worker: str,
        topic: str,
        topic_ids: Mapping[str, str],
        codec: Codec,
        outputs: Outputs,
    ) -> None:
        self._topic, self._encode, self._outputs = topic, codec.encoder(Status, topic), outputs
        self._ids = topic_ids
        self._key = f"{role}/{worker}".encode()
        now = int(time() * 1000)
        self._last = Status(
            loop=loop,
            role=role,
            worker=worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            state="starting",
            versions={},
            positions=[],
            numbers={},
            notes=[],
            started_at=now,
            at=now,
        )
        self._lock = threading.Lock()
        self._told = 0.0
        self._counted: tuple[float, Mapping[str, float]] = (monotonic(), {})

    def beat(
        self,
        state: str,
        progress: Mapping[TP, Progress],
        *,
        versions: Mapping[str, int] | None = None,
        numbers: Mapping[str, float] | None = None,
        notes: Sequence[str] = (),
        stored: Mapping[str, int] | None = None,
    ) -> None:
        """Writes a heartbeat; every number also gets its change per second as ``<name>_per_s``.

        Args:
            stored: By model key, when its newest snapshot was stored; told as numbers ``stored_at:<key>``.
        """
        now, numbers = monotonic(), dict(numbers or {})
        before, counted = self._counted
        self._counted = (now, dict(numbers))
        for name, number in list(numbers.items()):
            if name in counted:
                numbers[f"{name}_per_s"] = (number - counted[name]) / max(now - before, 1e-3)
        for name in (*TIMES, *SHARES):
            numbers.pop(f"{name}_per_s", None)
        numbers |= {f"{STORED_AT}{key}": at for key, at in (stored or {}).items()}
        with self._lock:
            self._write(
                self._last._replace(
                    state=state,
                    versions=dict(versions or {}),
                    positions=self._positions(progress),
                    numbers={name: float(number) for name, number in numbers.items()},
                    notes=list(notes),
                )
            )

    def served(self, versions: Mapping[str, int]) -> float:
        """Tells new versions between two heartbeats; gives the seconds after which it wants to be asked again."""
        if versions == self._last.versions or self._last.state != "running":
            return FOR_LONG_S
        now = monotonic()
        left = self._told + SERVED_INTERVAL_S - now
        if left > 0:
            return left
        self._told = now
        with self._lock:
            self._write(self._last._replace(versions=dict(versions)))
        return FOR_LONG_S

    def broker_time(self, timeout_s: float) -> int:
        """The broker's clock in milliseconds, read off a heartbeat.

        Raises:
            Unavailable: The broker does not answer.
        """
        value = self._encode(self._last._replace(at=int(time() * 1000)))
        message = self._outputs.deliver(self._topic, value, self._key, timeout_s=timeout_s)
        return int(message.timestamp()[1])

    def _positions(self, progress: Mapping[TP, Progress]) -> list[Position]:
        return [
            Position(tp.topic, tp.partition, *of, self._ids.get(tp.topic, ""))
            for tp, of in sorted(progress.items())
        ]

    def stop(self, progress: Mapping[TP, Progress]) -> None:
        """Says goodbye: nobody is to wait for this worker.  A broker that is away does not hear it."""
        with self._lock:
            self._write(self._last._replace(state="stopped", positions=self._positions(progress)))
        with suppress(Unavailable):
            self._outputs.flush(2.0)

    def _write(self, status: Status) -> None:
        self._last = status._replace(at=int(time() * 1000))
        self._outputs.send(self._topic, self._encode(self._last), self._key)
        self._outputs.poll()
