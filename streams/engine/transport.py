"""A Faust transport that hands agents whole batches of raw records of one partition.

Faust keeps what it is good at: the application, consumer groups, co-partitioned assignment, commits, lifecycle.  Its
drain loop makes four asyncio tasks per record; this one makes none, and acknowledges a batch with one integer.

    async for batch in stream:
        if not batch.stale:
            ...                     # process batch.records; no await from here to the ack
            batch.ack()             # committed only after the role's outputs are delivered

Four rules keep a rebalance from losing records; each was once broken and lost some:

1. Records carry the *epoch* (count of assignments and seeks) that was in force when the consumer thread took them.
2. Whatever is dropped causes a seek: the fetcher's position is past it, nobody else would read it again.
3. A seek is asked for again if something is dropped *while* it runs: its flag is cleared before it, the epoch raised after it.
4. What comes while a seek is due is dropped, and a seek during which the epoch changed sets nothing.

With transactions a commit can also be *taken back*: then the role forgets all that was not committed, as if its partitions
had been revoked, and takes up its work again where the group's offsets are.  That is where the fourth rule was broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from faust.tables.recovery import RebalanceAgain
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.core.errors import StreamsError, Unavailable
from streams.engine.transactions import Member, Place, Transactions
from streams.failpoints import failpoint_in_loop, is_armed

Offsets = Mapping[TP, int]
OUTLIVES_S = 10.0  # for a failpoint: no rebalance takes as long
LOOK_EVERY_S = 1.0
"""How often it is looked whether a transaction hangs."""
NOTES_S = 30.0
"""Offsets have just been read when their notes are: the broker is there."""
FEW = 100
"""After fewer records than this, a fetcher that may rest does: a record that is fetched alone costs what twenty do."""
T = TypeVar("T")


class Checkpoint(Protocol):
    """What a role does around a commit, in this order; a failed step stops the worker with nothing committed."""

    def capture(self, processed: dict[TP, int]) -> dict[TP, int]:
        """Freezes the state that stands for ``processed`` and gives the offsets to commit: these, or earlier ones.

        Called on the event loop between two batches, so that state and offsets are of one moment.
        """

    @property
    def notes_always(self) -> bool:
        """Whether its notes are committed with the offsets without transactions, too."""

    def notes(self) -> Mapping[TP, str]:
        """What is to be committed along with the offsets just captured.  On the event loop."""

    def prepare(self) -> None:
        """Stores what was captured, and delivers all outputs.  Runs in a thread."""

    def committed(self, offsets: dict[TP, int]) -> None:
        """The offsets are committed.  Runs in a thread."""

    def starts(self, committed: Offsets) -> dict[TP, int]:
        """Where reading starts, for partitions where that is not the committed offset."""


class Owner(Protocol):
    """Who has the role in hand, when a transaction was taken back or the consumer cannot go on."""

    def lose(self) -> None:
        """Forgets what was not committed."""

    async def restore(self) -> None:
        """Makes the role stand for what is committed, and the consumer know of it; does so once.

        Raises:
            RebalanceAgain: It will be done by the assignment that follows.
        """

    async def fail(self, error: BaseException) -> None:
        """Ends the worker with this error, whatever hangs."""


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
    positions: Mapping[Any, int] = {}


class _FetchThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust asks for it with its own transactions only; it costs nothing where nobody has any.
        consumer._isolation_level = "read_committed"
        if self.consumer.transport.checkpoint.notes_always:
            # Faust commits every offset with an empty note.
            consumer.commit = partial(self._commit_noted, consumer.commit)
        return consumer

    async def _commit_noted(self, commit: Callable[[Any], Awaitable[None]], offsets: Any) -> None:
        notes = self.consumer.notes
        await commit({tp: (at.offset, notes.get(TP(*tp), "")) for tp, at in offsets.items()})

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> Any:
        if is_armed("rebalance.fetching"):
            await failpoint_in_loop("rebalance.fetching")
            kwargs["timeout"] = OUTLIVES_S
        records = _Fetched(await super()._fetch_records(*args, **kwargs) or {})
        # No await since the records were taken: this names the assignment that they belong to.
        records.epoch = self.consumer.epoch
        records.positions = self._positions()
        await failpoint_in_loop("rebalance.fetched")
        return records

    def _positions(self) -> dict[Any, int]:
        """Where the next fetch begins: past the marks that end transactions, and what was aborted."""
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        if assignment is None:
            return {}
        states = {tp: assignment.state_value(tp) for tp in assignment.tps}
        return {tp: state.position for tp, state in states.items() if state.has_valid_position}


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
        self._passed: dict[TP, int] = {}  # no record below is still to come from the fetcher
        self._reseek = False
        self._sought = False  # between a seek and the next loss of partitions or of a transaction
        self._lost = False  # the role is to be restored before the seek
        self._member = Member("")
        self._notes: dict[TP, str] = {}
        self.notes: Mapping[TP, str] = {}  # what is being committed beside the offsets
        self.committed: dict[TP, int] = {}  # what the group has for certain

    async def notes_beside(self, offsets: Mapping[TP, int | None]) -> dict[TP, str]:
        """The notes that were committed with these offsets of the group.

        Not by librdkafka, which may read them past their ends (its issue 4649).

        Raises:
            Unavailable: The group is somewhere else by now, or is not told.
        """
        coordinator = self._thread._ensure_consumer()._coordinator
        wanted = [TopicPartition(*tp) for tp in offsets]
        try:
            asking = self._thread.call_thread(coordinator.fetch_committed_offsets, wanted)
            found = await asyncio.wait_for(asking, NOTES_S)
        except (KafkaError, TimeoutError) as error:
            message = f"the notes beside the group's offsets cannot be read: {error!r}"
            raise Unavailable(message) from error
        committed = {TP(*tp): at for tp, at in found.items() if at.offset >= 0}
        if {tp: at.offset for tp, at in committed.items()} != {
            tp: offset for tp, offset in offsets.items() if offset is not None
        }:
            raise Unavailable("the group's offsets moved while they were read: start again")
        # In a transaction confluent-kafka writes a note with the zero that ends it in C.
        return {tp: at.metadata.removesuffix("\0") for tp, at in committed.items()}

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leaves out what Faust does to find stuck streams: it dies of a partition that is being sought."""

    def _new_consumer_thread(self) -> _FetchThread:
        return _FetchThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                records = await self._next_records()
                if records is not None:
                    self._take(records)
                few = records is not None and sum(map(len, records.values())) < FEW
                await asyncio.sleep(self.transport.rest_s if few else 0)
        except (*self.consumer_stopped_errors, asyncio.CancelledError):
            if not self.app.should_stop:
                raise

    def _take(self, records: _Fetched) -> None:
        # A fetch that outlived a transaction has the epoch after it, and the position before it: nothing counts that
        # comes while a seek is due.
        if self._reseek or not self.flow_active or records.epoch != self.epoch:
            self._reseek = self._reseek or bool(records)
            return
        for tp, of_tp in records.items():
            self._deliver(ensure_TP(tp), of_tp, records.epoch)
        self._passed.update({ensure_TP(tp): n for tp, n in records.positions.items()})

    async def _next_records(self) -> Any:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        if self._reseek:
            try:
                if self._lost:
                    await self.transport.owner.restore()
                    self._lost = False
                await self.perform_seek()
            except (*self.consumer_stopped_errors, RebalanceAgain, OSError, TimeoutError) as error:
                self.log.warning("seek failed, the next resume seeks again: %r", error)
                await asyncio.sleep(0.1)
                return None
            if self._reseek:
                return None
        active = {ensure_TP(tp) for tp in self._get_active_partitions()}
        limit = self.transport.max_queued
        ready = {tp for tp in active if self._queued.get(tp, 0) < limit}
        transactions = self.transport.transactions
        if not ready or (transactions is not None and transactions.is_crowded):
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
        done = {tp: self._done[tp] for tp in self.assignment() if tp in self._done}
        for tp, position in self._passed.items():
            if not self._queued.get(tp) and position > done.get(tp, 0):
                done[tp] = position
        return done

    async def _commit_tps(self, tps: Any, start_new_transaction: bool) -> bool:
        if not self._sought:
            return False
        if self.transport.transactions is not None:
            return await self._commit_transaction(self.transport.transactions)
        processed = self.processed()
        if not processed:
            return False
        checkpoint, loop = self.transport.checkpoint, asyncio.get_running_loop()
        offsets = checkpoint.capture(processed)
        if checkpoint.notes_always:  # no await since the capture: they are of the same moment
            self.notes = checkpoint.notes()
        await failpoint_in_loop("commit.captured")
        await loop.run_in_executor(None, checkpoint.prepare)  # raises: then nothing is committed
        await failpoint_in_loop("commit.prepared")
        changed = {tp: o for tp, o in offsets.items() if o > self.committed.get(tp, 0)}
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

    async def _commit_transaction(self, transactions: Transactions) -> bool:
        checkpoint, loop = self.transport.checkpoint, asyncio.get_running_loop()
        captured, notes = checkpoint.capture(self.processed()), checkpoint.notes()
        transactions.hold()  # no await since the capture: what was sent is what these offsets stand for
        # All of them, also where nothing moved: they are what makes the broker ask whose the partitions are.
        offsets = {tp: max(offset, self.committed.get(tp, 0)) for tp, offset in captured.items()}
        places = {tp: Place(offset, notes.get(tp, "")) for tp, offset in offsets.items()}
        news = any(
            at != Place(self.committed.get(tp, 0), self._notes.get(tp, ""))
            for tp, at in places.items()
        )
        sought, self._sought = self._sought, False  # if this is cut off, nobody may commit after it
        await failpoint_in_loop("commit.captured")
        is_committed = await _watched(
            transactions,
            lambda: transactions.commit(checkpoint.prepare, places, self._member, news=news),
        )
        if not is_committed:
            self._take_back(transactions)
            return False
        await failpoint_in_loop("commit.committed")
        self._sought = sought
        self.committed.update(offsets)
        self._notes.update(notes)
        transactions.release()
        await loop.run_in_executor(None, checkpoint.committed, captured)
        await failpoint_in_loop("commit.applied")
        return news

    def _take_back(self, transactions: Transactions) -> None:
        self._forget()
        self._sought = False
        self._lost = self._reseek = True
        transactions.drop()
        self.transport.owner.lose()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Notes as which member of the group they are ours: after a kick-out aiokafka does not know it any more."""
        conf, coordinator = self.app.conf, self._thread._ensure_consumer()._coordinator
        instance = conf.consumer_group_instance_id
        self._member = Member(conf.id, generation_id, coordinator.member_id, instance)
        # A seek that began before them stands for nothing: this member could commit what was read before.
        self._sought = False
        self._forget()
        await super().on_partitions_assigned(assigned, generation_id)

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
        self._sought = self._lost = False
        self._forget()
        transactions = self.transport.transactions
        if transactions is not None:
            await self._abort_rest(transactions)
        await super().on_partitions_revoked(revoked)
        if transactions is not None:
            transactions.drop()  # the role has forgotten what it was made from

    async def _abort_rest(self, transactions: Transactions) -> None:
        transactions.hold()
        try:
            await _watched(transactions, transactions.abort)
        except StreamsError as error:
            await self.crash(error)

    async def crash(self, reason: BaseException) -> None:
        """Has the worker end within its deadline: a stop that Faust begins by itself was seen to hang for ever."""
        await super().crash(reason)
        await self.transport.owner.fail(reason)

    def _forget(self) -> None:
        self.epoch += 1
        self._passed.clear()
        self._next.clear()
        self._waiting.clear()
        self._done.clear()
        self._queued.clear()

    async def perform_seek(self) -> None:
        """Seeks every partition to where the role is: what it has processed, its state stands for, or was committed."""
        self._reseek = False
        self.epoch += 1  # what is queued will come again, so that the role stays where it is
        epoch = self.epoch
        try:
            starts = await self._seek()
            await failpoint_in_loop("rebalance.sought")
        except BaseException:
            self._reseek = True
            raise
        # Partitions went, or a transaction: these starts stand for nothing any more.
        if self.epoch != epoch:
            self._reseek = True
            return
        self._forget()
        self._next.update(starts)
        self._done.update(starts)
        self._sought = True

    async def _seek(self) -> dict[TP, int]:
        # Not to what aiokafka reads as committed: it does not wait for what a transaction is about to commit.
        assigned = {TP(*tp) for tp in self.assignment()}
        if not assigned <= self.committed.keys():  # nobody has yet looked where the group is
            raise RebalanceAgain
        committed = {tp: self.committed[tp] for tp in assigned}
        self._committed_offset.update(committed)
        # aiokafka does not seek a partition without a commit: its position would stay past what was dropped.
        fresh = [TopicPartition(*tp) for tp, offset in committed.items() if not offset]
        if fresh:
            await self._thread.seek_to_beginning(*fresh)
        starts = {tp: o for tp, o in committed.items() if o}
        starts.update(self.transport.checkpoint.starts(committed))
        starts.update({tp: end for tp, end in self._done.items() if tp in committed})
        if starts:
            await self._thread.seek_wait({TopicPartition(*tp): o for tp, o in starts.items()})
        return starts


async def _watched(transactions: Transactions, call: Callable[[], T]) -> T:
    """Runs a call of the transactions in a thread.

    Raises:
        Unavailable: It hangs, and so does its thread.
    """
    calling = asyncio.get_running_loop().run_in_executor(None, call)
    while not calling.done():
        await asyncio.wait({calling}, timeout=LOOK_EVERY_S)
        if transactions.is_stuck:
            message = "a transaction hangs, and will for ever: start this worker again"
            raise Unavailable(message)
    return calling.result()


class BatchTransport(driver.Transport):
    """See the module.

    Args:
        url: The broker's.
        app: The Faust application.
        checkpoint: What the role does around a commit.
        owner: Who has the role in hand.
        transactions: What the role's outputs go through, if readers are to see each exactly once.
        max_batch: Records per batch: bounds how long the event loop is held.
        max_queued: Records of a partition that may wait for the agent; beyond, it is not fetched.
        rest_s: How long nothing is fetched after few records came.
    """

    Consumer = BatchConsumer

    def __init__(
        self,
        url: Any,
        app: Any,
        *,
        checkpoint: Checkpoint,
        owner: Owner,
        transactions: Transactions | None = None,
        max_batch: int = 1000,
        max_queued: int = 20_000,
        rest_s: float = 0.0,
    ) -> None:
        super().__init__(url, app)
        self.checkpoint, self.owner, self.transactions = checkpoint, owner, transactions
        self.max_batch, self.max_queued, self.rest_s = max_batch, max_queued, rest_s
