"""Keeps a few child processes running, and ends them together: all roles of a loop in one terminal.

It knows nothing of Kafka or of loops: it is given names and command lines.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from types import FrameType, TracebackType
from typing import NamedTuple

import click

from streams.leash import leashed

USAGE = 2  # the exit code of a process that is configured wrongly: starting it again would not help
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_S = 30.0  # who ran this long is started again as if for the first time
KILL_AFTER_S = 10.0
COLOURS = ("cyan", "magenta", "green", "yellow", "blue")


class Ended(NamedTuple):
    """A child that ended and is not started again."""

    name: str
    code: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        last = "".join(f"\n  {line}" for line in self.lines)
        return f"{self.name} ended with {in_words(self.code)}{': its last lines' if last else ''}{last}"


def in_words(code: int) -> str:
    """An exit code as people know it."""
    return f"code {code}" if code >= 0 else signal.Signals(-code).name


def print_lines(names: Sequence[str]) -> Callable[[str, str], None]:
    """Prints lines to stderr, each after the name it comes from, in that name's colour."""
    width = max(map(len, names), default=0)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}

    def say(name: str, line: str) -> None:
        click.echo(f"{click.style(name.ljust(width), fg=colours[name])} | {line}", err=True)

    return say


def once_all(
    names: Sequence[str], act: Callable[[], None], say: Callable[[str, str], None]
) -> Callable[[str, str], None]:
    """Says lines as ``say`` does, and acts once, before the line by which each of these names has said something."""
    silent, lock = set(names), threading.Lock()

    def told(name: str, line: str) -> None:
        with lock:
            if silent == {name}:
                act()
            silent.discard(name)
        say(name, line)

    return told


def workers(loop: str, roles: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The command lines of one worker of each of these roles."""
    start = [sys.executable, "-m", "streams.cli", "run"]
    return [(role, [*start, role, loop, "--worker", f"{role}-1"]) for role in roles]


@contextmanager
def signals_set(event: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set the event, and do nothing else."""

    def end(number: int, frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Supervisor:
    """Starts commands, passes their lines on, starts again what crashes, and ends all that it started.

    Used as a context manager: on leaving, every child is gone.  When this process dies, they die with it.

    Args:
        commands: (name, command line) of each child.
        env: Their environment.
        say: Is given (name, line) for each line that a child prints; called from several threads.
        pauses: Seconds before each further start of a child that crashed, the last one for ever; none: a child
            that ends is not started again.
        kill_after_s: How long a child may take to end when asked to.
    """

    def __init__(
        self,
        commands: Sequence[tuple[str, Sequence[str]]],
        env: Mapping[str, str],
        *,
        say: Callable[[str, str], None] | None = None,
        pauses: Sequence[float] = PAUSES_S,
        kill_after_s: float = KILL_AFTER_S,
    ) -> None:
        self._commands, self._env = commands, {**env, "PYTHONHASHSEED": "0"}
        self._say = say or print_lines([name for name, _ in commands])
        self._pauses, self._kill_after_s = pauses, kill_after_s
        self._ending, self._wake = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._keepers: list[threading.Thread] = []
        self._failure: Ended | None = None

    @property
    def failure(self) -> Ended | None:
        """The child that ended and will not be started again, if one did."""
        return self._failure

    def __enter__(self) -> Supervisor:
        for name, argv in self._commands:
            keeper = threading.Thread(target=self._keep, args=(name, argv), name=f"keep {name}")
            self._keepers.append(keeper)
            keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends all children: asks them, and kills those who are still there after a while."""
        with self._lock:
            self._ending.set()
            for process in self._running.values():
                process.terminate()
        deadline = monotonic() + self._kill_after_s
        for keeper in self._keepers:
            keeper.join(max(deadline - monotonic(), 0))
        with self._lock:
            for name, process in self._running.items():
                self._say(name, f"did not end within {self._kill_after_s:g} s: killed")
                process.kill()
        for keeper in self._keepers:
            keeper.join()

    def run(self) -> int:
        """Runs until SIGINT or SIGTERM, or until a child says that it is configured wrongly.

        Returns:
            The exit code for this process: 0 after a signal, else the child's.
        """
        with signals_set(self._wake), self:
            self._wake.wait()
        if self._failure is None:
            return 0
        click.echo(f"stopped: {self._failure.name} cannot run (see its lines above)", err=True)
        return self._failure.code if self._failure.code > 0 else 1

    def _keep(self, name: str, argv: Sequence[str]) -> None:
        tries = 0
        while (process := self._spawn(name, argv)) is not None:
            began = monotonic()
            lines: deque[str] = deque(maxlen=20)
            reader = threading.Thread(target=self._read, args=(name, process, lines), daemon=True)
            reader.start()
            code = process.wait()
            reader.join(1.0)  # a grandchild may hold the pipe open
            with self._lock:
                del self._running[name]
            if self._ending.is_set():
                return
            if code == USAGE or not self._pauses:
                self._failure = self._failure or Ended(name, code, tuple(lines))
                self._wake.set()
                return
            tries = 0 if monotonic() - began > STEADY_S else tries
            pause = self._pauses[min(tries, len(self._pauses) - 1)]
            tries += 1
            self._say(name, f"ended with {in_words(code)}; starting it again in {pause:g} s")
            self._ending.wait(pause)

    def _spawn(self, name: str, argv: Sequence[str]) -> subprocess.Popen[str] | None:
        with self._lock:  # or a stop might miss the child being born
            if self._ending.is_set():
                return None
            self._running[name] = process = subprocess.Popen(
                leashed(argv),
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches us alone: we end the children in order
            )
            return process

    def _read(self, name: str, process: subprocess.Popen[str], lines: deque[str]) -> None:
        assert process.stdout is not None  # noqa: S101  it was asked for
        with process.stdout as stdout:
            for line in stdout:
                lines.append(line.rstrip())
                self._say(name, line.rstrip())
