"""Measures how fast Counterpoint is: `python -m tests.benchmarks [NAME...]`.

Progress goes to stderr, a Markdown table to stdout, and the numbers to bench.json.  It starts a broker of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from streams.broker import Broker
from tests.benchmarks import (
    desk,
    explaining,
    joining,
    latency,
    learning,
    predicting,
    report,
    restarting,
    routing,
)
from tests.benchmarks.lab import Lab
from tests.benchmarks.report import Figure

BENCHMARKS: dict[str, Callable[[Lab], list[Figure]]] = {
    "predicting": predicting.measure,
    "routing": routing.measure,
    "learning": learning.measure,
    "joining": joining.measure,
    "restarting": restarting.measure,
    "latency": latency.measure,
    "explaining": explaining.measure,
    "desk": desk.measure,
}
QUICK = 0.01


def main(argv: Sequence[str]) -> None:
    """Runs the benchmarks that are named, or all."""
    options = _options(argv)
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:5.0f} s  {line}\n")
        sys.stderr.flush()

    figures = list[Figure]()
    with (
        tempfile.TemporaryDirectory(prefix="counterpoint-bench-") as folder,
        _kafka(options.bootstrap, Path(folder) / "kafka") as bootstrap,
    ):
        for name in options.names or BENCHMARKS:
            place = Path(folder) / name
            place.mkdir()
            scale = QUICK if options.quick else 1.0
            say(f"{name} ...")
            with Lab(bootstrap, place, say, scale) as lab:
                figures += BENCHMARKS[name](lab)
    say("done")
    sys.stdout.write(f"{report.machine()}\n\n{report.table(figures)}\n")
    report.write(options.out, figures)


@contextmanager
def _kafka(given: str | None, folder: Path) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with Broker(folder) as broker:
        yield broker.bootstrap


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"all, or some of {', '.join(BENCHMARKS)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a hundredth of the records: does it run?"
    )
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="where the numbers go")
    parser.add_argument("--bootstrap", help="a Kafka to measure on, in place of an embedded one")
    options = parser.parse_args(argv)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
