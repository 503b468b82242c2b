"""How soon a joiner is back: after a clean stop, and after losing its disk, with many predictions waiting."""

from __future__ import annotations

import shutil
import time

from tests.benchmarks import loops, material
from tests.benchmarks.joining import Joiner
from tests.benchmarks.lab import Lab
from tests.benchmarks.report import Figure

WAITING = 2_000_000


def measure(lab: Lab) -> list[Figure]:
    """One joiner, restarted twice with the same many predictions waiting."""
    loop = loops.named(loops.linear, lab.name("restart"))
    lab.prepare(loop)
    joiner = Joiner(lab, loop)
    joiner.feed(lab.count(WAITING))
    joiner.await_read()
    joiner.end()
    again = _first_join(lab, joiner)
    joiner.end()
    shutil.rmtree(joiner.folder)
    lost = _first_join(lab, joiner)
    lab.say(f"first join {again:.1f} s after a clean stop, {lost:.1f} s without a disk")
    return [Figure("joiner_restart_s", again), Figure("joiner_without_disk_s", lost)]


def _first_join(lab: Lab, joiner: Joiner) -> float:
    """Seconds from the start of the process to the example of a verdict that was there before it."""
    before = lab.ends(joiner.examples)
    lab.feed(joiner.feedback, material.feedback(joiner.answered, 1))
    joiner.answered += 1
    began = time.monotonic()
    child = joiner.start()
    lab.await_written(joiner.examples, before, 1, [child])
    return time.monotonic() - began
