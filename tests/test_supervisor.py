from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.supervisor import Ended, Supervisor, in_words

COUNTS_ITS_STARTS = """
import pathlib, sys
starts = pathlib.Path(sys.argv[1])
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
"""
RUNS = "import time; print('runs', flush=True); time.sleep(60)"
IS_STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('runs', flush=True)
time.sleep(60)
"""
SUPERVISES = """
import os, sys
from streams.supervisor import Supervisor
child = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
sys.exit(Supervisor([("child", child)], os.environ, say=lambda _, line: print(line, flush=True)).run())
"""


def python(program: str, *args: str) -> list[str]:
    return [sys.executable, "-c", program, *args]


class Said:
    """Collects what the children say."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))


def await_that(claim: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_the_lines_of_a_child_are_passed_on_under_its_name() -> None:
    said = Said()
    with Supervisor([("a", python(RUNS)), ("b", python(RUNS))], os.environ, say=said):
        await_that(lambda: {("a", "runs"), ("b", "runs")} <= set(said.lines))


def test_the_children_hash_alike() -> None:
    said = Said()
    program = "import os, time; print(os.environ['PYTHONHASHSEED'], flush=True); time.sleep(60)"
    with Supervisor([("a", python(program))], os.environ, say=said):
        await_that(lambda: ("a", "0") in said.lines)


def test_a_child_that_crashes_is_started_again_and_it_is_said_why(tmp_path: Path) -> None:
    said, starts = Said(), tmp_path / "starts"
    command = ("a", python(COUNTS_ITS_STARTS + "sys.exit(7)", str(starts)))
    with Supervisor([command], os.environ, say=said, pauses=(0.01, 0.02)):
        await_that(lambda: starts.exists() and len(starts.read_text()) >= 3)
    assert said.lines[:2] == [
        ("a", "ended with code 7; starting it again in 0.01 s"),
        ("a", "ended with code 7; starting it again in 0.02 s"),
    ]


def test_a_wrong_configuration_ends_everybody_and_is_not_tried_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    wrong = ("wrong", python(COUNTS_ITS_STARTS + "print('no'); sys.exit(2)", str(starts)))
    supervisor = Supervisor([wrong, ("a", python(RUNS))], os.environ, say=Said(), pauses=(0.01,))
    assert supervisor.run() == 2
    assert starts.read_text() == "x"
    assert supervisor.failure == Ended("wrong", 2, ("no",))


def test_without_pauses_a_crash_is_a_failure_that_shows_the_last_lines() -> None:
    crash = python("print('first'); raise SystemExit('last')")
    with Supervisor([("a", crash)], os.environ, say=Said(), pauses=()) as supervisor:
        await_that(lambda: supervisor.failure)
    assert str(supervisor.failure).endswith("code 1: its last lines\n  first\n  last")


def test_a_stop_is_quick_when_the_children_listen() -> None:
    said = Said()
    with Supervisor([("a", python(RUNS))], os.environ, say=said):
        await_that(lambda: said.lines)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert said.lines == [("a", "runs")]


def test_a_child_that_does_not_listen_is_killed() -> None:
    said = Said()
    with Supervisor([("a", python(IS_STUBBORN))], os.environ, say=said, kill_after_s=0.2):
        await_that(lambda: said.lines)
    assert said.lines[-1] == ("a", "did not end within 0.2 s: killed")


def test_a_stop_does_not_wait_for_the_pause_before_a_restart() -> None:
    said = Said()
    with Supervisor([("a", python("raise SystemExit(1)"))], os.environ, say=said, pauses=(60,)):
        await_that(lambda: said.lines)
        began = time.monotonic()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_its_children(number: signal.Signals) -> None:
    parent = subprocess.Popen(python(SUPERVISES), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(number)
    assert parent.wait(5) == 0
    assert not is_alive(child)
    parent.stdout.close()


def test_when_the_parent_is_killed_the_children_die_with_it() -> None:
    parent = subprocess.Popen(python(SUPERVISES), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait(5)
    await_that(lambda: not is_alive(child))
    parent.stdout.close()


def test_a_grandchild_that_holds_the_pipe_does_not_delay_the_restart(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    leaves_one = COUNTS_ITS_STARTS + (
        "import subprocess\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(5)'])\n"
    )
    began = time.monotonic()
    with Supervisor(
        [("a", python(leaves_one, str(starts)))], os.environ, say=Said(), pauses=(0.01,)
    ):
        await_that(lambda: starts.exists() and len(starts.read_text()) >= 2)
    assert time.monotonic() - began < 5


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    with Supervisor([("a", python(RUNS))], os.environ, say=Said()):
        pass
    await_that(lambda: threading.active_count() == before)


def test_exit_codes_are_said_as_people_know_them() -> None:
    assert in_words(3) == "code 3"
    assert in_words(-9) == "SIGKILL"
