"""Copies of the joiner's partitions that other workers own, kept warm: who takes one over has next to nothing to read.

A copy never goes beyond what the group has committed.  Its owner had delivered all outputs of that, so nothing the copy
passes over in silence is lost; beyond it, it would be: a copy that is ahead is gone on from.  Apart from that it is a
state as any other, on this worker's disk, and taken over as such: what lies between it and the committed offsets is read.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from confluent_kafka import Consumer, TopicPartition

from streams.core.errors import StreamsError
from streams.engine.partition import Emit, Output, PartitionJoin
from streams.engine.reader import chunks_to_end, group_less, patiently, watermarks
from streams.engine.records import by_partition

log = logging.getLogger("counterpoint.standby")

EVERY_S = 1.0
Offsets = Mapping[str, int | None]


class OpenPartition(Protocol):
    """Opens the join of a partition."""

    def __call__(self, partition: int, emit: Emit) -> PartitionJoin: ...


class Standby:
    """See the module.  A thread follows; ``hold`` may be called from any other, one at a time.

    Args:
        topics: Predictions and feedback.
        partitions: How many partitions each of them has.
        group: The joiners' group; it is asked for its offsets, and not joined.
        kafka: Connection settings, in librdkafka's names.
    """

    def __init__(
        self,
        *,
        topics: tuple[str, str],
        partitions: int,
        open_partition: OpenPartition,
        group: str,
        kafka: Mapping[str, Any],
    ) -> None:
        self._topics, self._open, self._kafka = topics, open_partition, kafka
        self._others = set[int]()
        self._all = frozenset(range(partitions))
        self._copies: dict[int, PartitionJoin] = {}
        self._following = threading.Lock()
        self._pause, self._end = threading.Event(), threading.Event()
        self._offsets = Consumer({**kafka, "group.id": group})  # never subscribes
        self._reader = group_less(kafka)
        self._behind = 0
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="standby", daemon=True)

    def hold(self, mine: Collection[int]) -> None:
        """Lets go of these partitions, which this worker owns from now on, and follows all others."""
        self._pause.set()
        with self._following:
            self._pause.clear()
            self._others = set(self._all.difference(mine))
            for partition in self._copies.keys() - self._others:
                self._copies.pop(partition).state.close()
        if self._thread.ident is None:
            self._thread.start()

    def numbers(self) -> dict[str, float]:
        """How many copies there are, and how many records they lacked when last looked."""
        return {"copies": len(self._copies), "copies_behind": self._behind}

    def close(self) -> None:
        """Stops following, and closes the copies."""
        self._pause.set()
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()
        for copied in self._copies.values():
            copied.state.close()
        self._copies.clear()
        self._offsets.close()
        self._reader.close()

    def _run(self) -> None:
        while not self._end.is_set():
            with self._following:
                try:
                    self._follow()
                    self._trouble = ""
                except StreamsError as error:  # the owner meets it too, and says what to do
                    if str(error) != self._trouble:
                        log.warning("the copies are not followed: %s", error)
                    self._trouble = str(error)
            self._end.wait(EVERY_S)

    def _follow(self) -> None:
        committed = self._committed()
        missing = {p: self._missing(p, offsets) for p, offsets in committed.items()}
        self._behind = sum(len(r) for of in missing.values() for r in of.values())
        starts: dict[str, Mapping[int, int] | None] = {}
        ends: dict[str, Mapping[int, int] | None] = {}
        for topic in self._topics:
            wanted = {p: of[topic] for p, of in missing.items() if of[topic]}
            if wanted:
                starts[topic] = {p: of.start for p, of in wanted.items()}
                ends[topic] = {p: of.stop for p, of in wanted.items()}
        if not starts:
            return
        for chunk in chunks_to_end(self._kafka, starts, ends, self._pause.is_set):
            for (topic, partition), records in by_partition(chunk).items():
                self._copies[partition].catch_up(topic, records)
            self._behind -= len(chunk)

    def _committed(self) -> dict[int, Offsets]:
        asked = [TopicPartition(topic, p) for topic in self._topics for p in self._others]
        if not asked:
            return {}
        found = patiently(
            lambda left_s: self._offsets.committed(asked, timeout=left_s), "offsets of the joiners"
        )
        told: dict[int, dict[str, int | None]] = {p: {} for p in self._others}
        for each in found:
            told[each.partition][each.topic] = each.offset if each.offset >= 0 else None
        return {p: offsets for p, offsets in told.items() if None not in offsets.values()}

    def _missing(self, partition: int, committed: Offsets) -> dict[str, range]:
        copied = self._copies.get(partition)
        if copied is None:
            starts = {t: watermarks(self._reader, t, partition)[0] for t in self._topics}
            copied = self._open(partition, _drop)
            try:
                missing = copied.state.recover(committed, starts)
            except StreamsError:
                copied.state.close()
                raise
            self._copies[partition] = copied
            return missing
        places = copied.state.places
        return {topic: range(places[topic].offset, end or 0) for topic, end in committed.items()}


def _drop(output: Output) -> None:
    """Takes an output that the owner has delivered."""
