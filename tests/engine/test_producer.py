"""When a producer is given up: not while the broker is away or delivers slowly, but when it could and does not."""

from __future__ import annotations

from streams.engine.producer import STUCK_S, Stuck


def test_a_producer_that_delivers_nothing_to_a_broker_that_is_there_is_stuck() -> None:
    stuck = Stuck(lambda: True)
    assert not any(stuck.after(now, 10 + now) for now in range(STUCK_S))
    assert stuck.after(STUCK_S, 10)


def test_a_broker_that_is_away_makes_no_producer_stuck() -> None:
    stuck = Stuck(lambda: False)
    assert not any(stuck.after(now, 10) for now in range(10 * STUCK_S))


def test_the_time_counts_from_when_the_broker_is_back() -> None:
    back_at = 60
    now = 0
    stuck = Stuck(lambda: now >= back_at)
    for now in range(back_at + STUCK_S - 1):
        assert not stuck.after(now, 10)
    assert stuck.after(back_at + STUCK_S, 10)


def test_whatever_is_delivered_slowly_is_not_stuck() -> None:
    stuck = Stuck(lambda: True)
    assert not any(stuck.after(now, 1_000 - now) for now in range(10 * STUCK_S))
