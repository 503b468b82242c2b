"""Runs one role as one process: a Faust application on the batch transport, from start-up checks to a clean stop.

It knows Faust and nothing of what a role does; a role knows neither Faust nor asyncio.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import faust
from confluent_kafka import Consumer, KafkaException, TopicPartition
from faust.tables.recovery import RebalanceAgain
from faust.types import TP
from yarl import URL

from streams.core.errors import ConfigError, StreamsError, Unavailable
from streams.engine.places import Places
from streams.engine.reader import patiently
from streams.engine.status import Progress
from streams.engine.transactions import Member, Transactions, check_format
from streams.engine.transport import Batch, BatchTransport
from streams.failpoints import failpoint

log = logging.getLogger("counterpoint.worker")

START_DEADLINE_S = 20
STOP_DEADLINE_S = 4.8
COMMITTED_S = 60.0
SETTLED_S = 5.0
"""Offsets that a transaction is about to commit are told when it is over: of a dead process, when it times out."""


class Role:
    """What a worker runs.  All calls come from the event loop, one at a time, unless they say otherwise."""

    name: ClassVar[str]
    copartitioned: ClassVar[bool] = False  # its topics are joined partition by partition
    finds_its_place: ClassVar[bool] = (
        False  # it starts where its state says, whatever the group's offsets are
    )
    notes_always: ClassVar[bool] = False  # what it notes is committed without transactions, too
    max_batch: ClassVar[int] = 1_000
    # Where roles share processors, a burst of verdicts is not to hold up predicting: who learns yields, and fetches less often.
    niceness: ClassVar[int] = 0
    rest_s: ClassVar[float] = 0.0

    topics: tuple[str, ...]

    def open(self) -> None:
        """Gets ready to be assigned partitions; may take its time.  Before the event loop runs."""

    def noted(self, notes: Mapping[TP, str]) -> None:
        """Is told, before ``assigned``, what was committed along with the offsets.  Runs in a thread."""

    def assigned(self, committed: Mapping[TP, int | None], abort: threading.Event) -> None:
        """Makes the state of exactly these partitions stand for their committed offsets.  Runs in a thread."""

    def revoked(self) -> None:
        """Lets go of everything that was not committed."""

    def handle(self, batch: Batch) -> None:
        """Processes a batch.  Unavailable: it will be called again with the same batch."""

    def tick(self) -> float:
        """Does what is due and gives the seconds until it wants to be called again."""
        return 1.0

    def capture(self, processed: dict[TP, int]) -> dict[TP, int]:
        """See :class:`streams.engine.transport.Checkpoint`."""
        return processed

    def notes(self) -> Mapping[TP, str]:
        """See :class:`streams.engine.transport.Checkpoint`."""
        return {}

    def prepare(self) -> None:
        """See :class:`streams.engine.transport.Checkpoint`."""

    def committed(self, offsets: dict[TP, int]) -> None:
        """See :class:`streams.engine.transport.Checkpoint`."""

    def starts(self, committed: Mapping[TP, int]) -> dict[TP, int]:
        """See :class:`streams.engine.transport.Checkpoint`."""
        return {}

    def beat(self, state: str, progress: Mapping[TP, Progress]) -> None:
        """Tells the world how it is.  May block briefly; in a thread."""

    def close(self, progress: Mapping[TP, Progress]) -> None:
        """Lets go of everything, and says goodbye with what it had reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a worker takes part in its group."""

    group: str
    bootstrap: str
    folder: Path  # for what Faust keeps of itself
    kafka: Mapping[str, Any]  # librdkafka's names
    credentials: Any = None  # Faust's
    instance_id: str | None = None
    commit_interval_s: float = 1.0
    session_timeout_s: float = 10.0
    max_poll_interval_s: float = 1800.0  # longer than the longest catch-up
    transactions: Transactions | None = None  # what the role's outputs go through, if through any
    extra: Mapping[str, Any] = field(default_factory=dict)


class RoleWorker:
    """One role in one process."""

    def __init__(self, role: Role, options: Options, places: Places | None = None) -> None:
        self._role, self._options, self._places = role, options, places
        self._abort = threading.Event()
        self._failure: BaseException | None = None
        self._ready = False
        self._reached: dict[TP, Progress] = {}
        self._assigning: asyncio.Future[dict[TP, int | None]] | None = None
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.app = self._build()

    def _build(self) -> faust.App:
        options, role = self._options, self._role
        app = faust.App(
            options.group,
            broker=f"kafka://{options.bootstrap}",
            broker_credentials=options.credentials,
            consumer_group_instance_id=options.instance_id,
            consumer_auto_offset_reset="earliest",
            # > 0 selects Faust's co-partitioning assignor, without a table too: else joins lose pairs
            table_standby_replicas=1,
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_enabled=False,
            broker_commit_interval=options.commit_interval_s,
            broker_session_timeout=options.session_timeout_s,
            broker_heartbeat_interval=options.session_timeout_s / 5,
            broker_max_poll_interval=options.max_poll_interval_s,
            consumer_max_fetch_size=128 << 10 if role.copartitioned else 1 << 20,
            stream_wait_empty=False,
            datadir=str(options.folder),
            **options.extra,
        )
        app.transport = BatchTransport(
            [URL(f"kafka://{server}") for server in options.bootstrap.split(",")],
            app,
            checkpoint=role,
            owner=self,
            transactions=options.transactions,
            max_batch=role.max_batch,
            rest_s=role.rest_s,
            max_queued=2_000 if role.copartitioned else 20_000,
        )
        for topic in role.topics:
            channel = app.topic(topic, value_type=bytes, value_serializer="raw")
            app.agent(channel, name=f"{role.name}:{topic}")(self._consume)
        app.on_partitions_revoked.connect(self._on_revoked)
        app.on_rebalance_complete.connect(self._on_assigned)
        app.task(self._tick)
        app.task(self._beat)
        return app

    async def _consume(self, stream: Any) -> None:
        async for batch in stream:
            pause = 0.1
            while not batch.stale:
                try:
                    failpoint("batch.begun")
                    self._role.handle(batch)  # from here to the ack there is no await
                    failpoint("batch.handled")
                    batch.ack()
                except Unavailable as error:
                    log.warning("%s: %s; trying again in %.1f s", batch.tp, error, pause)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 10)
                except StreamsError as error:
                    await self._fail(error)
                    return
                except Exception as error:
                    log.exception("%s at offset %d: not handled", batch.tp, batch.begin)
                    await self._fail(error)
                    return
                else:
                    break
            await asyncio.sleep(0)  # a full queue never suspends: let the others run

    async def _on_revoked(self, app: faust.App, revoked: set[TP], **_: Any) -> None:
        self._abort.set()
        self._ready, self._reached = False, {}
        if self._assigning is not None:  # its thread has the state in hand
            await asyncio.wait([self._assigning])
        self._role.revoked()

    async def _on_assigned(self, app: faust.App, **_: Any) -> None:
        tps = {TP(tp.topic, tp.partition) for tp in app.consumer.assignment()}
        await self._take_up(tps)
        log.info("assigned %s", ", ".join(sorted(f"{tp.topic}-{tp.partition}" for tp in tps)))

    async def _take_up(self, tps: set[TP]) -> None:
        self._abort = abort = threading.Event()
        try:
            self._check_copartitioned(tps)
            loop = asyncio.get_running_loop()
            assigning = asyncio.to_thread(self._assign, tps, abort, loop)
            self._assigning = asyncio.ensure_future(assigning)
            committed = await asyncio.shield(self._assigning)
        except StreamsError as error:
            await self._fail(error)
            raise RebalanceAgain from error  # so that Faust does not resume on half a state
        if abort.is_set():  # the generation is still the old one
            raise RebalanceAgain
        self.app.consumer.committed = {tp: offset or 0 for tp, offset in committed.items()}
        self._ready = True

    def lose(self) -> None:
        """See :class:`streams.engine.transport.Owner`."""
        self._ready = False
        self._role.revoked()

    async def restore(self) -> None:
        """See :class:`streams.engine.transport.Owner`."""
        await self._take_up({TP(tp.topic, tp.partition) for tp in self.app.consumer.assignment()})
        log.info("took up again where the group is")

    async def fail(self, error: BaseException) -> None:
        """See :class:`streams.engine.transport.Owner`."""
        log.error("%s", error)
        await self._fail(error)

    def _assign(
        self, tps: set[TP], abort: threading.Event, loop: asyncio.AbstractEventLoop
    ) -> dict[TP, int | None]:
        committed = self._where_it_is(tps, abort)
        failpoint("rebalance.assigned")
        if self._role.notes_always or self._options.transactions is not None:
            hearing = self.app.consumer.notes_beside(committed)
            self._role.noted(asyncio.run_coroutine_threadsafe(hearing, loop).result())
        self._role.assigned(committed, abort)
        return committed

    def _where_it_is(self, tps: set[TP], abort: threading.Event) -> dict[TP, int | None]:
        """The group's offsets, looked at again for a while if they cannot be: a broker that comes up may not know yet."""
        deadline = monotonic() + SETTLED_S
        while True:
            committed = self._committed(tps)
            if self._places is None or self._role.finds_its_place:
                return committed
            try:
                self._places.check(committed)
            except ConfigError:
                if monotonic() > deadline:
                    raise
                if abort.wait(0.5):
                    raise RebalanceAgain from None
            else:
                return committed

    def _committed(self, tps: set[TP]) -> dict[TP, int | None]:
        """The group's offsets, none of which a transaction is about to move."""
        if not tps:
            return {}
        own = {"group.id": self._options.group, "isolation.level": "read_committed"}
        consumer = Consumer({**self._options.kafka, **own})
        try:  # never subscribes: only reads the group's offsets
            wanted = [TopicPartition(*tp) for tp in tps]
            found = patiently(
                lambda left_s: _told(consumer.committed(wanted, timeout=left_s)),
                f"offsets of group {self._options.group}",
                COMMITTED_S,
            )
        finally:
            consumer.close()
        return {TP(o.topic, o.partition): o.offset if o.offset >= 0 else None for o in found}

    def _check_copartitioned(self, tps: set[TP]) -> None:
        if not self._role.copartitioned:
            return
        of = {
            topic: {tp.partition for tp in tps if tp.topic == topic} for topic in self._role.topics
        }
        if len(set(map(frozenset, of.values()))) > 1:
            message = f"assigned different partitions of topics that are joined: {of}"
            raise Unavailable(message)

    async def _tick(self) -> None:
        while not self.app.should_stop:
            try:
                pause = self._role.tick() if self._ready else 0.05
            except Unavailable as error:  # what was not done is done by a later call
                log.warning("%s; trying again", error)
                pause = 1.0
            except Exception as error:
                log.exception("%s cannot go on", self._role.name)
                await self._fail(error)
                return
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
            except TimeoutError:
                continue

    def wake(self) -> None:
        """Has the role's ``tick`` called soon.  From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    async def _beat(self) -> None:
        while not self.app.should_stop:
            state = "running" if self._ready else "starting"
            try:
                await asyncio.to_thread(self._role.beat, state, self._progress())
            except Unavailable as error:
                log.warning("no heartbeat: %s", error)
            await asyncio.sleep(1.0)

    def _progress(self) -> dict[TP, Progress]:
        if not self._ready:
            return {}
        consumer = self.app.consumer
        done = consumer.processed()  # without those that never had a record
        committed = consumer.committed
        self._reached = {
            (of := TP(*tp)): Progress(
                next_ := done.get(of, 0), consumer.highwater(of) or next_, committed.get(of, 0)
            )
            for tp in consumer.assignment()
        }
        return self._reached

    def _reached_at_last(self) -> dict[TP, Progress]:
        committed = self.app.consumer.committed if self._ready else {}
        return {
            tp: of._replace(committed=max(of.committed, committed.get(tp, 0)))
            for tp, of in self._reached.items()
        }

    async def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._stop()

    def _stop(self) -> None:
        self._abort.set()
        watchdog = threading.Timer(STOP_DEADLINE_S, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        self._worker._schedule_shutdown(signal.SIGTERM)  # Faust's own path to an orderly stop

    def _give_up(self) -> None:
        log.error(
            "did not stop within %.1f s; what is not committed will be read again", STOP_DEADLINE_S
        )
        os._exit(1)

    async def _check_started(self) -> None:
        deadline = monotonic() + START_DEADLINE_S
        while monotonic() < deadline:
            if self.app.consumer.assignment() or self._ready or self._failure:
                return
            await asyncio.sleep(0.2)
        message = (
            f"{self._role.name} was not let into group {self._options.group} within {START_DEADLINE_S} s: "
            "is the broker up, and may this user read the topics and the group?"
        )
        await self._fail(Unavailable(message))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = worker = faust.Worker(
            self.app, loop=self._loop, quiet=True, override_logging=False, redirect_stdouts=False
        )
        worker.spinner = None
        worker._on_sigterm = worker._on_sigint = self._stop
        self.app.task(self._check_started)
        await worker.start()  # returns when a stop begins: what flushes, commits and leaves runs on
        await (worker._signal_stop_future or worker.stop())
        self._failure = self._failure or worker.crash_reason

    def run(self) -> None:
        """Serves until a signal or a failure ends it, having committed what was done.

        Raises:
            StreamsError: It could not start, or could not go on.
        """
        os.nice(self._role.niceness)
        transactions = self._options.transactions
        if transactions is not None:
            instance = self._options.instance_id
            check_format(self._options.kafka, Member(self._options.group, instance=instance))
            transactions.start()
        self._role.open()
        gc.collect()
        gc.freeze()  # what was loaded lives on: full collections need not look at it
        gc.set_threshold(200_000, 20, 50)
        try:
            asyncio.run(self._serve())
        finally:
            if transactions is not None:
                transactions.close()
            self._role.close(self._reached_at_last())
        if self._failure is not None:
            raise self._failure


def _told(found: list[TopicPartition]) -> list[TopicPartition]:
    for offset in found:
        if offset.error is not None:
            raise KafkaException(offset.error)
    return found
