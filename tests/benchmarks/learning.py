"""How fast one learner is, beside a bare loop that does the same River work."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import NamedTuple

from streams.core import exclusions
from streams.core.events import Example
from streams.core.fold import Fold
from streams.core.scores import Scores
from streams.core.topics import EXAMPLES, OUTCOMES, topics
from tests.benchmarks import loops, material
from tests.benchmarks.lab import Child, Lab
from tests.benchmarks.report import Figure

RECORDS = 100_000
WARM = 5_000
PAIRS = 3


class Run(NamedTuple):
    """One pass over the examples."""

    rate: float
    cpu_us: float


def measure(lab: Lab) -> list[Figure]:
    """Pairs back to back, of the learner's role and the bare loop on the same log."""
    loop = loops.named(loops.asked, lab.name("learner"))
    lab.prepare(loop)
    names = topics(loop)
    examples, outcomes = names[EXAMPLES].name, names[OUTCOMES].name
    child = lab.role("learner", loop, "asked")
    lab.await_running(child)
    warm, records = lab.count(WARM), lab.count(RECORDS)
    _ours(lab, child, examples, outcomes, 0, warm)
    pairs = []
    for number in range(PAIRS if lab.scale == 1 else 1):
        start = warm + number * records
        pair = (
            _ours(lab, child, examples, outcomes, start, records),
            _bare(lab, loop.name, examples, start, records),
        )
        pairs.append(pair)
        us, them = pair
        lab.say(
            f"pair {number + 1}: learner {us.rate:,.0f}/s ({us.cpu_us:.1f} µs),"
            f" bare loop {them.rate:,.0f}/s ({them.cpu_us:.1f} µs)"
        )
    child.end()
    return [
        Figure("learner_vs_bare", median(us.rate / them.rate for us, them in pairs)),
        Figure("learner_per_s", median(us.rate for us, _ in pairs)),
        Figure("bare_per_s", median(them.rate for _, them in pairs)),
        Figure("learner_cpu_us", median(us.cpu_us for us, _ in pairs)),
        Figure("bare_cpu_us", median(them.cpu_us for _, them in pairs)),
        Figure("rebuild_100k_s", _rebuild(lab, records) * RECORDS / records),
    ]


def _rebuild(lab: Lab, many: int) -> float:
    """Seconds to fold so many lessons anew, all but each hundredth, once they are read."""
    loop, decode = loops.asked, material.CODEC.decode_as
    lessons = [decode(Example, value) for _, value in material.examples(0, many)]
    out = exclusions.places(("feedback", n % 4, n // 4) for n in range(0, many, 100))
    fold = Fold(loop.model, loop.task, loop.classes, scores=Scores(loop.task))
    began = perf_counter()
    fold.refold(out, enumerate(lessons, 1))
    seconds = perf_counter() - began
    lab.say(f"{fold.learned:,} lessons are folded anew in {seconds:.2f} s")
    return seconds


def _ours(lab: Lab, child: Child, examples: str, outcomes: str, start: int, records: int) -> Run:
    with child.stopped():
        before = lab.ends(outcomes)
        lab.feed(examples, material.examples(start, records))
        cpu = child.cpu_s()
    lab.await_written(outcomes, before, records, [child])
    cpu = child.cpu_s() - cpu
    return Run(lab.span(outcomes, before).rate, cpu / records * 1e6)


def _bare(lab: Lab, name: str, examples: str, start: int, records: int) -> Run:
    """It starts at the beginning: the model that it teaches has learned as much as the learner's."""
    argv = ("-m", "tests.benchmarks.bare", lab.bootstrap, examples, str(start + 1), str(records))
    child = lab.child(f"{name}-bare", name, *argv)
    child.wait()
    seconds, cpu = map(float, child.tail().split()[-2:])
    return Run(records / seconds, cpu / records * 1e6)
