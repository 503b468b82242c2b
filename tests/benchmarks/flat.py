"""Whether anything grows: all roles under a steady flow, with a window that passes many times.

    python -m tests.benchmarks.flat --minutes 20 --window 2 --rate 500

It prints, every 10 seconds, the memory of each role and the size of the joiner's disk; at the end the slope of each over
the second half, when windows have begun to pass, and the bytes of bitmap that remember a million feedbacks.  It is no
part of the benchmarks: it takes what time it is given.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from pyroaring import BitMap64

from streams import bootstrap
from streams.broker import Broker
from streams.core.topics import FEEDBACK, INPUTS, topics
from streams.loop import Loop
from tests.benchmarks import loops, material
from tests.benchmarks.lab import Child, Lab

ROLES = ("predictor", "joiner", "learner")
EVERY_S = 10.0
VERDICTS = 10
"""One event in so many gets a verdict."""
MB = 1 << 20


class Sample(NamedTuple):
    """What was held at a time."""

    at_s: float
    sizes_mb: dict[str, float]


def main(argv: Sequence[str]) -> None:
    """Runs the flow, and prints what it did to the sizes."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.flat", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--window", type=float, default=2.0, help="minutes")
    parser.add_argument("--rate", type=int, default=500, help="events per second")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="counterpoint-flat-") as folder, running(folder) as lab:
        os.environ["BENCH_WINDOW_MIN"] = str(given.window)  # for the processes
        window = timedelta(minutes=given.window)
        loop = loops.named(replace(loops.flat, window=window), lab.name("flat"))
        samples = list(measured(lab, loop, given))
        print_slopes(samples)
        print_bitmap(lab, loop)


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def running(folder: str) -> Iterator[Lab]:
    """A lab on a Kafka of its own."""
    place = Path(folder) / "lab"
    place.mkdir()
    with Broker(Path(folder) / "kafka") as broker, Lab(broker.bootstrap, place, say) as lab:
        yield lab


def measured(lab: Lab, loop: Loop, given: argparse.Namespace) -> Iterator[Sample]:
    """Keeps the flow going, and tells the sizes now and then."""
    lab.prepare(loop)
    children = {role: lab.role(role, loop, "flat") for role in ROLES}
    lab.await_running(*children.values())
    began = told = time.monotonic()
    fed = 0
    while (now := time.monotonic()) < began + given.minutes * 60:
        due = int((now - began) * given.rate) - fed
        feed(lab, loop, fed, due)
        fed += due
        if now - told >= EVERY_S:
            told = now
            sample = taken(lab, loop, children, now - began)
            say(words(sample, fed))
            yield sample
        time.sleep(0.2)  # the flow's pace, not a wait for something


def feed(lab: Lab, loop: Loop, start: int, many: int) -> None:
    """The next events, and verdicts on earlier ones that their predictions were there for."""
    specs = topics(loop)
    lab.feed(specs[INPUTS].name, material.inputs(start, many))
    answered = [n for n in range(start, start + many) if n % VERDICTS == 0 and n >= 5_000]
    rows = (row for n in answered for row in material.feedback(n - 5_000, 1))
    lab.feed(specs[FEEDBACK].name, rows)


def taken(lab: Lab, loop: Loop, children: dict[str, Child], at_s: float) -> Sample:
    """The sizes now."""
    sizes = {}
    for role, child in children.items():
        child.check()
        sizes[role] = child.rss_mb()
    disk = lab.folder / "state" / loop.name / "joiner"
    sizes["joiner's disk"] = sum(size_of(file) for file in disk.rglob("*")) / MB
    return Sample(at_s, sizes)


def size_of(file: Path) -> int:
    """Bytes of a file; compaction may just have removed it."""
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:
        return 0


def words(sample: Sample, fed: int) -> str:
    """A sample on one line."""
    sizes = "  ".join(f"{name} {size:6.1f} MB" for name, size in sample.sizes_mb.items())
    return f"{sample.at_s:6.0f} s  {fed:>9,} events  {sizes}"


def print_slopes(samples: Sequence[Sample]) -> None:
    """By how much each size grew per hour, over the second half, by least squares."""
    half = samples[len(samples) // 2 :]
    for name in half[0].sizes_mb:
        slope = slope_of([(s.at_s, s.sizes_mb[name]) for s in half]) * 3_600
        say(f"slope of {name}: {slope:+.1f} MB/h, now {half[-1].sizes_mb[name]:.1f} MB")


def slope_of(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line nearest to the points; 0 for one point."""
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0


def print_bitmap(lab: Lab, loop: Loop) -> None:
    """What the newest models need to remember which feedbacks they have seen."""
    folds = bootstrap.today(loop, lab.settings(loop.name), "")
    bitmaps: list[BitMap64] = list(folds.seen.values())
    seen, size = sum(map(len, bitmaps)), sum(len(each.serialize()) for each in bitmaps)
    per_million = size / max(seen, 1) * 1e6
    say(f"bitmap: {size:,} bytes for {seen:,} feedbacks, {per_million:,.0f} per million")


if __name__ == "__main__":
    main(sys.argv[1:])
