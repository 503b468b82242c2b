"""What was measured, beside what was to be reached: a Markdown table, and numbers for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Figure(NamedTuple):
    """One number."""

    key: str
    value: float


class Meaning(NamedTuple):
    """What a number says, and the bound it is to keep: at least, or at most; None for one that only explains."""

    words: str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None


MEANINGS = {
    "predictor_vs_hand": Meaning("predictor, of a hand-written loop", at_least=0.80),
    "predictor_routed_vs_hand": Meaning(
        "predictor that asks about the least sure, of a hand-written loop", at_least=0.75
    ),
    "predictor_per_s": Meaning("predictor", "/s"),
    "hand_per_s": Meaning("hand-written loop", "/s"),
    "predictor_cpu_us": Meaning("predictor, processor time", "µs/record"),
    "predictor_routed_cpu_us": Meaning("… that asks about the least sure", "µs/record"),
    "hand_cpu_us": Meaning("hand-written loop, processor time", "µs/record"),
    "predictor_vs_stock_faust": Meaning("predictor, of stock Faust", "×", at_least=15),
    "transactional_vs_default": Meaning(
        "predictor in transactions of 200 ms, of the default", at_least=0.85
    ),
    "transactional_per_s": Meaning("predictor in transactions", "/s"),
    "stock_faust_per_s": Meaning("stock Faust", "/s"),
    "routing_uncertain_us": Meaning("decision whether to ask, by Uncertain", "µs", at_most=2),
    "learner_vs_bare": Meaning("learner, of a bare Python loop", at_least=0.80),
    "learner_per_s": Meaning("learner", "/s"),
    "bare_per_s": Meaning("bare Python loop", "/s"),
    "learner_cpu_us": Meaning("learner, processor time", "µs/record"),
    "bare_cpu_us": Meaning("bare Python loop, processor time", "µs/record"),
    "rebuild_100k_s": Meaning("a model of 100,000 lessons made again, once read", "s", at_most=3),
    "joiner_in_per_s": Meaning("joiner, predictions taken in, 1 M waiting", "/s", at_least=50_000),
    "joiner_in_cpu_us": Meaning("… processor time", "µs/record"),
    "joiner_joined_per_s": Meaning("joiner, feedback joined", "/s", at_least=15_000),
    "joiner_joined_cpu_us": Meaning("… processor time", "µs/record"),
    "joiner_rss_mb": Meaning("joiner, memory with 5 M waiting", "MB", at_most=600),
    "joiner_peak_rss_mb": Meaning("… at most, while it was rebuilt", "MB"),
    "joiner_rebuild_per_s": Meaning(
        "joiner, rebuilt after losing its disk", "/s", at_least=100_000
    ),
    "joiner_restart_s": Meaning(
        "joiner, first join after a clean stop, 2 M waiting", "s", at_most=5
    ),
    "joiner_without_disk_s": Meaning("… without its disk", "s"),
    "joiner_takeover_s": Meaning("… by one on standby", "s", at_most=10),
    "input_to_prediction_ms_p50": Meaning("input → prediction, p50", "ms"),
    "input_to_prediction_ms_p99": Meaning("input → prediction, p99", "ms", at_most=25),
    "verdict_to_served_ms_p50": Meaning("verdict → improved model serves, p50", "ms"),
    "verdict_to_served_ms_p99": Meaning("verdict → improved model serves, p99", "ms", at_most=250),
    "rolled_back_ms": Meaning(
        "the last prediction by a model that was rolled back, after the snapshot",
        "ms",
        at_most=1_000,
    ),
    "verdict_to_served_forest_ms_p50": Meaning("the same, 10-tree forest, p50", "ms"),
    "verdict_to_served_forest_ms_p99": Meaning("the same, 10-tree forest, p99", "ms", at_most=250),
    "input_to_prediction_forest_ms_p99": Meaning("input → prediction, forest, p99", "ms"),
    "burst_prediction_ms_p99": Meaning(
        "input → prediction while 10,000 verdicts come to the forest, p99", "ms", at_most=50
    ),
    "burst_learned_s": Meaning("… until all of them are learned", "s"),
    "explain_linear_us": Meaning(
        "explanation of a linear model with 30 features", "µs", at_most=200
    ),
    "desk_next_ms_p95": Meaning(
        "desk, a verdict and the next items, 100,000 waiting, p95", "ms", at_most=30
    ),
    "desk_browse_ms_p95": Meaning("desk, Browse with any filter, p95", "ms", at_most=100),
    "desk_verdicts_per_s": Meaning("desk, verdicts of 50 people at once", "/s", at_least=500),
    "projection_per_s": Meaning("desk, records taken in on SQLite", "/s", at_least=10_000),
    "explain_forest_us": Meaning("explanation of a 10-tree forest with 9 features", "µs"),
}


def table(figures: Iterable[Figure]) -> str:
    """The numbers as Markdown."""
    rows = ["| what | measured | wanted | |", "|---|---:|---:|---|"]
    for figure in figures:
        meaning = MEANINGS[figure.key]
        unit = f" {meaning.unit}" if meaning.unit not in ("", "/s", "×") else meaning.unit
        rows.append(
            f"| {meaning.words} `{figure.key}` | {_number(figure.value)}{unit} "
            f"| {_wanted(meaning)} | {_verdict(figure, meaning)} |"
        )
    return "\n".join(rows)


def write(path: Path, figures: Iterable[Figure]) -> None:
    """The numbers as JSON, with the machine that they are of."""
    numbers: dict[str, object] = {figure.key: round(figure.value, 4) for figure in figures}
    numbers["machine"] = machine()
    path.write_text(json.dumps(numbers, indent=2) + "\n")


def machine() -> str:
    """What it was measured on."""
    return f"{os.cpu_count()} × {platform.machine()}, Python {platform.python_version()}"


def holds(figure: Figure) -> bool:
    """Whether a number keeps its bound; one without a bound does."""
    meaning = MEANINGS[figure.key]
    low = meaning.at_least is None or figure.value >= meaning.at_least
    return low and (meaning.at_most is None or figure.value < meaning.at_most)


def _wanted(meaning: Meaning) -> str:
    if meaning.at_least is not None:
        return f"≥ {_number(meaning.at_least)}"
    return "" if meaning.at_most is None else f"< {_number(meaning.at_most)}"


def _verdict(figure: Figure, meaning: Meaning) -> str:
    if meaning.at_least is None and meaning.at_most is None:
        return ""
    return "yes" if holds(figure) else "**no**"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
