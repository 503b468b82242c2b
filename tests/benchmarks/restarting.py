"""How soon a joiner is back: after a clean stop, and after losing its disk, with many predictions waiting."""

from __future__ import annotations

import shutil
import time

from streams import operate
from streams.loop import Loop
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
    taken_over = _taken_over(lab, joiner, loop)
    lab.say(f"all joined {taken_over:.1f} s after the other joiner began to end")
    return [
        Figure("joiner_restart_s", again),
        Figure("joiner_without_disk_s", lost),
        Figure("joiner_takeover_s", taken_over),
    ]


def _taken_over(lab: Lab, joiner: Joiner, loop: Loop) -> float:
    """Seconds from the end of the owner of half of the partitions until all verdicts on them are joined by who stood by."""
    argv = ["-m", "streams.cli", "run", "joiner", "tests.benchmarks.loops:linear", "--standby"]
    other = lab.child(f"{loop.name}-standby", loop.name, *argv)
    lab.await_running(other)
    settings = lab.settings(loop.name)

    def copied() -> bool:
        found = [each.status.numbers for each in operate.status(loop, settings).workers]
        return any(each.get("copies") and not each.get("copies_behind") for each in found)

    lab.await_that(copied, [other], "it has copied the other's partitions", 1.0)
    before = lab.ends(joiner.examples)
    verdicts = 40  # so that each partition has some
    with other.stopped():
        began = time.monotonic()
        joiner.end()
        lab.feed(joiner.feedback, material.feedback(joiner.answered, verdicts))
    lab.await_written(joiner.examples, before, verdicts, [other])
    return time.monotonic() - began


def _first_join(lab: Lab, joiner: Joiner) -> float:
    """Seconds from the start of the process to the example of a verdict that was there before it."""
    before = lab.ends(joiner.examples)
    lab.feed(joiner.feedback, material.feedback(joiner.answered, 1))
    joiner.answered += 1
    began = time.monotonic()
    child = joiner.start()
    lab.await_written(joiner.examples, before, 1, [child])
    return time.monotonic() - began
