from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.thinning import DAY_MS, HOUR_MS, LAST, WEEK_MS, Kept, thin

NOW = 3_000 * DAY_MS + 5 * HOUR_MS + 7
MINUTE_MS = 60_000


def stored(ages: list[int]) -> list[Kept]:
    """Stored one after the other, by the ages that they have now; a clock may have gone back meanwhile."""
    return [Kept(n, NOW - age, f"s{n}") for n, age in enumerate(ages)]


MOMENTS = st.one_of(
    st.integers(0, 3 * HOUR_MS), st.integers(0, 3 * DAY_MS), st.integers(0, 40 * DAY_MS)
)
AGES = st.lists(MOMENTS, max_size=60)
IN_ORDER = AGES.map(lambda ages: sorted(ages, reverse=True))


def of(names: set[str], states: list[Kept]) -> list[Kept]:
    return [each for each in states if each.name in names]


@given(AGES, st.lists(MOMENTS, min_size=1, max_size=4), AGES)
@settings(max_examples=300, deadline=None)
def test_thinning_often_or_late_keeps_the_same(
    ages: list[int], passes: list[int], more: list[int]
) -> None:
    old = stored(ages)
    new = [Kept(each.version + len(old), each.created_at, f"n{each.name}") for each in stored(more)]
    kept, now = old, NOW
    for pause in passes:
        kept = of(thin(kept, now), kept)
        now += pause
    kept, everything = [*kept, *new], [*old, *new]
    assert thin(kept, now) == thin(everything, now)


@given(IN_ORDER)
@settings(max_examples=300, deadline=None)
def test_near_before_each_state_that_there_was_one_is_kept(ages: list[int]) -> None:
    states = stored(ages)
    kept = of(thin(states, NOW), states)
    for state in states:
        age = NOW - state.created_at
        gap = HOUR_MS if age < 23 * HOUR_MS else DAY_MS if age < 6 * DAY_MS else WEEK_MS
        assert any(
            each.version <= state.version and state.created_at - each.created_at < gap
            for each in kept
        )


@given(AGES)
@settings(max_examples=200, deadline=None)
def test_the_last_are_kept_whatever_their_age(ages: list[int]) -> None:
    states = stored(ages)
    assert {each.name for each in states[-LAST:]} <= thin(states, NOW)


def test_a_year_of_a_snapshot_every_minute_leaves_less_than_a_hundred() -> None:
    states, now = list[Kept](), NOW
    for minute in range(365 * 24 * 60):
        now = NOW + minute * MINUTE_MS
        states.append(Kept(minute, now, str(minute)))
        if minute % 997 == 0:
            states = of(thin(states, now), states)
    kept = thin(states, now)
    assert LAST + 24 + 6 + 50 < len(kept) <= LAST + 24 + 7 + 54
