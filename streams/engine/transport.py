"""A Faust transport that hands agents whole batches of raw records of one partition.

Faust keeps what it is good at: the application, consumer groups, co-partitioned assignment, commits, lifecycle.  Its
drain loop makes four asyncio tasks per record; this one makes none, and acknowledges a batch with one integer.

    async for batch in stream:
        if not batch.stale:
            ...                     # process batch.records; no await from here to the ack
            batch.ack()             # committed only after the role's outputs are delivered

Three rules keep a rebalance from losing records; each was once broken and lost some:

1. Records carry the *epoch* (count of assignments and seeks) that was in force when the consumer thread took them.
2. Whatever is dropped causes a seek: the fetcher's position is past it, nobody else would read it again.
3. A seek is asked for again if something is dropped *while* it runs: its flag is cleared before it, the epoch raised after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any, Protocol

from aiokafka import TopicPartition
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.core.errors import StreamsError
from streams.failpoints import failpoint_in_loop, is_armed

Offsets = Mapping[TP, int]
OUTLIVES_S = 10.0  # for a failpoint: no rebalance takes as long


class Checkpoint(Protocol):
    """What a role does around a commit, in this order; a failed step stops the worker with nothing committed."""

    def capture(self, processed: dict[TP, int]) -> dict[TP, int]:
        """Freezes the state that stands for ``processed`` and gives the offsets to commit: these, or earlier ones.

        Called on the event loop between two batches, so that state and offsets are of one moment.
        """

    def prepare(self) -> None:
        """Stores what was captured, and delivers all outputs.  Runs in a thread."""

    def committed(self, offsets: dict[TP, int]) -> None:
        """The offsets are committed.  Runs in a thread."""

    def starts(self, committed: Offsets) -> dict[TP, int]:
        """Where reading starts, for partitions where that is not the committed offset."""


class Batch:
    """Records of one partition; [begin, end) are offsets, holes (compaction, aborted transactions) included."""

    __slots__ = ("_consumer", "begin", "end", "epoch", "records", "tp")

    def __init__(
        self, tp: TP, records: list[Any], begin: int, epoch: int, consumer: BatchConsumer
    ) -> None:
        self.tp, self.records, self.begin, self.end = tp, records, begin, records[-1].offset + 1
        self.epoch, self._consumer = epoch, consumer

    @property
    def stale(self) -> bool:
        """Whether the partition was moved or sought since the records were taken: they will come again."""
        return self.epoch != self._consumer.epoch or not self._consumer.flow_active

    def extend(self, records: list[Any]) -> None:
        """Takes more records in, as long as nobody has processed it."""
        self.records += records
        self.end = records[-1].offset + 1

    def ack(self) -> None:
        """Marks the batch as processed.

        Raises:
            RuntimeError: An earlier batch of the partition was not acknowledged.
        """
        self._consumer.ack(self)


class _Fetched(dict[Any, Any]):
    epoch = -1


class _FetchThread(driver.AIOKafkaConsumerThread):
    async def _fetch_records(self, *args: Any, **kwargs: Any) -> Any:
        if is_armed("rebalance.fetching"):
            await failpoint_in_loop("rebalance.fetching")
            kwargs["timeout"] = OUTLIVES_S
        records = _Fetched(await super()._fetch_records(*args, **kwargs) or {})
        # No await since the records were taken: this names the assignment that they belong to.
        records.epoch = self.consumer.epoch
        await failpoint_in_loop("rebalance.fetched")
        return records


class BatchConsumer(driver.Consumer):
    """The consumer of :class:`BatchTransport`."""

    epoch = 0

    def on_init(self) -> None:
        """Starts with nothing read (Faust's constructor hook)."""
        super().on_init()
        self._next: dict[TP, int] = {}  # next offset to hand to the agent
        self._done: dict[TP, int] = {}  # everything below is acknowledged, in order
        self._queued: dict[TP, int] = {}  # records handed out and not yet acknowledged
        self._waiting: dict[TP, Batch] = {}  # the last one handed out, until it is acknowledged
        self._reseek = False
        self.committed: dict[TP, int] = {}  # what the group has for certain

    def _new_consumer_thread(self) -> _FetchThread:
        return _FetchThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                records = await self._next_records()
                for tp, of_tp in (records or {}).items():
                    if not self.flow_active or records.epoch != self.epoch:
                        self._reseek = True
                        break
                    self._deliver(ensure_TP(tp), of_tp, records.epoch)
                await asyncio.sleep(0)
        except (*self.consumer_stopped_errors, asyncio.CancelledError):
            if not self.app.should_stop:
                raise

    async def _next_records(self) -> Any:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        if self._reseek:
            try:
                await self.perform_seek()
            except (*self.consumer_stopped_errors, OSError, TimeoutError) as error:
                self.log.warning("seek failed, the next resume seeks again: %r", error)
                await asyncio.sleep(0.1)
                return None
        active = {ensure_TP(tp) for tp in self._get_active_partitions()}
        limit = self.transport.max_queued
        ready = {tp for tp in active if self._queued.get(tp, 0) < limit}
        if not ready:
            await asyncio.sleep(0.002 if active else 0.1)
            return None
        return await self._getmany(
            active_partitions=ready, timeout=0.02 if ready != active else 0.5
        )

    def _deliver(self, tp: TP, records: list[Any], epoch: int) -> None:
        begin = self._next.get(tp, records[0].offset)
        if records[0].offset < begin:
            records = [record for record in records if record.offset >= begin]
            if not records:
                return
        self._done.setdefault(tp, begin)
        self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
        self.app.monitor.stream_inbound_time[tp] = monotonic()  # or the livelock detector complains
        self._queued[tp] = self._queued.get(tp, 0) + len(records)
        self._next[tp] = records[-1].offset + 1
        size = self.transport.max_batch
        # A slow agent is not to find many small batches: each costs it what a large one does.
        waiting = self._waiting.get(tp)
        if waiting is not None and (room := size - len(waiting.records)) > 0:
            waiting.extend(records[:room])
            begin, records = waiting.end, records[room:]
        for i in range(0, len(records), size):
            batch = self._waiting[tp] = Batch(tp, records[i : i + size], begin, epoch, self)
            begin = batch.end
            for channel in self.app.topics._tp_index.get(tp, ()):
                channel.queue.force_put_nowait(batch)  # bounded by max_queued

    def ack(self, batch: Batch) -> None:
        """Marks a batch as processed, unless its partition was moved or sought since."""
        tp = batch.tp
        if batch.epoch != self.epoch:
            return
        if self._done.get(tp) != batch.begin:
            message = f"{tp}: {batch.begin} acknowledged before {self._done.get(tp)}"
            raise RuntimeError(message)
        if self._waiting.get(tp) is batch:
            del self._waiting[tp]
        self._done[tp] = batch.end
        self._queued[tp] -= len(batch.records)

    def processed(self) -> dict[TP, int]:
        """Next offset to process, of each partition that is assigned and was sought."""
        assigned = self.assignment()
        return {tp: end for tp, end in self._done.items() if tp in assigned}

    async def _commit_tps(self, tps: Any, start_new_transaction: bool) -> bool:
        processed = self.processed()
        if not processed:
            return False
        checkpoint, loop = self.transport.checkpoint, asyncio.get_running_loop()
        offsets = checkpoint.capture(processed)
        await failpoint_in_loop("commit.captured")
        await loop.run_in_executor(None, checkpoint.prepare)  # raises: then nothing is committed
        await failpoint_in_loop("commit.prepared")
        changed = {tp: o for tp, o in offsets.items() if o > (self._committed_offset[tp] or 0)}
        if is_armed("commit.half"):
            await self._commit_half(changed, start_new_transaction)
        if changed and not await self._commit_offsets(changed, start_new_transaction):
            return False
        await failpoint_in_loop("commit.committed")
        self.committed.update(changed)
        await loop.run_in_executor(None, checkpoint.committed, offsets)
        await failpoint_in_loop("commit.applied")
        return bool(changed)

    async def _commit_half(self, changed: dict[TP, int], start_new_transaction: bool) -> None:
        """For a failpoint: Kafka stores what one request commits together, or not at all, so that it takes two."""
        first = min((tp.topic for tp in changed), default="")
        half = {tp: offset for tp, offset in changed.items() if tp.topic == first}
        if half and len(half) < len(changed):
            await self._commit_offsets(half, start_new_transaction)
            await failpoint_in_loop("commit.half")

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Commits what is done, before Faust drops its acknowledgements and would replay it."""
        self.stop_flow()
        self.app.flow_control.suspend()
        try:
            await self.commit()  # waits for a commit under way, and then does nothing ...
            await self.commit()  # ... hence twice
        except StreamsError as error:
            await self.crash(error)
        await failpoint_in_loop("rebalance.revoked")
        self._forget()
        await super().on_partitions_revoked(revoked)

    def _forget(self) -> None:
        self.epoch += 1
        self._next.clear()
        self._waiting.clear()
        self._done.clear()
        self._queued.clear()

    async def perform_seek(self) -> None:
        """Seeks every partition to where the role wants it: its committed offset, or what its state stands for."""
        self._reseek = False
        try:
            starts = await self._seek()
            await failpoint_in_loop("rebalance.sought")
        except BaseException:
            self._reseek = True
            raise
        self._forget()
        self._next.update(starts)
        self._done.update(starts)

    async def _seek(self) -> dict[TP, int]:
        await super().perform_seek()
        committed = {tp: self._committed_offset.get(tp) or 0 for tp in self.assignment()}
        self.committed = committed
        # aiokafka does not seek a partition without a commit: its position would stay past what was dropped
        fresh = [TopicPartition(*tp) for tp, offset in committed.items() if not offset]
        if fresh:
            await self._thread.seek_to_beginning(*fresh)
        starts = self.transport.checkpoint.starts(committed)
        if starts:
            await self._thread.seek_wait({TopicPartition(*tp): o for tp, o in starts.items()})
        return {tp: o for tp, o in {**committed, **starts}.items() if o}


class BatchTransport(driver.Transport):
    """See the module.

    Args:
        url: The broker's.
        app: The Faust application.
        checkpoint: What the role does around a commit.
        max_batch: Records per batch: bounds how long the event loop is held.
        max_queued: Records of a partition that may wait for the agent; beyond, it is not fetched.
    """

    Consumer = BatchConsumer

    def __init__(
        self,
        url: Any,
        app: Any,
        *,
        checkpoint: Checkpoint,
        max_batch: int = 1000,
        max_queued: int = 20_000,
    ) -> None:
        super().__init__(url, app)
        self.checkpoint, self.max_batch, self.max_queued = checkpoint, max_batch, max_queued
