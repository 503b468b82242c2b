"""The plan is data: the same for the same seed, with every kind of fault, and every failpoint where it is passed."""

from __future__ import annotations

from collections import Counter
from itertools import count, repeat

import pytest

from streams.core.topics import partition_of
from streams.failpoints import POINTS, parse
from streams.loop import DELIVERIES
from tests.faults.fleet import role_of
from tests.faults.inject import ACTS
from tests.faults.plan import (
    BROKER,
    KINDS,
    ONLY_JOINER,
    WHERE,
    WORKERS,
    faults,
    long,
    points_of,
    roles_of,
    short,
    timely,
)
from tests.faults.traffic import (
    KINDS as VERDICTS,
)
from tests.faults.traffic import (
    PARTITIONS,
    REGIONS,
    REVIEWED,
    WINDOW_S,
    Sending,
    event_id_of,
    sendings,
)

SEEDS = range(20)


def test_a_seed_makes_the_plan() -> None:
    assert short(1) == short(1) != short(2)
    assert long(1, 0) == long(1, 0) != long(1, 1)


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_short_plan_has_forty_faults_of_every_kind_and_every_failpoint(
    seed: int, delivery: str
) -> None:
    planned = faults(short(seed, delivery))
    assert len(planned) >= 40
    assert {fault.kind for fault in planned} == KINDS.keys() == ACTS.keys()
    armed = [parse(fault.detail) for fault in planned if fault.kind == "failpoint"]
    points = {each.point for of_fault in armed for each in of_fault}
    assert points == points_of(delivery)


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_come_to_those_who_can_have_them(seed: int) -> None:
    for stage in short(seed):
        assert len(stage) == 1 or BROKER not in stage
        for lane, of_lane in stage.items():
            for fault in of_lane:
                assert fault.worker == lane or role_of(fault.worker) == lane
                assert fault.kind not in ONLY_JOINER or lane == "joiner"
                if fault.kind == "failpoint":
                    assert lane in roles_of(parse(fault.detail)[0].point)
                if "-" in fault.worker and fault.kind != "storm":
                    assert int(fault.worker.rpartition("-")[2]) <= WORKERS[lane]


def test_only_points_that_there_are_have_roles_of_their_own() -> None:
    assert WHERE.keys() <= POINTS.keys()


def test_two_of_the_model_keys_share_a_partition_of_the_log() -> None:
    partitions = Counter(partition_of(region.encode(), PARTITIONS) for region in REGIONS)
    assert sorted(partitions.values()) == [1, 2]


def test_a_tenth_of_the_events_get_verdicts_of_every_kind() -> None:
    found = [sendings(7, number)[0] for number in range(5_000)]
    assert set(found) == {None, *VERDICTS}
    assert abs(sum(kind is not None for kind in found) / 5_000 - REVIEWED) < 0.02


def of_kind(kind: str) -> tuple[int, list[Sending]]:
    return next((n, found) for n in range(5_000) for is_, found in [sendings(7, n)] if is_ == kind)


def test_what_is_sent_is_what_the_kind_says() -> None:
    _, early = of_kind("early")
    assert sorted(early)[0].way == "feedback"
    _, twice = of_kind("twice")
    assert len({each.feedback_id for each in twice if each.way == "feedback"}) == 1
    number, contradicted = of_kind("contradicted")
    said = [each for each in contradicted if each.way == "feedback"]
    assert {each.label for each in said} == {True, False}
    assert {each.event_id for each in said} == {event_id_of(number)}
    number, orphaned = of_kind("orphaned")
    assert event_id_of(number) not in {e.event_id for e in orphaned if e.way == "feedback"}
    _, expired = of_kind("expired")
    assert max(expired).after_s > WINDOW_S
    for way in ("misrouted", "labels"):
        assert way in {each.way for each in of_kind("labelled" if way == "labels" else way)[1]}


def test_a_plan_without_end_ends_when_its_time_is_up() -> None:
    assert len(list(timely(repeat({}), until=2, clock=count().__next__))) == 3
