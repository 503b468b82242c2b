"""How a demo ends; that it runs at all is seen in ``tests/e2e/test_demos.py``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streams.audit import Finding, Report
from streams.demos.board import Board
from streams.demos.run import conclude
from tests.demos.test_board import board_of_one

COUNTS = {"inputs": 1, "feedback": 1}
LOST = Finding(1, "feedback without an outcome or a dead letter", 1, ("f-7",))


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """A run of one event; its picture goes to a folder of the test's."""
    monkeypatch.chdir(tmp_path)
    return board_of_one()


def test_a_demo_whose_audit_is_off_exits_with_1_and_names_what_is_off(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    code = conclude(board, Report(COUNTS, [LOST, LOST]), "phishing", None, as_json=True)
    told = capsys.readouterr()
    assert code == 1
    assert json.loads(told.out)["audit"] == f"{LOST}; {LOST}"
    assert "promise 1: 1 feedback without an outcome" in told.err
    assert Path("demo-phishing.png").exists()


def test_a_demo_whose_audit_is_ok_exits_with_0_and_says_so(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    code = conclude(board, Report(COUNTS, []), "phishing", "127.0.0.1:9092", as_json=True)
    told = capsys.readouterr()
    assert code == 0
    assert json.loads(told.out)["audit"] == "ok"
    assert "counterpoint audit phishing --settled --bootstrap 127.0.0.1:9092" in told.err


def test_without_json_a_demo_writes_nothing_to_stdout(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    conclude(board, Report(COUNTS, []), "phishing", None, as_json=False)
    assert capsys.readouterr().out == ""
