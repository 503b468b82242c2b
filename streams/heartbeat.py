"""The heartbeat of a desk, which has none of a role's worker: how it is, for ``counterpoint status``.

It holds up nothing, and nobody waits for it: while Kafka is away the desk itself tells so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaException
from sqlalchemy.exc import SQLAlchemyError

from streams.bootstrap import Parts
from streams.core.errors import StreamsError
from streams.desk.board import Health

EVERY_S, DELIVERY_S, STOP_S = 1.0, 5.0, 3.0


@contextmanager
def beating(
    connect: Callable[[], Parts], role: str, worker: str, health: Callable[[], Health]
) -> Iterator[None]:
    """Meanwhile, tells every second how a desk is.

    Args:
        connect: Makes what it is told by, anew after a failure: a producer may not get over an outage.
    """
    ending = threading.Event()
    thread = threading.Thread(
        target=_run, args=(connect, role, worker, health, ending), name="desk-heart", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(STOP_S)


def _run(
    connect: Callable[[], Parts],
    role: str,
    worker: str,
    health: Callable[[], Health],
    ending: threading.Event,
) -> None:
    while not ending.is_set():
        try:
            parts = connect()
            heart = parts.heart(role, worker)
            while not ending.wait(EVERY_S):
                told = health()
                numbers = {"behind": told.behind, "skipped": told.skipped}
                heart.beat(
                    "running" if told.ready else "starting",
                    {},  # what it has read is nobody's work
                    numbers={**numbers, "undelivered": told.undelivered},
                    notes=[] if told.trouble is None else [told.trouble],
                )
                parts.reports.flush(DELIVERY_S)
            heart.stop({})
        except (StreamsError, KafkaException, SQLAlchemyError):
            ending.wait(EVERY_S)
