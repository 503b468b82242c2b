"""How a demo looks: live, as a summary, and as a picture.  It reads the board and decides nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streams.demos.board import Board, Point

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 56
WORDS = {"accuracy": "accuracy", "mae": "mean absolute error"}
ROWS = (("model", "green"), ("frozen", "yellow"), ("baseline", "bright_black"))


def sparkline(values: Sequence[float], low: float, high: float, width: int = WIDTH) -> str:
    """Values as a line of blocks, from the lowest to the highest; the newest is on the right.

    >>> sparkline([0, 1, 2, 3], 0, 3, width=4)
    '▁▃▆█'
    """
    step = max(len(values) / width, 1.0)
    chosen = [
        values[min(int((i + 1) * step) - 1, len(values) - 1)]
        for i in range(min(width, len(values)))
    ]
    span = (high - low) or 1.0
    top = len(BLOCKS) - 1
    return "".join(
        " " if math.isnan(value) else BLOCKS[round(min(max((value - low) / span, 0), 1) * top)]
        for value in chosen
    )


def lines(curve: Sequence[Point]) -> Table:
    """The curves of the model, of the frozen one and of the baseline, on one scale."""
    rows = Table.grid(padding=(0, 1))
    columns = list(zip(*curve, strict=True))[1:] or [(), (), ()]
    # The first answers are wild: they must not set the scale
    settled = [v for column in columns for v in column[len(column) // 10 :] if not math.isnan(v)]
    low, high = min(settled, default=0.0), max(settled, default=1.0)
    for (name, style), values in zip(ROWS, columns, strict=True):
        last = f"{values[-1]:.4f}" if values and not math.isnan(values[-1]) else ""
        rows.add_row(name, Text(last, style), Text(sparkline(values, low, high), style))
    return rows


def frame(board: Board, name: str, now: float) -> RenderableType:
    """The live view."""
    inputs, predictions = board.rates(now)
    figures = Table.grid(padding=(0, 3))
    figures.add_row("inputs/s", f"{inputs:,.0f}", "predictions/s", f"{predictions:,.0f}")
    figures.add_row("waiting for a verdict", f"{board.pending:,}", "learned", f"{board.learned:,}")
    figures.add_row(
        "model version", f"{board.version:,}", "dead letters", f"{board.dead_letters:,}"
    )
    figures.add_row("sent twice", f"{board.duplicates:,}", "and refused", f"{board.refused:,}")
    body = Group(
        ProgressBar(
            total=board.total, completed=board.learned + board.dead_letters, width=WIDTH + 18
        ),
        Text(),
        figures,
        Text(f"from verdict to improved model: {latency(board)}"),
        Text(),
        Text(f"{WORDS[board.metric]} so far", "bold"),
        lines(board.curve),
    )
    return Panel(body, title=f"counterpoint demo {name}", expand=False)


def latency(board: Board) -> str:
    """From verdict to improved model, in words."""
    p50, p99 = board.latency_ms(0.5), board.latency_ms(0.99)
    return "not known yet" if p50 is None else f"p50 {p50:,.0f} ms, p99 {p99:,.0f} ms"


def line(board: Board) -> str:
    """The run so far on one line, for where nothing can be drawn."""
    value = board.metrics.get(board.metric)
    told = "" if value is None else f", {WORDS[board.metric]} {value:.4f}"
    return (
        f"inputs {board.inputs:,} of {board.total:,}, predictions {len(board.predicted):,}, "
        f"waiting for a verdict {board.pending:,}, learned {board.learned:,}, version {board.version:,}{told}"
    )


def summary(board: Board, audit: str, picture: Path | None) -> Table:
    """The end, for people."""
    rows = Table.grid(padding=(0, 2))
    metrics, name = board.metrics, board.metric
    beside = ", ".join(
        f"{which} {metrics[key]:.4f}"
        for which in ("frozen", "baseline")
        if (key := f"{name}.{which}") in metrics
    )
    rows.add_row("inputs", f"{board.inputs:,}")
    rows.add_row("predictions", f"{len(board.predicted):,}")
    rows.add_row("verdicts", f"{board.feedback:,}, and {board.duplicates:,} of them sent twice")
    rows.add_row("learned", f"{board.learned:,}, each once; {board.refused:,} duplicates refused")
    rows.add_row("dead letters", f"{board.dead_letters:,}")
    if name in metrics:
        rows.add_row(WORDS[name], f"{metrics[name]:.4f} ({beside})")
        rows.add_row("of late", f"{metrics.get(f'{name}.rolling', math.nan):.4f}")
    rows.add_row("model version", f"{board.version:,}")
    rows.add_row("verdict to model", latency(board))
    rows.add_row("audit", Text(audit, "green" if audit == "ok" else "bold red"))
    if picture is not None:
        rows.add_row("picture", str(picture))
    return rows


def draw(board: Board, name: str, path: Path) -> None:
    """Draws the metric over the lessons: the model, the frozen one, the baseline."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    learned = [point.learned for point in board.curve]
    for (row, _), colour in zip(ROWS, ("#1a7f37", "#bf8700", "#8c959f"), strict=True):
        values = [getattr(point, row) for point in board.curve]
        label = {"model": "model", "frozen": "model frozen after 100 verdicts"}.get(row, "baseline")
        axes.plot(learned, values, color=colour, label=label, linewidth=2)
    axes.set_title(f"{name}: {WORDS[board.metric]} of the predictions, as verdicts come in")
    axes.set_xlabel("verdicts learned")
    axes.set_ylabel(f"{WORDS[board.metric]} so far")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
