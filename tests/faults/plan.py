"""Which faults come, to whom, in which order: data, made of a seed alone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from typing import NamedTuple, TypeAlias

from streams.failpoints import POINTS
from streams.loop import AT_LEAST_ONCE, TRANSACTIONAL

ROLES = ("predictor", "joiner", "learner", "intake")
WORKERS = {"predictor": 2, "joiner": 2, "learner": 2, "intake": 1}
BROKER = "broker"

KINDS = {
    "kill": "SIGKILL, and a new start",
    "term": "SIGTERM, and a new start",
    "freeze": "SIGSTOP for longer than the session timeout, then SIGCONT: a zombie",
    "slow": "a consumer that takes 0.3 s for each batch",
    "clock": "the worker's wall clock is off by an hour, forwards or backwards",
    "storm": "a third member joins and leaves every 2 s",
    "rolling": "the workers of a role are restarted, one after the other",
    "failpoint": "something happens between two steps",
    "disk_lost": "the local state is deleted",
    "disk_old": "the local state is that of some time ago",
    "disk_full": "no file can grow",
    "moved": "the partitions go to a worker with another disk, and come back",
    "exclude": "verdicts are taken out of what was learned, or put back",
    "broker_kill": "SIGKILL of the broker, and a new start",
    "broker_away": "the broker is stopped for some seconds",
    "broker_hang": "the broker answers nobody for some seconds",
}
"""Every kind of fault, in words."""
ONLY_JOINER = ("disk_lost", "disk_old", "disk_full", "moved")

WHERE: Mapping[str, tuple[str, ...]] = {
    "commit.flushed": ("joiner",),
    "commit.half_prepared": ("joiner",),
    "commit.half": ("joiner",),
    "commit.half_applied": ("joiner",),
    "rebalance.recovered": ("joiner",),
    "rebalance.caught_up": ("joiner",),
    "recover.prepared": ("joiner",),
    "rebuild.begun": ("learner",),
    "rebuild.done": ("learner",),
    "snapshot.chunk": ("learner",),
    "snapshot.manifest": ("learner",),
    "snapshot.published": ("learner",),
    "snapshot.forgotten": ("learner",),
    "replica.opened": ("predictor",),
    "replica.taken": ("predictor",),
}
"""The roles that pass a point; a point that is not named here is passed by all of them."""
ONLY_WITH: Mapping[str, str] = {
    "commit.half_prepared": AT_LEAST_ONCE,
    "commit.prepared": AT_LEAST_ONCE,
    "commit.half": AT_LEAST_ONCE,
    "recover.prepared": AT_LEAST_ONCE,
    "transaction.delivered": TRANSACTIONAL,
    "transaction.offered": TRANSACTIONAL,
}
"""The delivery with which a point is passed; one that is not named here is passed with both."""
FAILABLE = (
    "commit.captured",
    "commit.flushed",
    "commit.prepared",
    "commit.half",
    "commit.committed",
)
"""Where a step that fails, instead of a process that dies, is worth a try too: commit failures."""
DELAYS = {
    "rebalance.fetched": "rebalance.fetched=delay:0.4@*",
    # A fetch that waits since before a rebalance takes records when they are sought: they are dropped, and lost unless
    # they are sought again.
    "rebalance.sought": "rebalance.sought=delay:1@*;rebalance.fetching=delay:0.01@*",
    "rebalance.revoked": "rebalance.revoked=delay:0.4@*",
    "rebalance.assigned": "rebalance.assigned=delay:0.4@*",
}
"""Where time that passes is worse than a process that dies."""
PAIRED = "rebalance.fetching"
"""The point that is passed along with another."""


class Fault(NamedTuple):
    """One fault.

    Attributes:
        kind: One of ``KINDS``.
        worker: Whom it is done to: a worker, a role, or ``broker``.
        detail: Of a failpoint: the point and what happens there.
    """

    kind: str
    worker: str
    detail: str = ""

    @property
    def name(self) -> str:
        """The kind, as recovery times are told by; a failpoint's with the first of its points."""
        return f"{self.kind} {self.detail.partition('=')[0]}".rstrip()

    def __str__(self) -> str:
        return f"{self.kind} {self.worker} {self.detail}".rstrip()


Stage: TypeAlias = dict[str, tuple[Fault, ...]]
"""Faults by lane: lanes run at once, the faults of a lane one after the other."""


def roles_of(point: str) -> tuple[str, ...]:
    """The roles that pass a failpoint."""
    return WHERE.get(point, ROLES)


def points_of(delivery: str) -> set[str]:
    """The failpoints that are passed with a delivery."""
    return {point for point in POINTS if ONLY_WITH.get(point, delivery) == delivery}


def short(seed: int, delivery: str = AT_LEAST_ONCE) -> list[Stage]:
    """At least 40 faults: every kind and every failpoint once, what hurts most more often."""
    draw = random.Random(seed)
    lanes = _every_point(draw, delivery)
    lanes["learner"] += [Fault("exclude", "learner-1")] * 2
    for role in ROLES:
        lanes[role] += [Fault(kind, _worker(draw, role)) for kind in ("kill", "term")]
    for role in ROLES[:3]:
        lanes[role].append(Fault("freeze", _worker(draw, role)))
    for kind in ONLY_JOINER:
        lanes["joiner"].append(Fault(kind, _worker(draw, "joiner")))
    lanes["predictor"].append(Fault("slow", _worker(draw, "predictor")))
    lanes["learner"].append(Fault("clock", _worker(draw, "learner")))
    lanes["intake"].append(Fault("clock", "intake-1"))
    for role in ("predictor", "learner"):
        lanes[role].append(Fault("storm", f"{role}-3"))
    for of_lane in lanes.values():
        draw.shuffle(of_lane)
    stages = _cut(lanes, 3)
    brokers = ["broker_kill", "broker_away", "broker_hang"]
    draw.shuffle(brokers)
    for at, kind in zip((3, 2, 1), brokers, strict=True):
        stages.insert(at, {BROKER: (Fault(kind, BROKER),)})
    stages.insert(4, {role: (Fault("rolling", role),) for role in ROLES})
    return stages


def long(seed: int, round_: int, delivery: str = AT_LEAST_ONCE) -> list[Stage]:
    """One round of a long run: what the short plan has, drawn anew, in an order of its own."""
    return short(seed * 1_000 + round_, delivery)


def _every_point(draw: random.Random, delivery: str) -> dict[str, list[Fault]]:
    """Each failpoint once, each in one of the roles that pass it, so that the lanes are about as long."""
    lanes: dict[str, list[Fault]] = {role: [] for role in ROLES}
    points = sorted(points_of(delivery) - {PAIRED}, key=lambda point: (len(roles_of(point)), point))
    for point in points:
        able = [role for role in roles_of(point) if role != "joiner" or len(roles_of(point)) == 1]
        role = min(able, key=lambda role: (len(lanes[role]), draw.random()))
        lanes[role].append(_at(draw, point, role))
    able_to_fail = [p for p in FAILABLE if p in points_of(delivery) and p not in WHERE]
    for point in draw.sample(able_to_fail, 2):
        role = draw.choice(("predictor", "learner"))
        lanes[role].append(Fault("failpoint", _worker(draw, role), f"{point}=raise@2"))
    return lanes


def _at(draw: random.Random, point: str, role: str) -> Fault:
    if point in DELAYS:
        told = DELAYS[point]
    else:
        # The last commits and batches before a worker ends pass these points too: it is to live for some time.
        often = point.startswith(("commit.", "batch."))
        told = f"{point}=kill@{draw.randint(2, 4) if often else 1}"
    return Fault("failpoint", _worker(draw, role), told)


def _worker(draw: random.Random, role: str) -> str:
    return f"{role}-{draw.randint(1, WORKERS[role])}"


def _cut(lanes: Mapping[str, Iterable[Fault]], count: int) -> list[Stage]:
    """Cuts every lane into as many pieces."""
    stages: list[Stage] = []
    for n in range(count):
        cut = {role: list(of_lane) for role, of_lane in lanes.items()}
        stages.append(
            {
                role: tuple(of[len(of) * n // count : len(of) * (n + 1) // count])
                for role, of in cut.items()
            }
        )
    return stages


def timely(
    stages: Iterable[Stage], until: float, clock: Callable[[], float] = time.time
) -> Iterator[Stage]:
    """The stages that begin by then: a long plan has no end of its own."""
    return takewhile(lambda stage: clock() <= until, stages)


def faults(stages: Iterable[Stage]) -> list[Fault]:
    """All faults of a plan."""
    return [fault for stage in stages for of_lane in stage.values() for fault in of_lane]
