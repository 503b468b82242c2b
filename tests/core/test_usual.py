"""What features usually are."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.core.usual import MOST_VALUES, Usual


def usual(*values: Any) -> Usual:
    """Of one feature."""
    made = Usual()
    for value in values:
        made.learn({"a": value})
    return made


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_of_numbers_it_is_the_mean(values: list[float]) -> None:
    found = usual(*values).of("a")
    assert isinstance(found, float)
    assert math.isclose(found, math.fsum(values) / len(values), abs_tol=1e-6)


def test_of_whole_numbers_it_is_whole_until_one_is_not() -> None:
    assert repr(usual(1, 2, 2).of("a")) == "2"
    assert usual(1, 2, 3.0).of("a") == 2.0
    assert repr(usual(1, 2, 3.0).of("a")) == "2.0"


def test_of_anything_else_it_is_the_commonest_and_of_many_the_first_to_come() -> None:
    assert usual(True, False, False).of("a") is False
    assert usual("x", "y").of("a") == "x"
    many = usual(*map(str, range(MOST_VALUES)), "new", "new", "7")
    assert many.of("a") == "7"


def test_what_says_nothing_is_passed_over() -> None:
    assert usual(None, math.nan, math.inf, 3.0).of("a") == 3.0
    assert usual(None).of("a") is None


def test_a_stored_one_goes_on_as_the_one_that_was_stored() -> None:
    one, other = usual(1, "x", 2.5), Usual()
    other.load(one.dump())
    assert other.dump() == one.dump()
