"""Lineages: which definition a log belongs to, and where its fold starts."""

from __future__ import annotations

import pytest

from streams.core.errors import Conflict
from streams.core.events import Define
from streams.core.lineage import BEGINNING, adoption, effective, follow, start


def define(definition: str, mode: str = "fresh", base: str | None = None) -> Define:
    return Define(
        "payments", definition, "", mode, base, True, False, "0.26.1", "3.11", "ana", "new model"
    )


def test_an_empty_log_waits_for_its_first_definition() -> None:
    assert start([], "a", "payments") == BEGINNING
    assert BEGINNING.define


def test_my_definition_starts_where_it_was_written() -> None:
    begun = start([(0, define("a"))], "a", "payments")
    assert begun == (False, 0, 0, 1, False, None)


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
    log = [(0, define("a")), (1, define("a")), (50, define("a", "refold"))]
    assert effective(log) == log[:1]
    assert start(log, "a", "payments").learn_from == 0
    follow(define("a"), 50, "a", "payments")


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
    follow(define("b"), 51, "b", "payments", begun=begun)
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
    assert adoption(log, define("a", base="s2")).base == "s2"
    follow(define("a", base="s1"), 8, "a", "payments", begun=begun)
    with pytest.raises(Conflict, match=r"start anew from snapshot s2 .* restart this process"):
        follow(define("a", base="s2"), 8, "a", "payments", begun=begun)


def test_an_unknown_mode_stops_everything() -> None:
    with pytest.raises(Conflict, match="upgrade this process"):
        start([(0, define("a", "merge"))], "a", "payments")


def test_an_adoption_must_change_something() -> None:
    log = [(0, define("a"))]
    assert adoption(log, define("b", "refold")).mode == "refold"
    assert adoption([], define("a")).definition == "a"
    with pytest.raises(Conflict, match="nothing to adopt"):
        adoption(log, define("a", "refold"))
    with pytest.raises(Conflict, match="expected one of fresh, refold, continue"):
        adoption(log, define("b", "merge"))
    with pytest.raises(Conflict, match="no model to continue"):
        adoption([], define("a", "continue"))
