"""Forks `counterpoint` off a process that has imported everything: a start then costs 0.1 s of a core, and not 2.

What runs is the program as it is, in a process of its own, from its arguments to its exit code.  When the one who asks
for processes goes away, they do.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTHING = Path(os.devnull)
RIVER = ("anomaly", "drift", "forest", "linear_model", "multiclass", "naive_bayes", "neighbors")
ONLY_WHEN_BORN = ("GLIBC_TUNABLES",)
"""What a process reads before its first line of Python: with it, no fork will do."""


class Child:
    """A process, to be used as a ``Popen``."""

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
            raise subprocess.TimeoutExpired(["counterpoint"], timeout or 0)
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
    """The forking process, as seen by the one who asks for processes."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._born: list[Child] = []
        self._lock, self._birth = threading.Lock(), threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery"],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._listener.start()

    def close(self) -> None:
        """Ends it, and with it the processes that are left."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._listener.join()
        self._process.stdout.close()

    def start(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        out: Path,
        err: Path,
        stdin: Path = NOTHING,
    ) -> Child | subprocess.Popen[bytes]:
        """Starts ``counterpoint`` with these arguments in a folder; what it prints is appended to the files."""
        if not environ.keys().isdisjoint(ONLY_WHEN_BORN):
            program = [sys.executable, "-m", "streams.cli", *argv]
            with stdin.open("rb") as given, out.open("ab") as said, err.open("ab") as told_of:
                return subprocess.Popen(
                    program, env=environ, cwd=folder, stdin=given, stdout=said, stderr=told_of
                )
        assert self._process.stdin is not None
        files = [str(stdin), str(out), str(err)]
        told = {
            "argv": list(argv),
            "environ": dict(environ),
            "folder": str(folder),
            "files": files,
        }
        with self._lock:  # one birth at a time, so that whose it is needs no telling
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
            with self._birth:
                if not self._birth.wait_for(lambda: self._born, 60):
                    message = "the nursery gives no process"
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


@cache
def nursery() -> Nursery:
    """The one of this process; it ends with it."""
    made = Nursery()
    atexit.register(made.close)
    return made


# The forking process itself ------------------------------------------------------------------------------------------


def main() -> None:
    """Forks a process for each line of stdin, and tells of births and deaths on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for those who ask: they close stdin
    _import()
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
                    _become(**json.loads(line))
                    return
                alive.add(pid)
                _say(f"born {pid}")
        _reap(alive)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    while alive:
        _reap(alive)
        time.sleep(0.01)


def _import() -> None:
    import streams

    for module in pkgutil.walk_packages(streams.__path__, "streams."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in RIVER:
        importlib.import_module(f"river.{name}")


def _reap(alive: set[int]) -> None:
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        alive.discard(pid)
        _say(f"died {pid} {os.waitstatus_to_exitcode(status)}")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _become(argv: list[str], environ: dict[str, str], folder: str, files: list[str]) -> None:
    """Is the program from here on, as an interpreter that begins with ``-m streams.cli`` in that folder."""
    written = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for number, path in enumerate(files):
        os.dup2(os.open(path, written if number else os.O_RDONLY, 0o644), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.path[:1] = [folder, *environ.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = ["counterpoint", *argv]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    from streams.cli import main as counterpoint

    counterpoint()


if __name__ == "__main__":
    main()
