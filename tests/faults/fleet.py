"""The workers of a run: started, armed, ended, and started again by a keeper when they end by themselves."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.e2e.system import Process, System, await_that
from tests.faults.plan import ROLES, WORKERS

CLOCKED = Path(__file__).with_name("clocked.py")
REFUSED = 2
"""The exit code of a worker that refuses to start: never right here, since nothing is configured wrongly."""

SILENT_S, RUNS_WITHIN_S = 60.0, 300.0
"""For so long a worker that starts may say nothing new, and so long it may take in all."""


class Death(NamedTuple):
    """A worker that ended without being told to."""

    worker: str
    code: int
    line: str


def role_of(worker: str) -> str:
    """The role of a worker."""
    return worker.rpartition("-")[0]


class Fleet:
    """See the module.  A fault holds its worker: then the keeper leaves it alone."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.deaths: list[Death] = []
        self._held: set[str] = set()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper")
        self.workers = [f"{role}-{n + 1}" for role in ROLES for n in range(WORKERS[role])]

    def __enter__(self) -> Self:
        for worker in self.workers:
            self.start(worker)
        self.system.await_running(*self.workers, within_s=90)
        self._keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._keeper.join()

    def start(self, worker: str, armed: str = "", clock_s: float = 0.0) -> None:
        """Starts a worker, with a failpoint or a clock that is off."""
        system = self.system
        with self._lock:
            if clock_s:
                argv = ["run", role_of(worker), system.reference, "--worker", worker]
                system.run(worker, [sys.executable, str(CLOCKED), str(clock_s), *argv])
            else:
                system.start(role_of(worker), worker, COUNTERPOINT_FAILPOINTS=armed)

    def process(self, worker: str) -> Process:
        """The process of a worker."""
        return self.system.processes[worker]

    def log(self, worker: str) -> str:
        """What it has printed since its last start."""
        return self.system.log(worker)

    def end(self, worker: str, number: signal.Signals, within_s: float = 15.0) -> int:
        """Ends a worker, and gives its exit code."""
        process = self.process(worker)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        return process.wait(within_s)

    def await_end(self, worker: str, within_s: float) -> int:
        """Waits until a worker ends by itself, and gives its exit code."""
        try:
            return self.process(worker).wait(within_s)
        except subprocess.TimeoutExpired:
            message = f"{worker} runs on after {within_s} s:\n{self.log(worker)}"
            raise AssertionError(message) from None

    def await_running(self, worker: str) -> None:
        """Waits until it has its partitions; it may end and be started again meanwhile.

        One that reads a long log into its state tells of each step, and is waited for as long as it does.
        """
        told, began = "", time.monotonic()
        since = began
        while not self.is_running(worker):
            now = time.monotonic()
            if (tells := self.log(worker)) != told:
                told, since = tells, now
            if now > min(since + SILENT_S, began + RUNS_WITHIN_S):
                message = f"{worker} does not run: {told[-2000:]}"
                raise AssertionError(message)
            time.sleep(0.05)

    def is_running(self, worker: str) -> bool:
        """Whether a worker has its partitions."""
        return self.process(worker).poll() is None and "worker assigned" in self.log(worker)

    def await_log(self, worker: str, text: str, within_s: float) -> None:
        """Waits until a worker has said something."""
        try:
            await_that(lambda: text in self.log(worker), within_s)
        except AssertionError as error:
            told = f"{worker} does not say {text!r}: {self.log(worker)[-2000:]}"
            raise AssertionError(told) from error

    @contextmanager
    def held(self, *workers: str) -> Iterator[None]:
        """Keeps the keeper away."""
        with self._lock:
            self._held.update(workers)
        try:
            yield
        finally:
            with self._lock:
                self._held.difference_update(workers)

    def _keep(self) -> None:
        while not self._stop.wait(0.1):
            with self._lock:
                for worker in self.workers:
                    code = self.process(worker).poll()
                    if code is None or worker in self._held:
                        continue
                    self.deaths.append(Death(worker, code, last_line(self.log(worker))))
                    self.start(worker)
                    time.sleep(0.2)  # not a storm of starts


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
