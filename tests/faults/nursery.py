"""Forks workers off a process that has imported everything: a start then costs 0.1 s of a core, and not 2.

What runs is the program as it is.  When the one who asks for workers goes away, the workers do.
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

IMPORTS = (
    "river.linear_model",
    "river.preprocessing",
    "streams.bootstrap",
    "streams.cli",
    "streams.engine.admin",
    "streams.operate",
    "streams.show",
)


class Child:
    """A worker, to be used as a ``Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.ended = threading.Event()

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended; its exit code."""
        if not self.ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(["worker"], timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The forking process, as seen by the one who asks for workers."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._children: dict[int, Child] = {}
        self._born: list[Child] = []
        self._lock, self._birth = threading.Lock(), threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, name="nursery", daemon=True)

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start(self, argv: Sequence[str], environ: Mapping[str, str], log: Path) -> Child:
        """Starts ``counterpoint`` with these arguments."""
        assert self._process.stdin is not None
        with self._lock:  # one birth at a time, so that whose it is needs no telling
            told = {"argv": list(argv), "environ": dict(environ), "log": str(log)}
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
            with self._birth:
                if not self._birth.wait_for(lambda: self._born, 30):
                    message = "the nursery gives no worker"
                    raise AssertionError(message)
                return self._born.pop()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *numbers = line.split()
            if word == "born":
                child = Child(int(numbers[0]))
                self._children[child.pid] = child
                with self._birth:
                    self._born.append(child)
                    self._birth.notify_all()
            else:
                child = self._children.pop(int(numbers[0]))
                child.returncode = int(numbers[1])
                child.ended.set()


# The forking process itself ------------------------------------------------------------------------------------------


def main() -> None:
    """Forks a worker for each line of stdin, and tells of births and deaths on stdout."""
    for name in IMPORTS:
        __import__(name)
    gc.collect()
    gc.freeze()
    alive: set[int] = set()
    pending, is_open = b"", True
    while is_open:
        if select.select([0], [], [], 0.02)[0]:
            read = os.read(0, 1 << 16)
            is_open = bool(read)
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    _become(json.loads(line))
                alive.add(pid)
                _say(f"born {pid}")
        _reap(alive)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    while alive:
        _reap(alive)
        time.sleep(0.01)


def _reap(alive: set[int]) -> None:
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        alive.discard(pid)
        _say(f"died {pid} {os.waitstatus_to_exitcode(status)}")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _become(told: dict[str, object]) -> None:
    """Is the worker from here on; does not return."""
    log = os.open(str(told["log"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for where, what in ((0, nothing), (1, log), (2, log)):
        os.dup2(what, where)
    environ, argv = told["environ"], told["argv"]
    assert isinstance(environ, dict)
    assert isinstance(argv, list)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["counterpoint", *argv]
    random.seed()
    code: object = 1
    try:
        from streams.cli import main as counterpoint

        counterpoint()
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001  as the interpreter would
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
