"""Lineages: which definition a log belongs to, and where its fold starts."""

from __future__ import annotations

import pytest

from streams.core.errors import Conflict
from streams.core.events import Define
from streams.core.lineage import (
    BEGINNING,
    Standing,
    check_adoption,
    effective,
    follow,
    standing,
    start,
)


def define(definition: str, mode: str = "fresh", base: str | None = None) -> Define:
    return Define(
        "payments", definition, "", mode, base, True, False, "0.26.1", "3.11", "ana", "new model"
    )


def test_an_empty_log_waits_for_its_first_definition() -> None:
    assert start([], "a", "payments") == BEGINNING
    assert BEGINNING.define


def test_my_definition_starts_where_it_was_written() -> None:
    begun = start([(0, define("a"))], "a", "payments")
    assert not begun.needs_snapshot
    assert begun == (False, 0, 0, 1, None, "fresh")


def test_examples_before_the_first_definition_are_the_first_lineages() -> None:
    assert start([(7, define("a"))], "a", "payments").learn_from == 0


def test_a_fresh_lineage_learns_nothing_from_before() -> None:
    begun = start([(0, define("a")), (100, define("b"))], "b", "payments")
    assert (begun.learn_from, begun.snapshot_from, begun.needs_snapshot) == (100, 101, False)


def test_a_refold_learns_everything_since_the_last_fresh_one() -> None:
    log = [
        (0, define("a")),
        (100, define("b")),
        (150, define("c", "continue")),
        (200, define("d", "refold")),
    ]
    begun = start(log, "d", "payments")
    assert (begun.learn_from, begun.snapshot_from, begun.needs_snapshot) == (100, 201, False)


def test_to_continue_there_must_be_a_snapshot_of_the_new_definition() -> None:
    begun = start([(0, define("a")), (100, define("b", "continue"))], "b", "payments")
    assert (begun.learn_from, begun.snapshot_from, begun.needs_snapshot) == (100, 101, True)


def test_a_lineage_knows_the_snapshot_that_it_starts_from() -> None:
    assert start([(0, define("a", base="s1"))], "a", "payments").base == "s1"


def test_another_definition_is_refused_with_what_to_do() -> None:
    with pytest.raises(Conflict) as refused:
        start([(0, define("a")), (9, define("b"))], "a", "payments")
    told = str(refused.value)
    assert "counterpoint models adopt payments --refold | --continue | --fresh" in told
    assert "offset 9" in told
    assert "ana" in told


def test_the_same_definition_again_changes_nothing() -> None:
    log = [(0, define("a")), (1, define("a")), (50, define("a"))]
    assert effective(log) == log[:1]
    assert start(log, "a", "payments").learn_from == 0
    follow(define("a"), 50, "a", "payments")


def test_the_same_definition_in_another_mode_is_a_new_lineage() -> None:
    """The way out for models that were to be continued and cannot be: their log makes them anew."""
    log = [(0, define("a")), (50, define("b", "continue")), (60, define("b", "refold"))]
    assert effective(log) == log
    begun = start(log[:2], "b", "payments")
    assert begun.needs_snapshot
    assert not start(log, "b", "payments").needs_snapshot
    with pytest.raises(Conflict, match=r"start anew with --refold .* restart this process"):
        follow(define("b", "refold"), 60, "b", "payments", begun=begun)


def test_a_fold_that_began_before_the_first_definition_takes_it_in_any_mode() -> None:
    follow(define("a", "refold"), 0, "a", "payments", begun=BEGINNING)
    with pytest.raises(Conflict, match="start anew from snapshot s1"):
        follow(define("a", base="s1"), 1, "a", "payments", begun=BEGINNING)


def test_a_definition_that_comes_back_starts_a_new_lineage() -> None:
    log = [(200, define("a")), (0, define("a")), (100, define("b"))]
    assert start(log, "a", "payments").snapshot_from == 201


def test_meeting_another_definition_ends_the_fold() -> None:
    with pytest.raises(Conflict, match="models adopt payments"):
        follow(define("b"), 50, "a", "payments")


def test_definitions_that_were_counted_at_the_start_are_passed() -> None:
    begun = start([(0, define("a")), (50, define("b", "refold"))], "b", "payments")
    follow(define("a"), 0, "b", "payments", begun=begun)
    follow(define("b", "refold"), 50, "b", "payments", begun=begun)
    follow(define("b", "refold"), 51, "b", "payments", begun=begun)
    with pytest.raises(Conflict, match="models adopt payments"):
        follow(define("a"), 52, "b", "payments", begun=begun)


def test_a_trained_model_that_is_seeded_is_another_start() -> None:
    log = [
        (0, define("a")),
        (5, define("a", base="s1")),
        (6, define("a")),
        (7, define("a", base="s1")),
    ]
    assert effective(log) == log[:2]
    begun = start(log, "a", "payments")
    assert (begun.base, begun.learn_from, begun.snapshot_from) == ("s1", 5, 6)
    assert not standing(log, define("a", base="s2")).is_begun
    follow(define("a", base="s1"), 8, "a", "payments", begun=begun)
    with pytest.raises(Conflict, match=r"start anew from snapshot s2 .* restart this process"):
        follow(define("a", base="s2"), 8, "a", "payments", begun=begun)


def test_an_unknown_mode_stops_everything() -> None:
    with pytest.raises(Conflict, match="upgrade this process"):
        start([(0, define("a", "merge"))], "a", "payments")


FIRST, LATER = (0, define("a")), (9, define("b"))


def test_a_definition_stands_to_an_empty_log_as_its_first() -> None:
    assert standing([], define("a")) == Standing(None, None, False, False, True)


def test_another_definition_is_to_take_the_place_of_the_one_in_force() -> None:
    assert standing([FIRST], define("b", "refold")) == Standing(FIRST, None, False, False, True)


def test_a_fresh_start_is_done_once_it_was_said_again() -> None:
    """Between the two, what the models before owe is told: who was killed there has to come back."""
    begun = standing([FIRST, LATER], define("b"))
    assert begun == Standing(LATER, FIRST, is_mine=True, is_begun=True, is_told=False)
    assert standing([FIRST, LATER, (12, define("b"))], define("b")).is_told


def test_the_first_lineage_and_one_that_folds_everything_owe_nothing() -> None:
    assert standing([FIRST], define("a")).is_told
    assert standing([FIRST, (9, define("b", "refold"))], define("b", "refold")).is_told


def test_an_adoption_in_another_mode_is_begun_anew() -> None:
    found = standing([FIRST, (9, define("b", "continue"))], define("b", "refold"))
    assert (found.is_mine, found.is_begun) == (True, False)


def test_an_adoption_must_change_something() -> None:
    again = define("a", "refold")
    check_adoption([standing([FIRST], define("b"))], define("b"), usable=True)
    check_adoption([standing([], define("a"))], define("a"), usable=True)
    with pytest.raises(Conflict, match="since offset 0: there is nothing to adopt"):
        check_adoption([standing([FIRST], again)], again, usable=True)
    with pytest.raises(Conflict, match="expected one of fresh, refold, continue"):
        standing([FIRST], define("b", "merge"))


def test_an_adoption_that_was_interrupted_can_be_run_again() -> None:
    """One partition has the definition and the other has not; or the models in force cannot be had."""
    done, left = standing([FIRST], define("a")), standing([(3, define("b"))], define("a"))
    check_adoption([done, left], define("a"), usable=True)
    check_adoption([done, done], define("a", "refold"), usable=False)


def test_what_has_no_model_cannot_be_continued() -> None:
    new = define("a", "continue")
    with pytest.raises(Conflict, match="no model to continue"):
        check_adoption([standing([], new)], new, usable=True)
    check_adoption([standing([], new), standing([LATER], new)], new, usable=True)
