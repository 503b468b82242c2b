"""Named places where a test may kill, delay or fail a process: between any two steps where a crash could lose something.

Off, passing one costs a call and a comparison.  ``COUNTERPOINT_FAILPOINTS`` turns them on: what is to happen at which
point, and the how-manieth time it is passed, such as ``commit.prepared=kill@3;rebalance.sought=delay:0.4``.

    kill        the process is gone (SIGKILL)
    delay:S     S seconds pass
    raise       the step fails, as if something outside did not answer
    full        the step fails, as if the disk were full

``@N`` is the N-th time (the first by default), ``@*`` is every time.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import time
from collections.abc import Iterable
from typing import NamedTuple

from streams.core.errors import Unavailable

log = logging.getLogger("counterpoint.failpoints")

POINTS = {
    "batch.begun": "A batch was taken, and not processed.",
    "batch.handled": "A batch was processed: its outputs are handed over, and it is not acknowledged.",
    "commit.captured": "Offsets and state were captured together; nothing of it is anywhere yet.",
    "commit.flushed": "The joiner's outputs are delivered, and its changes not yet prepared.",
    "commit.half_prepared": "The joiner prepared one partition, and not the others.",
    "commit.prepared": "Outputs are delivered, the state is prepared, and no offset is committed.",
    "commit.half": "One topic's offsets are committed, and the other's are not.",
    "commit.committed": "The offsets are committed, and what was prepared is not applied.",
    "commit.half_applied": "The joiner applied one partition, and not the others.",
    "commit.applied": "The commit is complete.",
    "rebalance.fetching": "The consumer's thread begins to wait for records; it does so for long enough to outlive a rebalance.",
    "rebalance.fetched": "The consumer's thread has taken records, and not handed them over.",
    "rebalance.revoked": "The last commit before partitions go is made, and what was read of them is not forgotten.",
    "rebalance.assigned": "Partitions came, their offsets are known, and their state is not opened.",
    "rebalance.recovered": "The joiner compared states and offsets, and has not read what is missing.",
    "rebalance.caught_up": "The joiner has read a part of what its state lacked.",
    "rebalance.sought": "The partitions are sought, and what was taken before is still taken for good.",
    "recover.prepared": "The joiner found changes that are prepared, and has neither applied nor dropped them.",
    "transaction.delivered": "A transaction's outputs are delivered, and the offsets are not in it; if this fails, it is taken back.",
    "transaction.offered": "A transaction holds outputs and offsets, and is not committed.",
    "rebuild.begun": "A control record changed a model's past, and the model is not made again.",
    "rebuild.done": "A model was made again, and its learner does not use it.",
    "snapshot.chunk": "The first chunk of a snapshot is delivered, and the others are not.",
    "snapshot.manifest": "All chunks of a snapshot are delivered, and its manifest is not.",
    "snapshot.published": "A snapshot is complete, and what it holds is not acknowledged.",
    "snapshot.forgotten": "Old snapshots are half deleted.",
    "replica.opened": "A predictor loaded the snapshots, and has not folded what came after.",
    "replica.taken": "A predictor loaded the learner's snapshot in place of its own model, and does not serve it.",
}
"""Every point, and what is done and what is not when it is passed."""
ACTIONS = ("kill", "delay", "raise", "full")
ALWAYS = 0


class Armed(NamedTuple):
    """What is to happen at a point.

    Attributes:
        point: Its name.
        action: One of ``ACTIONS``.
        seconds: How long a delay takes.
        nth: The how-manieth time; ``ALWAYS``: every time.
    """

    point: str
    action: str
    seconds: float = 0.0
    nth: int = 1

    def __str__(self) -> str:
        action = f"delay:{self.seconds:g}" if self.action == "delay" else self.action
        return f"{self.point}={action}@{self.nth or '*'}"


def parse(text: str) -> tuple[Armed, ...]:
    """Reads what is to happen.

    >>> [str(armed) for armed in parse("commit.prepared=kill@3; rebalance.sought=delay:0.4")]
    ['commit.prepared=kill@3', 'rebalance.sought=delay:0.4@1']

    Raises:
        ValueError: There is no such point or action.
    """
    return tuple(_parsed(part.strip()) for part in text.split(";") if part.strip())


def _parsed(text: str) -> Armed:
    told, _, nth = text.partition("@")
    point, _, what = told.partition("=")
    action, _, seconds = what.partition(":")
    armed = Armed(point, action, float(seconds or 0), ALWAYS if nth == "*" else int(nth or 1))
    if point not in POINTS or action not in ACTIONS or (action == "delay") != (armed.seconds > 0):
        raise ValueError(text)
    return armed


_armed: dict[str, list[Armed]] = {}
_passed: dict[str, int] = {}


def arm(wanted: Iterable[Armed]) -> None:
    """Turns points on, for the rest of the process's life; those that were on are off."""
    _armed.clear()
    _passed.clear()
    for armed in wanted:
        _armed.setdefault(armed.point, []).append(armed)
    if _armed:
        log.warning(
            "failpoints are on: %s", "; ".join(str(a) for of in _armed.values() for a in of)
        )


def is_armed(point: str) -> bool:
    """Whether a step has to be cut in two for a point to lie in it."""
    return point in _armed


def failpoint(point: str) -> None:
    """Does what a test wants to happen here; nothing otherwise.

    Raises:
        Unavailable: The step is to fail.
        OSError: The disk is to be full.
    """
    if _armed:
        time.sleep(_act(point))


async def failpoint_in_loop(point: str) -> None:
    """The same on the event loop, which goes on while this one is delayed."""
    if _armed and (seconds := _act(point)):
        await asyncio.sleep(seconds)


def _act(point: str) -> float:
    wanted = _armed.get(point)
    if wanted is None:
        return 0.0
    passed = _passed[point] = _passed.get(point, 0) + 1
    seconds = 0.0
    for armed in wanted:
        if armed.nth not in (passed, ALWAYS):
            continue
        if armed.nth or passed == 1:
            log.warning("failpoint %s", armed)
        if armed.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if armed.action == "raise":
            message = f"failpoint {armed}"
            raise Unavailable(message)
        if armed.action == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        seconds += armed.seconds
    return seconds
