"""What a run has found: as a table for people, and as ``soak.json``."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from rich.console import Console
from rich.table import Table

from streams.failpoints import parse
from tests.faults.run import Result
from tests.faults.watch import worst

SHOWN = 50


def as_json(result: Result) -> dict[str, Any]:
    """The result as plain values."""
    recovery = by_kind(result)
    return {
        "lost": len(result.lost),
        "learned_twice": learned_twice(result),
        "audit": result.audit.as_json(),
        "audit_s": round(result.audit_s, 1),
        "rebuilt": {"compared": result.rebuilt.compared, "different": result.rebuilt.different},
        "misjudged": len(result.misjudged),
        "faults": dict(Counter(done.fault.kind for done in result.done)),
        "failpoints": sorted(
            {armed.point for done in result.done for armed in parse(done.fault.detail)}
        ),
        "events": result.events,
        "seconds": round(result.seconds, 1),
        "verdicts": dict(result.verdicts),
        "statuses": result.statuses,
        "recovery_s": {
            kind: {
                "times": len(times),
                "p50": round(percentile(times, 0.5), 2),
                "p99": round(percentile(times, 0.99), 2),
            }
            for kind, times in sorted(recovery.items())
        },
        "gaps": {
            "longest_s": {role: round(s, 2) for role, s in worst(result.gaps).items()},
            "over_a_second": dict(Counter(gap.role for gap in result.gaps)),
        },
        "delivery": result.delivery,
        "written_again": dict(result.again),
        "cut_off": result.cut_off,
        "ended_by_themselves": [death._asdict() for death in result.deaths],
        "wrong": result.wrong(),
        "seed": result.seed,
    }


def learned_twice(result: Result) -> int:
    """Feedback that was learned more than once, as the audit counts it."""
    twice = ("feedback learned more than once", "feedback in examples from several places")
    return sum(each.times for each in result.audit.findings if each.what in twice)


def by_kind(result: Result) -> dict[str, list[float]]:
    """Recovery times in seconds, by kind of fault."""
    found: dict[str, list[float]] = defaultdict(list)
    for done in result.done:
        found[done.fault.name].append(done.recovery_s)
    return found


def percentile(values: list[float], part: float) -> float:
    """The value that this part of all values does not exceed.

    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def show(result: Result, console: Console) -> None:
    """Prints the report."""
    told = as_json(result)
    table = Table("fault", "times", "p50 s", "p99 s", title=f"faults, seed {result.seed}")
    for kind, of_kind in told["recovery_s"].items():
        table.add_row(kind, str(of_kind["times"]), f"{of_kind['p50']:.1f}", f"{of_kind['p99']:.1f}")
    console.print(table)
    found = Table("what", "found", title=f"{len(result.done)} faults in {result.seconds:.0f} s")
    for name in ("events", "lost", "learned_twice", "misjudged"):
        found.add_row(name.replace("_", " "), f"{told[name]:,}")
    found.add_row("audit", "ok" if result.audit.ok else "NOT OK")
    for name, count in result.audit.counts.items():
        found.add_row(f"  {name.replace('_', ' ')}", f"{count:,}")
    found.add_row("audited in", f"{result.audit_s:.1f} s")
    found.add_row("predictions made again", f"{result.rebuilt.compared}")
    for role, seconds in worst(result.gaps).items():
        found.add_row(f"longest silence of a {role}", f"{seconds:.1f} s")
    found.add_row("ended by themselves", f"{len(result.deaths)}")
    found.add_row("cut off as they ended", f"{len(result.cut_off)}")
    console.print(found)
    for line in told["wrong"][:SHOWN] or ["nothing was lost, nothing was learned twice"]:
        console.print(line, markup=False)
