"""Transactions on a real broker: what readers of committed records see, and whose commits are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event, Thread

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from faust.types import TP

from streams.core.errors import ConfigError, Conflict
from streams.engine import transactions as module
from streams.engine.producer import NO_HEADERS, Made
from streams.engine.reader import to_end, watermarks
from streams.engine.transactions import (
    Member,
    Place,
    Transactions,
    check_format,
    compare_format,
)
from tests.conftest import Kafka
from tests.e2e.system import await_that


def nothing() -> None:
    """Has nothing to add to a transaction."""


class Scene:
    """A topic, a group without members, and what writes in transactions."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self.kafka = {"bootstrap.servers": bootstrap, "log_level": 0}
        self.topic = self.group = name
        self.tp = TP(name, 0)
        self.admin = AdminClient(self.kafka)
        self.admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
        self.made: list[Transactions] = []

    def start(self, name: str = "") -> Transactions:
        made = Transactions(self.kafka, f"{self.group}.{name}", 20)
        self.made.append(made)
        made.start()
        return made

    def commit(self, transactions: Transactions, place: Place, generation: int = -1) -> bool:
        transactions.hold()
        member = Member(self.group, generation)
        return transactions.commit(nothing, {self.tp: place}, member, news=True)

    def seen(self) -> Sequence[bytes | None]:
        return [message.value() for message in to_end(self.kafka, self.topic)]

    def await_seen(self, *values: bytes) -> None:
        """Waits until these can be read: a commit is answered before it is marked in the partitions."""
        await_that(lambda: self.seen() == [*values], 10, f"{values} can be read")

    def committed(self) -> Place:
        consumer = Consumer({**self.kafka, "group.id": self.group})
        try:
            (found,) = consumer.committed([TopicPartition(*self.tp)], timeout=10)
        finally:
            consumer.close()
        return Place(found.offset, found.metadata or "")


@pytest.fixture
def scene(broker: Kafka, unique: str) -> Iterator[Scene]:
    """The scene, which aborts what is left open."""
    made = Scene(broker.bootstrap, unique)
    yield made
    for transactions in made.made:
        transactions.close()


def test_what_is_not_committed_is_not_seen_and_what_is_made_meanwhile_comes_next(
    scene: Scene,
) -> None:
    outputs = scene.start()
    outputs.send(scene.topic, b"one")
    outputs.producer.flush()
    assert scene.seen() == []
    outputs.hold()
    outputs.send(scene.topic, b"two")
    made: list[Made] = [(scene.topic, b"three", b"key", NO_HEADERS)]
    outputs.send_all(made)
    assert made == []
    assert scene.commit(outputs, Place(1, "a note"))
    scene.await_seen(b"one")
    assert scene.committed() == Place(1, "a note")
    outputs.release()
    scene.await_seen(b"one")
    assert scene.commit(outputs, Place(3))
    scene.await_seen(b"one", b"two", b"three")
    assert scene.committed() == Place(3)


def test_a_partition_that_ends_in_marks_is_read_to_its_end(scene: Scene) -> None:
    outputs = scene.start()
    for n in range(3):
        outputs.send(scene.topic, b"%d" % n)
        assert scene.commit(outputs, Place(n + 1))
        outputs.release()
    outputs.send(scene.topic, b"taken back")
    outputs.producer.flush()
    outputs.abort()
    scene.await_seen(b"0", b"1", b"2")
    consumer = Consumer({**scene.kafka, "group.id": "of-nobody"})
    await_that(lambda: watermarks(consumer, scene.topic, 0) == (0, 8), 10)
    consumer.close()


def test_an_open_transaction_keeps_nobody_from_reading_to_the_end(scene: Scene) -> None:
    """The end is then where it begins: who starts does not wait for others to commit."""
    first, second = scene.start("1"), scene.start("2")
    first.send(scene.topic, b"before")
    assert scene.commit(first, Place(1))
    second.send(scene.topic, b"open")
    second.producer.flush()
    first.release()
    first.send(scene.topic, b"after")
    assert scene.commit(first, Place(2))
    scene.await_seen(b"before")
    second.abort()
    scene.await_seen(b"before", b"after")


def test_what_a_commit_adds_itself_belongs_to_it(scene: Scene) -> None:
    """As a learner's snapshots, which are sent while its outcomes are already held for the next transaction."""
    outputs = scene.start()
    outputs.hold()
    outputs.send(scene.topic, b"next")

    def prepare() -> None:
        outputs.send(scene.topic, b"added")

    assert outputs.commit(prepare, {}, Member(scene.group), news=False)
    scene.await_seen(b"added")


def test_a_commit_without_news_writes_nothing(scene: Scene) -> None:
    outputs = scene.start()
    outputs.hold()
    assert outputs.commit(nothing, {scene.tp: Place(0)}, Member(scene.group), news=False)
    assert not outputs.is_open
    assert scene.committed().offset < 0


def test_a_commit_of_a_generation_that_is_over_is_taken_back_with_its_outputs(
    scene: Scene,
) -> None:
    outputs = scene.start()
    outputs.send(scene.topic, b"of a zombie")
    assert not scene.commit(outputs, Place(7), generation=3)
    outputs.drop()
    assert scene.committed().offset < 0
    outputs.send(scene.topic, b"again")
    assert scene.commit(outputs, Place(1))
    scene.await_seen(b"again")


def test_who_takes_the_name_ends_what_was_open_and_shuts_out_who_had_it(scene: Scene) -> None:
    old = scene.start()
    old.send(scene.topic, b"old")
    old.producer.flush()
    new = scene.start()
    new.send(scene.topic, b"new")
    assert scene.commit(new, Place(1))
    scene.await_seen(b"new")
    with pytest.raises(Conflict, match="another process runs with this --worker name"):
        scene.commit(old, Place(9))
    assert scene.committed() == Place(1)


@pytest.mark.parametrize("instance", [None, "predictor-1"])
def test_group_metadata_is_written_as_librdkafka_writes_it(
    scene: Scene, instance: str | None
) -> None:
    check_format(scene.kafka, Member(scene.group, instance=instance))


def test_group_metadata_in_another_form_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError) as raised:
        compare_format(b"CGMDv3:\xff\xff\xff\xffgroup\0\0\1", Member("group"))
    (mistake,) = raised.value.mistakes
    assert mistake.name == "consumer_group_metadata()"
    assert "Install the version that Counterpoint pins" in mistake.expected


def test_a_call_that_does_not_return_in_its_time_is_seen_from_another_thread(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is of the library, which may ignore the time it is given; here it waits for the test."""
    monkeypatch.setattr(module, "OVERDUE_S", 0.2)
    outputs, returns = scene.start(), Event()
    thread = Thread(target=outputs._insist, args=(0.1, lambda left_s: returns.wait(30)))
    assert not outputs.is_stuck
    thread.start()
    await_that(lambda: outputs.is_stuck, 10, "it is seen")
    returns.set()
    thread.join()
    assert not outputs.is_stuck
