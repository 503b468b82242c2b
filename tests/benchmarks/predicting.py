"""How fast one predictor is, beside a hand-written loop, itself in transactions and with routing that looks at the
answers, and a stock Faust program."""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from streams.core.topics import INPUTS, PREDICTIONS, topics
from tests.benchmarks import loops, material
from tests.benchmarks.lab import Child, Lab
from tests.benchmarks.report import Figure

PARTITIONS = 4
ROUNDS = 5
RECORDS = 300_000
WARM = 20_000
STOCK_RECORDS = 20_000


class Run(NamedTuple):
    """One pass over the inputs."""

    rate: float
    cpu_us: float


class Runner:
    """A process that answers inputs, and is stopped while it is fed."""

    def __init__(self, lab: Lab, child: Child, inputs: str, predictions: str) -> None:
        self._lab, self.child, self._inputs, self._predictions = lab, child, inputs, predictions
        self._fed = 0

    def run(self, records: int) -> Run:
        """Feeds it so many inputs and lets it answer them."""
        lab, child = self._lab, self.child
        with child.stopped():
            before = lab.ends(self._predictions)
            lab.feed(self._inputs, material.inputs(self._fed, records))
            self._fed += records
            cpu = child.cpu_s()
        lab.await_written(self._predictions, before, records, [child])
        cpu = child.cpu_s() - cpu
        span = lab.span(self._predictions, before)
        return Run(span.rate, cpu / records * 1e6)


def measure(lab: Lab) -> list[Figure]:
    """Five rounds back to back, and the stock program once."""
    ours, hand = _ours(lab, "linear"), _hand(lab)
    runners = (ours, hand, _ours(lab, "routed"), _ours(lab, "committed"))
    for runner in runners:
        runner.run(lab.count(WARM))
    rounds = list[list[Run]]()
    for number in range(ROUNDS if lab.scale == 1 else 1):
        rounds.append([runner.run(lab.count(RECORDS)) for runner in runners])
        told = zip(("predictor", "by hand", "routed", "in transactions"), rounds[-1], strict=True)
        lab.say(f"round {number + 1}: " + ", ".join(f"{name} {_told(run)}" for name, run in told))
    for runner in runners:
        runner.child.end()
    stock = _stock(lab)
    lab.say(f"stock Faust: {_told(stock)}")
    usual, hands, with_routing, in_transactions = map(list, zip(*rounds, strict=True))
    rate = median(run.rate for run in usual)
    return [
        Figure("predictor_per_s", rate),
        Figure("hand_per_s", median(run.rate for run in hands)),
        Figure("predictor_vs_hand", median(_ratios(usual, hands))),
        Figure("predictor_routed_vs_hand", median(_ratios(with_routing, hands))),
        Figure("predictor_cpu_us", median(run.cpu_us for run in usual)),
        Figure("predictor_routed_cpu_us", median(run.cpu_us for run in with_routing)),
        Figure("hand_cpu_us", median(run.cpu_us for run in hands)),
        Figure("transactional_per_s", median(run.rate for run in in_transactions)),
        Figure("transactional_vs_default", median(_ratios(in_transactions, usual))),
        Figure("stock_faust_per_s", stock.rate),
        Figure("predictor_vs_stock_faust", rate / stock.rate),
    ]


def _ratios(runs: list[Run], of: list[Run]) -> list[float]:
    return [run.rate / other.rate for run, other in zip(runs, of, strict=True)]


def _ours(lab: Lab, attribute: str) -> Runner:
    loop = loops.named(getattr(loops, attribute), lab.name("predictor"))
    lab.prepare(loop)
    names = topics(loop)
    child = lab.role("predictor", loop, attribute)
    lab.await_running(child)
    return Runner(lab, child, names[INPUTS].name, names[PREDICTIONS].name)


def _hand(lab: Lab) -> Runner:
    return _yardstick(lab, "hand")


def _stock(lab: Lab) -> Run:
    runner = _yardstick(lab, "stock")
    runner.run(lab.count(STOCK_RECORDS) // 10)
    run = runner.run(lab.count(STOCK_RECORDS))
    runner.child.end()
    return run


def _yardstick(lab: Lab, program: str) -> Runner:
    name = lab.name(program)
    inputs = lab.create(f"{name}.inputs", PARTITIONS)
    predictions = lab.create(f"{name}.predictions", PARTITIONS)
    argv = ("-m", f"tests.benchmarks.{program}", lab.bootstrap, inputs, predictions)
    child = lab.child(name, name, *argv)
    runner = Runner(lab, child, inputs, predictions)
    before = lab.ends(predictions)
    lab.feed(inputs, material.inputs(0, 1))  # one that is answered while it starts
    lab.await_written(predictions, before, 1, [child])
    return runner


def _told(run: Run) -> str:
    return f"{run.rate:,.0f}/s ({run.cpu_us:.1f} µs)"
