"""Digests: what was added is there, whatever the number, and nothing else is."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.audit.digests import RECENT, Column, Seen, far_apart, with_several, without

DIGESTS = st.integers(-(1 << 63), (1 << 63) - 1)
PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)))


def column(values: list[int]) -> Column:
    made = Column()
    for value in values:
        made.add(value)
    return made


def test_far_more_than_are_kept_in_the_set_are_all_seen_once() -> None:
    draw, seen = random.Random(1), Seen()
    digests = [draw.getrandbits(64) - (1 << 63) for _ in range(3 * RECENT + 7)]
    assert all(map(seen.add, digests))
    assert not any(map(seen.add, digests))
    assert 5 not in seen


@given(st.lists(DIGESTS), st.lists(DIGESTS), st.lists(DIGESTS))
def test_what_is_left_is_in_none_of_the_others(a: list[int], b: list[int], c: list[int]) -> None:
    left = without(column(a).all(), column(b).all(), column(c).all())
    assert left.tolist() == sorted(set(a) - set(b) - set(c))


@given(PAIRS)
def test_those_with_several_values_are_found(pairs: list[tuple[int, int]]) -> None:
    ids, values = column([a for a, _ in pairs]), column([b for _, b in pairs])
    found = with_several(ids.all(), values.all())
    assert found.tolist() == sorted(
        {a for a, _ in pairs if len({b for c, b in pairs if c == a}) > 1}
    )
    assert np.array_equal(ids.unique(), sorted({a for a, _ in pairs}))


@given(PAIRS, st.integers(0, 9))
def test_those_with_values_far_apart_are_found(pairs: list[tuple[int, int]], most: int) -> None:
    found = far_apart(
        column([a for a, _ in pairs]).all(), column([b for _, b in pairs]).all(), most
    )
    values = {a: [b for c, b in pairs if c == a] for a, _ in pairs}
    assert found.tolist() == sorted(a for a, of in values.items() if max(of) - min(of) > most)
