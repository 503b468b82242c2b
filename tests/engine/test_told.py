"""What was told is told once, and what waits is not taken for told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.engine.told import NOTE_BYTES, Told


def told(notes: dict[int, str] | None = None, upto: int = 0) -> Told:
    """A memory of partition 0 that begins so."""
    memory = Told(keeps=True)
    memory.start({0: upto}, notes or {})
    return memory


def test_what_was_told_is_told_and_what_follows_is_not() -> None:
    memory = told(upto=5)
    assert memory.has(0, "a", 4)
    assert not memory.has(0, "a", 5)
    memory.passed(0, "a", 5)
    assert memory.has(0, "b", 5)


def test_a_key_that_waits_is_told_of_later() -> None:
    memory = told()
    memory.waits(0, "a", 0)
    memory.passed(0, "b", 1)
    assert memory.has(0, "b", 1)
    assert not memory.has(0, "a", 0)
    memory.passed(0, "a", 0)
    assert memory.has(0, "a", 0)


def test_nothing_is_told_where_nothing_is_kept() -> None:
    memory = Told(keeps=False)
    memory.start({0: 9}, {})
    memory.passed(0, "a", 9)
    memory.waits(0, "b", 10)
    assert not memory.has(0, "a", 3)
    assert memory.note(0) == ""


def test_a_note_stays_short_enough_for_the_broker() -> None:
    memory = told()
    for n in range(1_000):
        memory.waits(0, f"customer-{n}", n)
    assert 0 < len(memory.note(0)) <= NOTE_BYTES


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=30),
    st.sets(st.sampled_from("abc")),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_each_record_is_told_once_whoever_waits_and_whenever_it_dies(
    log: list[str], waiting: set[str], done: int, crash: int
) -> None:
    """Some keys wait while the others go on; of those ``done`` records are told of before a crash; then all comes again."""
    memory, tellings, parked = told(), [0] * len(log), []
    read = log[:crash]
    for offset, key in enumerate(read):
        if key in waiting:
            memory.waits(0, key, offset)
            parked.append(offset)
        else:
            tellings[offset] += 1
            memory.passed(0, key, offset)
    for offset in parked[:done]:
        tellings[offset] += 1
        memory.passed(0, log[offset], offset)
    after = told({0: memory.note(0)}, upto=len(read))
    for offset, key in enumerate(log):
        tellings[offset] += not after.has(0, key, offset)
        after.passed(0, key, offset)
    assert tellings == [1] * len(log)
