"""The projection on a real Kafka."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from confluent_kafka.admin import NewTopic

from streams.core.events import AUTO, REVIEW, Feedback, Prediction, Review
from streams.desk.board import now_ms
from streams.desk.filters import Filter
from streams.desk.live import Pulse
from streams.desk.projection import FOLLOWED, Projection
from streams.desk.store import Store
from streams.engine import admin
from streams.engine.codec import Record
from streams.engine.producer import Outputs
from tests.conftest import Kafka
from tests.desk.desks import CODEC, HOUR_MS, Desk, feedback, prediction, review
from tests.e2e.system import await_that

SUFFIX: dict[type, str] = {Prediction: "predictions", Review: "reviews", Feedback: "feedback"}


class Topics:
    """The topics of a loop, of one partition each."""

    def __init__(self, bootstrap: str) -> None:
        self.kafka = {"bootstrap.servers": bootstrap}
        name = f"projection-{uuid.uuid4().hex[:8]}"
        self.names = {suffix: f"{name}.{suffix}" for suffix in FOLLOWED}
        self.admin = admin.connect(self.kafka)
        self.outputs = Outputs(self.kafka)
        self.make()

    def make(self) -> None:
        """Creates them."""
        config = {"message.timestamp.type": "LogAppendTime"}
        new = [NewTopic(name, 1, 1, config=config) for name in self.names.values()]
        for made in self.admin.create_topics(new).values():
            made.result(30)

    def write(self, *records: Record) -> None:
        """Writes records to where they belong."""
        for record in records:
            topic = self.names[SUFFIX[type(record)]]
            headers: list[tuple[str, bytes | None]] = []
            if isinstance(record, Prediction):
                headers = [("route", record.route.encode())]
            self.outputs.send(topic, CODEC.encode(topic, record), b"k", headers)
        self.outputs.flush(30)

    def ids(self) -> dict[str, str]:
        """Their identities."""
        return admin.topic_ids(self.admin, list(self.names.values()))


@pytest.fixture
def topics(broker: Kafka) -> Topics:
    return Topics(broker.bootstrap)


@contextmanager
def following(topics: Topics, desk: Desk, keep: int = 1_000) -> Iterator[Projection]:
    """A projection that reads."""
    pulse = Pulse()
    made = Projection(
        topics.kafka, topics.names, desk.store, desk.new_folding(), pulse, topics.ids, keep
    )
    made.start()
    try:
        yield made
    finally:
        made.stop()


def asked(event_ids: Sequence[str]) -> list[Record]:
    """People are asked about these."""
    now = now_ms()
    made: list[Record] = []
    for event_id in event_ids:
        said = prediction(event_id, route=REVIEW)
        made += [said, review(said, now, now + HOUR_MS)]
    return made


def shown(desk: Desk, count: int) -> Callable[[], bool]:
    return lambda: len(desk.reads.browse(Filter(), limit=200).rows) == count


def test_it_follows_and_goes_on_where_it_was(topics: Topics, desk: Desk) -> None:
    topics.write(*asked(["a", "b"]), feedback("a"))
    with following(topics, desk) as first:
        assert first.await_ready(30)
        assert (first.taken, first.behind(), first.trouble) == (5, 0, None)
    topics.write(prediction("c"), feedback("b"))
    with following(topics, desk) as second:
        assert second.await_ready(30)
        assert second.taken == 2
        topics.write(prediction("d"))
        await_that(shown(desk, 4), what="d is shown")
    desk.now = now_ms()
    assert desk.next("ann", 5) == []


def test_it_skips_what_nobody_is_asked_about_when_it_is_far_behind_and_says_so(
    topics: Topics, store: Store
) -> None:
    desk = Desk(store)
    topics.write(*asked(["asked"]), *(prediction(f"auto-{n}", route=AUTO) for n in range(50)))
    with following(topics, desk, keep=10) as projection:
        assert projection.await_ready(30)
        assert projection.skipped == 40
        assert shown(desk, 11)()


def test_two_desks_on_one_database_read_each_record_once(topics: Topics, desk: Desk) -> None:
    with following(topics, desk) as one, following(topics, desk) as other:
        assert one.await_ready(30)
        assert other.await_ready(30)
        topics.write(*asked([f"e{number}" for number in range(50)]))
        await_that(shown(desk, 50), what="all are shown")
        await_that(lambda: one.taken + other.taken >= 100, what="all are taken")
        assert one.taken + other.taken == 100


def test_topics_that_were_made_anew_are_told_and_not_read(topics: Topics, desk: Desk) -> None:
    topics.write(prediction("a"))
    with following(topics, desk) as projection:
        assert projection.await_ready(30)
    for gone in topics.admin.delete_topics(list(topics.names.values())).values():
        gone.result(30)
    await_that(lambda: not set(topics.names.values()) & set(topics.admin.list_topics().topics))
    topics.make()
    with following(topics, desk) as projection:
        await_that(lambda: "desk rebuild" in (projection.trouble or ""), what="it is told")
    desk.store.empty_projection()
    with following(topics, desk) as projection:
        assert projection.await_ready(30)
        assert projection.trouble is None
