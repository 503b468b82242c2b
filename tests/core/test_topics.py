"""Topics of a loop: names, partition counts, retention; and Kafka's own choice of a partition."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from streams.core.topics import (
    DAY_MS,
    SLACK_MS,
    SUFFIXES,
    Keep,
    TopicSpec,
    murmur2,
    partition_of,
    topic_name,
    topics,
)
from streams.engine import admin
from tests.conftest import Kafka

# From Kafka's own tests of its Java client, UtilsTest.testMurmur2.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


class Named(NamedTuple):
    topic: str | None = None


class ALoop(NamedTuple):
    name: str = "payments"
    partitions: int = 8
    window_ms: int = 30 * DAY_MS
    early_ms: int = DAY_MS
    model_key: str | None = None
    inputs: Named = Named()
    labels: tuple[Named, ...] = ()


def retention(spec: TopicSpec) -> int:
    return int(spec.config["retention.ms"])


def test_every_topic_of_a_loop_is_named_after_it() -> None:
    assert {suffix: spec.name for suffix, spec in topics(ALoop()).items()} == {
        suffix: topic_name("payments", suffix) for suffix in SUFFIXES
    }


def test_topics_keyed_by_event_have_the_loop_s_partitions_so_that_they_can_be_joined() -> None:
    specs = topics(ALoop())
    counts = {suffix: spec.partitions for suffix, spec in specs.items()}
    eight = ("inputs", "predictions", "reviews", "feedback", "outcomes")
    assert counts == dict.fromkeys(SUFFIXES, 1) | dict.fromkeys(eight, 8)


def test_with_a_model_key_the_log_and_what_follows_from_it_are_partitioned_too() -> None:
    specs = topics(ALoop(model_key="country"))
    assert [specs[s].partitions for s in ("examples", "models", "scores")] == [8, 8, 8]
    assert [specs[s].partitions for s in ("status", "dead-letters")] == [1, 1]


def test_time_is_the_broker_s_clock_on_every_topic_of_ours() -> None:
    stamps = {spec.config["message.timestamp.type"] for spec in topics(ALoop()).values()}
    assert stamps == {"LogAppendTime"}


def test_what_is_joined_is_kept_until_every_join_is_decided() -> None:
    specs, least = topics(ALoop()), 2 * 30 * DAY_MS + DAY_MS
    assert retention(specs["predictions"]) == retention(specs["feedback"]) == least + SLACK_MS


def test_the_log_is_kept_for_ever() -> None:
    config = topics(ALoop())["examples"].config
    assert config["cleanup.policy"] == "delete"
    assert config["retention.ms"] == config["retention.bytes"] == "-1"


def test_models_and_status_are_compacted() -> None:
    compacted = {s for s, t in topics(ALoop()).items() if t.config["cleanup.policy"] == "compact"}
    assert compacted == {"models", "status"}


def test_outcomes_and_dead_letters_outlive_the_feedback_they_are_about() -> None:
    short = Keep(outcomes_ms=1, dead_letters_ms=1)
    specs = topics(ALoop(), short)
    for suffix in ("outcomes", "dead-letters"):
        assert retention(specs[suffix]) > retention(specs["feedback"])
    long = Keep(inputs_ms=3, outcomes_ms=10**12, dead_letters_ms=10**12)
    assert retention(topics(ALoop(), long)["outcomes"]) == 10**12
    assert retention(topics(ALoop(), long)["inputs"]) == 3


def test_what_is_written_about_a_record_has_room_for_it_and_more() -> None:
    specs = topics(ALoop(), Keep(record_bytes=4 << 20))
    for suffix in ("predictions", "reviews", "examples", "models"):
        assert int(specs[suffix].config["max.message.bytes"]) >= 9 << 20
    assert specs["dead-letters"].config["max.message.bytes"] == str(32 << 20)


def test_the_user_s_own_topics_are_named_and_left_alone() -> None:
    specs = topics(ALoop(inputs=Named("captured"), labels=(Named("feedback"), Named("lost"))))
    assert specs["inputs"] == TopicSpec("captured", 0, {}, own=False)
    assert specs["label:feedback"] == TopicSpec("feedback", 0, {}, own=False)
    assert [spec.name for spec in specs.values() if not spec.own] == [
        "captured",
        "feedback",
        "lost",
    ]


@pytest.mark.parametrize("key", JAVA)
def test_the_hash_is_that_of_the_java_client(key: bytes) -> None:
    assert murmur2(key) == JAVA[key]


@given(st.binary(max_size=64), st.integers(1, 1000))
def test_a_partition_is_one_of_those_there_are(key: bytes, n: int) -> None:
    assert -(2**31) <= murmur2(key) < 2**31
    assert 0 <= partition_of(key, n) < n


def test_the_partition_is_the_one_that_librdkafka_produces_to(broker: Kafka, unique: str) -> None:
    """Keys of every length, of every byte, and ids as people make them, on the real broker."""
    spec = TopicSpec(unique, 7, {})
    kafka = {"bootstrap.servers": broker.bootstrap}
    admin.create(admin.connect(kafka), [spec], 1)
    keys = [bytes(range(n, 2 * n)) for n in range(1, 64)]
    keys += [bytes([byte]) * 3 for byte in range(256)]
    keys += [f"order-{n}-äöü".encode() for n in range(200)]
    produced: dict[bytes | None, int | None] = {}
    producer = Producer({**kafka, "partitioner": "murmur2_random", "linger.ms": 5})
    for key in keys:
        producer.produce(
            spec.name,
            b"",
            key,
            on_delivery=lambda error, message: produced.update(
                {message.key(): message.partition()}
            ),
        )
    assert producer.flush(30) == 0
    assert produced == {key: partition_of(key, 7) for key in keys}
