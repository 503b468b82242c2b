"""Runs a plan of faults: ``python -m tests.faults --plan short|long --seed N --minutes M``; see ``tests/faults/run.py``."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import click
from rich.console import Console

from streams.loop import DELIVERIES
from tests.faults import plan, report
from tests.faults.run import run


def stages_of(name: str, seed: int, delivery: str) -> Iterator[plan.Stage]:
    """The stages of a plan; a long one has no end."""
    if name == "short":
        yield from plan.short(seed, delivery)
        return
    for round_ in count():
        yield from plan.long(seed, round_, delivery)


@click.command()
@click.option("--plan", "name", type=click.Choice(["short", "long"]), default="short")
@click.option("--seed", default=1, help="Draws the faults and the flow.")
@click.option("--minutes", default=5.0, help="No new fault begins later.")
@click.option("--delivery", type=click.Choice(DELIVERIES), default=DELIVERIES[0])
@click.option("--rate", default=0.0, help="Inputs a second; by default what the plan says.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("soak.json"))
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    help="Where topics and logs are to stay, though all was well.",
)
def main(
    name: str,
    seed: int,
    minutes: float,
    delivery: str,
    rate: float,
    out: Path,
    keep: Path | None,
) -> None:
    """Runs the real system under flow and faults, and says what it found."""
    console = Console(stderr=True)
    folder = keep or Path(tempfile.mkdtemp(prefix="counterpoint-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    console.print(f"topics and logs are in {folder}", highlight=False)
    result = run(
        folder,
        stages_of(name, seed, delivery),
        seed=seed,
        per_s=rate or (300 if name == "short" else 1_000),
        until=time.time() + minutes * 60,
        delivery=delivery,
        snapshot_interval_s=1 if name == "short" else 2,
        say=lambda line: console.print(line, markup=False, highlight=False),
    )
    report.show(result, console)
    out.write_text(json.dumps(report.as_json(result), indent=2) + "\n")
    if result.wrong():  # what was found is looked into where it happened
        sys.exit(1)
    if keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
