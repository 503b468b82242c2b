from __future__ import annotations

import pytest

from streams.core.events import DeadLetter, Outcome, Prediction, Score, Status
from streams.demos.board import Board


def prediction(event_id: str) -> Prediction:
    return Prediction(event_id, True, {}, 0.9, {}, None, None, "", 0, "review", "all", 1.0)


def outcome(feedback_id: str, status: str = "learned", version: int | None = None) -> Outcome:
    return Outcome("a", feedback_id, status, None, 0, 0, "", version)


def status(version: int, role: str = "predictor", state: str = "running") -> Status:
    return Status("l", role, "w", "h", 1, state, {"": version}, [], {}, [], 0, 0)


def letter(event_id: str | None, feedback_id: str | None = None) -> DeadLetter:
    return DeadLetter(
        "t", 0, 0, 0, None, None, [], "predictor", "decode", "bad", event_id, feedback_id, 0
    )


def board_of_one() -> Board:
    board = Board(1, "accuracy")
    board.sent_input()
    board.saw_prediction(prediction("a"))
    board.sent_feedback("f", 1.0)
    return board


def test_a_run_is_settled_when_every_verdict_is_learned_served_and_scored() -> None:
    board = board_of_one()
    assert board.missing() == "1 outcomes"
    board.saw_outcome(outcome("f", version=2), 1.5)
    assert board.is_complete
    assert board.missing() == "1 lessons to be served, 1 lessons to be scored"
    board.saw_status(status(2), 2.0)
    board.saw_score(Score("", 2, 1, {"accuracy": 1.0}, 0))
    assert board.is_settled
    assert board.missing() == ""


def test_a_verdict_sent_twice_counts_once_and_its_refusal_is_awaited() -> None:
    board = board_of_one()
    board.sent_feedback("f", 1.2)
    board.saw_outcome(outcome("f", version=2), 1.5)
    assert (board.feedback, board.duplicates, board.is_complete) == (1, 1, False)
    board.saw_outcome(outcome("f", "duplicate"), 1.6)
    assert (board.learned, board.refused, board.is_complete) == (1, 1, True)


def test_the_latency_ends_when_the_predictor_says_that_it_serves_the_version() -> None:
    board = board_of_one()
    board.saw_outcome(outcome("f", version=2), 1.5)
    board.saw_status(status(1), 1.6)
    assert board.latency_ms(0.5) is None
    board.saw_status(status(2, role="learner"), 1.7)
    assert board.latency_ms(0.5) is None
    board.saw_status(status(5), 3.0)
    assert board.latency_ms(0.99) == pytest.approx(2000)


def test_the_latency_is_the_same_when_the_outcome_is_told_after_it_is_served() -> None:
    board = board_of_one()
    board.saw_status(status(1), 1.1)
    board.saw_status(status(4), 1.2)
    board.saw_status(status(6), 9.0)
    board.saw_outcome(outcome("f", version=2), 10.0)
    assert board.latency_ms(0.5) == pytest.approx(200)


def test_dead_letters_are_an_end_too() -> None:
    board = Board(2, "accuracy")
    for event_id in "ab":
        board.sent_input()
        board.sent_feedback(f"f-{event_id}", 0.0)
    board.saw_prediction(prediction("a"))
    board.saw_dead_letter(letter("b"))
    board.saw_dead_letter(letter("a", "f-a"))
    board.saw_dead_letter(letter("b", "f-b"))
    assert board.is_complete
    assert board.dead_letters == 3


def test_rates_are_those_of_the_last_seconds() -> None:
    board = Board(100, "accuracy")
    assert board.rates(0.0) == (0.0, 0.0)
    for _ in range(20):
        board.sent_input()
    assert board.rates(2.0) == (10.0, 0.0)
    assert board.rates(8.0) == (0.0, 0.0)


def test_roles_are_running_when_their_heartbeats_say_so() -> None:
    board = Board(1, "accuracy")
    board.saw_status(status(0, state="starting"), 0.0)
    board.saw_status(status(0, role="joiner"), 0.0)
    assert board.running == {"joiner"}


def test_what_waits_for_a_verdict_is_what_the_joiner_says() -> None:
    board = Board(1, "accuracy")
    board.saw_status(status(0, role="joiner")._replace(numbers={"pending": 7.0}), 0.0)
    board.saw_status(status(0)._replace(numbers={"pending": 1.0}), 0.0)
    assert board.pending == 7


def test_the_curve_has_the_model_beside_the_frozen_one_and_the_baseline() -> None:
    board = Board(1, "mae")
    board.saw_score(Score("", 1, 1, {"mae": 2.0, "mae.frozen": 3.0, "mae.baseline": 4.0}, 0))
    assert board.curve == [(1, 2.0, 3.0, 4.0)]
