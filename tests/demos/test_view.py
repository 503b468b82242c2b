from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console

from streams.core.events import Score
from streams.demos import view
from streams.demos.board import Board


def board(metric: str = "accuracy") -> Board:
    made = Board(100, metric)
    for learned in range(1, 60):
        metrics = {metric: 0.5 + learned / 200, f"{metric}.baseline": 0.5}
        if learned > 10:
            metrics[f"{metric}.frozen"] = 0.55
        made.saw_score(Score("", learned, learned, metrics, 0))
    return made


def text_of(renderable: object) -> str:
    console = Console(width=100, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with console.file:
        console.print(renderable)
        return console.export_text()


def test_a_line_of_blocks_shows_the_newest_values_on_the_right() -> None:
    assert view.sparkline([0.0, 0.0, 1.0, 1.0], 0, 1, width=2) == "▁█"
    assert view.sparkline([math.nan, 5.0, -5.0], 0, 1, width=10) == " █▁"
    assert view.sparkline([], 0, 1) == ""
    assert len(view.sparkline([1.0] * 1000, 0, 1)) == view.WIDTH


def test_the_live_view_can_be_drawn_from_the_first_moment_on() -> None:
    assert "not known yet" in text_of(view.frame(Board(100, "accuracy"), "x", 0.0))
    drawn = text_of(view.frame(board(), "x", 0.0))
    assert "0.7950" in drawn
    assert "0.5500" in drawn


def test_what_waits_for_a_verdict_is_in_the_live_view_and_in_the_line() -> None:
    waiting = board()
    waiting.pending = 4321
    assert "4,321" in text_of(view.frame(waiting, "x", 0.0))
    assert "waiting for a verdict 4,321" in view.line(waiting)


def test_the_summary_has_the_verdict_of_the_audit() -> None:
    assert "3 inputs are lost" in text_of(view.summary(board(), "3 inputs are lost", None))


def test_the_summary_of_a_regression_tells_its_error() -> None:
    assert "mean absolute error" in text_of(view.summary(board("mae"), "ok", Path("a.png")))


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "demo.png"
    view.draw(board(), "phishing", path)
    assert path.read_bytes().startswith(b"\x89PNG")
