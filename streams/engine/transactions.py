"""Outputs in Kafka transactions, each with the offsets of exactly what they were made from.

A transaction is begun by its first record and ended by a commit, a fraction of a second later.  While it is being
committed nothing can be added to it: what is sent meanwhile is *held*, and is the beginning of the next one.  So the
roles go on, and a transaction has the outputs of the moment that its offsets were captured at, no more and no less.

The offsets are those of a group that another client (Faust's, aiokafka) is the member of.  The broker checks that
member's generation, which it is told in librdkafka's own serialised form: see :class:`Member`.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from faust.types import TP
from typing_extensions import override

from streams.core.errors import ConfigError, Conflict, Mistake, StreamsError, Unavailable
from streams.engine.producer import DELIVERY_TIMEOUT_S, Headers, Made, Outputs
from streams.failpoints import failpoint

T = TypeVar("T")
ATTEMPT_S = 5.0
START_S = 60.0
"""Longer than the broker takes to end what a process before this one left open."""
GOODBYE_S = 1.0
PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
OVERDUE_S = 5.0
"""A call that has not returned so long after it should have never will: librdkafka does this after an outage (its issue 5456)."""
CROWD = 20_000
"""So many records may be held before no more inputs are fetched."""
log = logging.getLogger("counterpoint.transactions")


class Member(NamedTuple):
    """A member of a consumer group, as the group knows it.

    Attributes:
        generation: Of the group when it was assigned its partitions.
        instance: Its ``group.instance.id``, if it has one.
    """

    group: str
    generation: int = -1
    member_id: str = ""
    instance: str | None = None

    def serialised(self) -> bytes:
        """What librdkafka's ``consumer_group_metadata()`` would be, were it the member."""
        instance = b"\1" if self.instance is None else b"\0" + self.instance.encode() + b"\0"
        texts = self.group.encode() + b"\0" + self.member_id.encode() + b"\0"
        return b"CGMDv2:" + struct.pack("<i", self.generation) + texts + instance


def check_format(kafka: Mapping[str, Any], member: Member) -> None:
    """Compares the serialised form with librdkafka's own, of a consumer that has not joined.

    Raises:
        ConfigError: It differs.
    """
    told = {} if member.instance is None else {"group.instance.id": member.instance}
    consumer = Consumer({"log_level": 2, **kafka, "group.id": member.group, **told})
    try:
        compare_format(consumer.consumer_group_metadata(), member)
    finally:
        consumer.close()


def compare_format(theirs: bytes, member: Member) -> None:
    """Compares what librdkafka says of a consumer that has not joined with what we would say.

    Raises:
        ConfigError: It differs.
    """
    ours = member.serialised()
    if theirs != ours:
        expected = (
            f"{ours!r}: this confluent-kafka writes group metadata in another form, so that offsets cannot be put "
            'into transactions. Install the version that Counterpoint pins, or set Loop(delivery="at-least-once")'
        )
        raise ConfigError([Mistake("consumer_group_metadata()", theirs, expected)])


class Place(NamedTuple):
    """An offset to be committed, and the note that goes with it."""

    offset: int
    note: str = ""


class Transactions(Outputs):
    """See the module.

    All calls come from the event loop, one at a time, but those of ``commit`` and ``abort``, which run in a thread.

    Args:
        kafka: Connection settings, in librdkafka's names.
        name: The ``transactional.id``: stable, and nobody else's.
        timeout_s: The broker aborts what was begun so long ago; till then it holds back the readers of its partitions.

    Attributes:
        is_open: Whether a transaction was begun and not ended.
    """

    def __init__(self, kafka: Mapping[str, Any], name: str, timeout_s: float) -> None:
        timeout_ms = int(timeout_s * 1000)
        own = {"transactional.id": name, "transaction.timeout.ms": timeout_ms}
        # What is not delivered within the transaction need not be any more.
        super().__init__(kafka, **{"delivery.timeout.ms": timeout_ms, **own})
        self._config = {key: value for key, value in self._config.items() if key not in own}
        self.name, self._timeout_s = name, timeout_s
        self.is_open = False
        self._spoilt: str | None = None  # why the open transaction can only be aborted
        self._held: list[tuple[str, bytes | None, bytes | None, Headers | None, int]] | None = None
        self._committer: int | None = None
        self._answer_due: float | None = None  # when the call that is under way is to have returned
        self._busy = threading.Lock()

    def start(self) -> None:
        """Ends what a process with this name left open, and shuts out that process if it still lives.

        Raises:
            ConfigError: This user may not use the name, or the broker does not like the timeout.
            Unavailable: The broker does not answer.
        """
        try:
            self._insist(START_S, self.producer.init_transactions)
        except KafkaException as error:
            told: KafkaError = error.args[0]
            if told.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
                expected = (
                    'the right to write with it: kafka-acls.sh --bootstrap-server "$COUNTERPOINT_BOOTSTRAP" --add '
                    f"--allow-principal User:YOURS --operation Write --transactional-id {self.name}"
                )
                raise ConfigError([Mistake("transactional id", self.name, expected)]) from error
            message = f"no transactions for {self.name}: {told.str()}"
            raise Unavailable(message) from error

    @override
    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None or error.code() not in PURGED:  # what an abort threw away is no failure
            super()._on_delivery(error, message)

    # What is sent

    @override
    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers | None = None,
        partition: int = -1,
    ) -> None:
        """As :meth:`Outputs.send`, in this transaction, or in the next one while this is being committed.

        Raises:
            Conflict: Another process has the name.
        """
        if self._held is not None and threading.get_ident() != self._committer:
            self._held.append((topic, value, key, headers, partition))
            return
        try:
            self._begin()
            super().send(topic, value, key, headers, partition)
        except KafkaException as error:
            self._spoil(error)

    @override
    def send_all(self, made: list[Made]) -> None:
        """As :meth:`Outputs.send_all`."""
        if self._held is not None and threading.get_ident() != self._committer:
            self._held += [(*record, -1) for record in made]
        elif made:
            try:
                self._begin()
                super().send_all(made)
            except KafkaException as error:
                self._spoil(error)
        made.clear()

    @override
    def flush(self, timeout_s: float = DELIVERY_TIMEOUT_S) -> None:
        """Waits for nothing: what is sent is delivered with its transaction, or not at all."""

    @property
    def is_crowded(self) -> bool:
        """Whether so much is held that no more should come."""
        return self._held is not None and len(self._held) > CROWD

    def _begin(self) -> None:
        if not self.is_open:
            self.producer.begin_transaction()
            self.is_open = True

    def _spoil(self, error: KafkaException) -> None:
        told: KafkaError = error.args[0]
        if told.fatal():
            raise self._shut_out(told) from error
        self._spoilt = told.str()  # what is sent now is made again: the commit will find out

    # Committing

    def hold(self) -> None:
        """Keeps what is sent from now on for the next transaction."""
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """Begins the next transaction with what was held."""
        held, self._held = self._held or [], None
        for record in held:
            self.send(*record)

    def drop(self) -> None:
        """Forgets what was held."""
        self._held = None

    @property
    def is_stuck(self) -> bool:
        """Whether a call outlasts by far the time it was given: only a new process helps.  From any thread."""
        due = self._answer_due
        return due is not None and monotonic() > due + OVERDUE_S

    def commit(
        self, prepare: Callable[[], None], places: Mapping[TP, Place], member: Member, *, news: bool
    ) -> bool:
        """Commits what was sent before ``hold`` and what ``prepare`` sends, with the offsets.

        Args:
            places: The offsets, in force of the group's member.
            news: Whether they differ from what is committed: if not, and nothing was sent, there is nothing to do.

        Returns:
            Whether it is committed.  If not, all of it was taken back: whatever it was made from is to be done again.

        Raises:
            Conflict: Another process has the name, or the broker has given this one up.
            Unavailable: The broker does not answer.
        """
        with self._busy:
            self._committer = threading.get_ident()
            try:
                prepare()
                return not (self.is_open or news) or self._commit(places, member)
            finally:
                self._committer = None

    def _commit(self, places: Mapping[TP, Place], member: Member) -> bool:
        try:
            self._begin()
            self._deliver()
            try:
                failpoint("transaction.delivered")
            except Unavailable as error:
                self._spoilt = str(error)
            if self._spoilt is None:
                if places:
                    offsets = [TopicPartition(*tp, at.offset, at.note) for tp, at in places.items()]
                    send = self.producer.send_offsets_to_transaction
                    group = member.serialised()
                    self._insist(DELIVERY_TIMEOUT_S, lambda left_s: send(offsets, group, left_s))
                failpoint("transaction.offered")
                self._insist(DELIVERY_TIMEOUT_S, self.producer.commit_transaction)
                self.is_open = False
                return True
        except KafkaException as error:
            told: KafkaError = error.args[0]
            if told.fatal():
                raise self._shut_out(told) from error
            if not told.txn_requires_abort():
                message = f"a transaction could not be committed: {told.str()}"
                raise Unavailable(message) from error
            self._spoilt = told.str()
        log.warning("a transaction was taken back, and is made again: %s", self._spoilt)
        self._abort(DELIVERY_TIMEOUT_S)
        return False

    def _deliver(self) -> None:
        """Waits for the records first: librdkafka may never answer who adds offsets while the broker is away."""
        while self._error is None and self.producer.flush(ATTEMPT_S):
            pass  # not for longer than the transaction may last: then they are given up, one by one
        self._spoilt = self._spoilt or self._error

    def abort(self) -> None:
        """Takes back what is in no committed transaction.

        Raises:
            Conflict: Another process has the name, or the broker has given this one up.
            Unavailable: The broker does not answer.
        """
        with self._busy:
            self._abort(DELIVERY_TIMEOUT_S)

    def close(self) -> None:
        """Takes back what is left, so that nobody has to wait until the broker does; not for long."""
        with self._busy, suppress(StreamsError):
            self._abort(GOODBYE_S)

    def _abort(self, patience_s: float) -> None:
        if self.is_open:
            try:
                self._insist(patience_s, self.producer.abort_transaction)
            except KafkaException as error:
                told: KafkaError = error.args[0]
                if told.fatal():
                    raise self._shut_out(told) from error
                message = f"a transaction could not be aborted: {told.str()}"
                raise Unavailable(message) from error
        self.is_open, self._spoilt, self._error = False, None, None

    def _insist(self, patience_s: float, ask: Callable[[float], T]) -> T:
        """Asks again until there is an answer: leaders move, a broker is away for a minute."""
        deadline = monotonic() + patience_s
        while True:
            left_s = max(min(ATTEMPT_S, deadline - monotonic()), 0.1)
            self._answer_due = monotonic() + left_s
            try:
                return ask(left_s)
            except KafkaException as error:
                told: KafkaError = error.args[0]
                hopeless = told.fatal() or told.txn_requires_abort() or not told.retriable()
                if hopeless or monotonic() > deadline:
                    raise
            finally:
                self._answer_due = None

    def _shut_out(self, told: KafkaError) -> Conflict:
        return Conflict(
            f"transactional id {self.name} is not this process's any more ({told.str()}): another process runs with "
            f"this --worker name, or this one was silent for longer than {self._timeout_s:g} s. What it had not "
            "committed is taken back. If the other is wanted, leave it; else give each its own --worker name and "
            "start this one again"
        )
