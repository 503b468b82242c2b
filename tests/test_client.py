from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from streams import AsyncClient, Client
from streams.config import Settings
from streams.core.errors import BadRecord, ConfigError, NotFound, Unavailable
from streams.core.events import (
    DeadLetter,
    Feedback,
    Header,
    Input,
    Outcome,
    Prediction,
    Status,
)
from streams.core.topics import TopicSpec
from streams.engine.admin import create
from streams.engine.codec import Codec, Record, schema_folder
from streams.engine.producer import Outputs
from streams.engine.reader import to_end
from tests.conftest import Kafka

EXAMPLES = Path(__file__).parent / "examples"
SUFFIXES = ("inputs", "predictions", "feedback", "outcomes", "dead-letters")


class Roles:
    """Writes what the roles of a loop would, and reads what the client sent."""

    def __init__(self, bootstrap: str, loop: str) -> None:
        self.loop, self.kafka = loop, {"bootstrap.servers": bootstrap}
        self.codec, self.outputs = Codec(), Outputs(self.kafka)

    def write(self, suffix: str, record: Record, key: str) -> None:
        topic = f"{self.loop}.{suffix}"
        self.outputs.send(topic, self.codec.encode(topic, record), key.encode())
        self.outputs.flush()

    def predict(self, event_id: str, label: bool = True, version: int = 7) -> None:
        self.write("predictions", prediction(event_id, label, version), event_id)

    def settle(self, feedback_id: str, status: str = "learned", version: int | None = 8) -> None:
        outcome = Outcome("e", feedback_id, status, None, 0, 0, "", version)
        self.write("outcomes", outcome, "e")

    def refuse(self, suffix: str, **changes: Any) -> None:
        letter = DeadLetter(
            f"{self.loop}.{suffix}", 0, 3, 0, b"e", b"\xff", [], "joiner", "join", "it is odd", None, None, 0
        )  # fmt: skip
        self.write("dead-letters", letter._replace(**changes), "e")

    def beat(self, worker: str, version: int, state: str = "running") -> None:
        status = Status(
            self.loop, "predictor", worker, "h", 1, state, {"": version}, [], {}, [], 0, 0
        )
        self.write("status", status, f"predictor/{worker}")

    def sent(self, suffix: str) -> list[Record]:
        found = to_end(self.kafka, f"{self.loop}.{suffix}")
        return [self.codec.decode(message.value()) for message in found]


def prediction(event_id: str, label: bool = True, version: int = 7) -> Prediction:
    return Prediction(
        event_id, label, {"True": 0.9, "False": 0.1}, 0.9, {"a": 1.0}, None, None, "", version, "auto", "all", 1.0
    )  # fmt: skip


@pytest.fixture
def roles(broker: Kafka, unique: str) -> Roles:
    config = {"message.timestamp.type": "LogAppendTime"}
    specs = [TopicSpec(f"{unique}.{suffix}", 2, config) for suffix in SUFFIXES]
    specs.append(TopicSpec(f"{unique}.status", 1, {**config, "cleanup.policy": "compact"}))
    create(AdminClient({"bootstrap.servers": broker.bootstrap}), specs, 1)
    return Roles(broker.bootstrap, unique)


@pytest.fixture
def client(broker: Kafka, roles: Roles) -> Iterator[Client]:
    with Client(roles.loop, broker.bootstrap) as made:
        yield made


def later(do: Callable[[], None], seconds: float = 0.2) -> None:
    threading.Timer(seconds, do).start()


# Sending -------------------------------------------------------------------------------------------------------------


def test_an_input_arrives_as_it_was_sent_under_its_event_id(client: Client, roles: Roles) -> None:
    happened = datetime(2026, 5, 1, 12, tzinfo=UTC)
    client.send_input("e-1", {"a": 1.5, "b": "x", "c": None, "d": True}, "words", happened)
    client.flush()
    assert roles.sent("inputs") == [
        Input("e-1", {"a": 1.5, "b": "x", "c": None, "d": True}, "words", 1777636800000)
    ]
    (message,) = to_end(roles.kafka, f"{roles.loop}.inputs")
    assert message.key() == b"e-1"


@pytest.mark.parametrize(
    ("event_id", "features", "told"),
    [
        ("", {}, "event_id is ''"),
        (None, {}, "event_id is None"),
        (7, {}, "event_id is 7"),
        ("é" * 257, {}, "event_id has 514 bytes"),
        ("e", None, "features is None"),
        ("e", [1], "features is [1]"),
        ("e", {"a": nan}, "feature 'a' is nan"),
        ("e", {"a": 1, "b": -inf}, "feature 'b' is -inf"),
        ("e", {"a": [1]}, "feature 'a' is [1] (list)"),
        ("e", {"a": b"x"}, "feature 'a' is b'x' (bytes)"),
        ("e", {"a": 2**70}, "does not fit 64 bits"),
        ("e", {3: 1}, "features"),
        ("e", {"a": "x" * (600 << 10)}, "614,4"),
    ],
)
def test_an_input_that_no_predictor_would_take_is_refused_with_the_field(
    client: Client, roles: Roles, event_id: Any, features: Any, told: str
) -> None:
    with pytest.raises(BadRecord) as refused:
        client.send_input(event_id, features)
    assert told in str(refused.value)
    client.flush()
    assert roles.sent("inputs") == []


def test_a_time_without_a_zone_is_refused(client: Client) -> None:
    with pytest.raises(BadRecord, match="time zone"):
        client.send_input("e", {}, occurred_at=datetime(2026, 5, 1))  # noqa: DTZ001


def test_many_inputs_are_delivered_when_the_call_returns(client: Client, roles: Roles) -> None:
    given = [Input("e-0", {"a": 0}), ("e-1", {"a": 1}), ("e-2", {"a": 2}, "words")]
    assert client.send_inputs(given) == 3
    assert {record.event_id for record in roles.sent("inputs") if isinstance(record, Input)} == {
        "e-0",
        "e-1",
        "e-2",
    }


def test_of_many_inputs_those_before_a_bad_one_are_sent(client: Client, roles: Roles) -> None:
    with pytest.raises(BadRecord, match=r"record 3: feature 'a' is nan.*the 2 before it were sent"):
        client.send_inputs((f"e-{n}", {"a": n if n < 2 else nan}) for n in range(5))
    assert len(roles.sent("inputs")) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"label": False}, ("correct", False)),
        ({"label": "spam"}, ("correct", "spam")),
        ({"accept": True}, ("accept", None)),
        ({"accept": True, "seen": 3.5}, ("accept", 3.5)),
        ({"reject": True}, ("reject", None)),
        ({"abstain": True}, ("abstain", None)),
        ({"retract": True}, ("retract", None)),
    ],
)
def test_a_verdict_arrives_in_its_form_with_its_id_in_the_header(
    client: Client, roles: Roles, given: Any, expected: tuple[str, Any]
) -> None:
    feedback_id = client.send_feedback("e", reviewer="ada", comment="why", **given)
    client.flush()
    (message,) = to_end(roles.kafka, f"{roles.loop}.feedback")
    record = roles.codec.decode_as(Feedback, message.value())
    assert (record.verdict, record.label) == expected
    assert (record.event_id, record.reviewer, record.comment) == ("e", "ada", "why")
    assert record.feedback_id == feedback_id
    assert message.headers() == [("feedback_id", feedback_id.encode())]
    assert message.key() == b"e"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "none"),
        ({"reject": True, "label": True}, "label.*reject"),
        ({"accept": True, "abstain": True}, "accept.*abstain"),
        ({"label": True, "seen": True}, "goes with accept"),
        ({"label": nan}, "label is nan"),
        ({"accept": True, "seen": inf}, "seen is inf"),
        ({"label": [1]}, "label"),
        ({"label": True, "feedback_id": ""}, "feedback_id"),
        ({"label": True, "reviewer": 7}, "reviewer"),
    ],
)
def test_a_verdict_that_says_nothing_or_two_things_is_refused(
    client: Client, roles: Roles, given: Any, told: str
) -> None:
    with pytest.raises(BadRecord, match=told):
        client.send_feedback("e", **given)
    client.flush()
    assert roles.sent("feedback") == []


def test_a_verdict_that_is_sent_again_keeps_the_id_it_is_given(
    client: Client, roles: Roles
) -> None:
    first = client.send_feedback("e", label=True)
    assert client.send_feedback("e", label=True, feedback_id=first) == first
    assert client.send_feedback("e", label=True) != first


def test_many_verdicts_are_delivered_when_the_call_returns(client: Client, roles: Roles) -> None:
    ids = client.send_feedbacks(
        [{"event_id": "a", "label": True}, {"event_id": "b", "reject": True}]
    )
    sent = {record.feedback_id for record in roles.sent("feedback") if isinstance(record, Feedback)}
    assert sent == set(ids)


def test_a_loop_that_is_not_there_is_told_and_not_made(broker: Kafka) -> None:
    with Client("no-such-loop", broker.bootstrap) as client:
        with pytest.raises(NotFound, match=r"no-such-loop.*topics create"):
            client.send_input("e", {})
        with pytest.raises(NotFound, match="no-such-loop"):
            client.predictions()
        with pytest.raises(Unavailable, match=r"no-such-loop\.predictions"):
            client.wait_prediction("e", timeout=1)
    topics = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics
    assert not any(name.startswith("no-such-loop") for name in topics)


def await_refusal(kafka: Mapping[str, str], topic: str, size: int) -> None:
    """Waits until the topic refuses records of a size: a broker applies a new setting a moment later."""
    refused: list[bool] = []
    producer = Producer(dict(kafka))
    deadline = time.monotonic() + 20
    while not refused or not refused[-1]:
        assert time.monotonic() < deadline, "the topic still takes large records"
        producer.produce(
            topic,
            os.urandom(size),
            on_delivery=lambda error, message: refused.append(error is not None),
        )
        producer.flush(10)


def test_what_was_not_delivered_is_told_at_the_next_call_and_once(
    client: Client, roles: Roles
) -> None:
    client.send_input("e-1", {"a": 1})
    client.flush()
    resource = ConfigResource(
        ConfigResource.Type.TOPIC,
        f"{roles.loop}.inputs",
        incremental_configs=[
            ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)
        ],
    )
    admin = AdminClient(roles.kafka)
    for changed in admin.incremental_alter_configs([resource]).values():
        changed.result()
    await_refusal(roles.kafka, f"{roles.loop}.inputs", 4000)
    client.send_input("e-2", {"a": os.urandom(2000).hex()})
    with pytest.raises(Unavailable, match=r"'e-2' was not delivered to .*inputs"):
        client.flush()
    client.send_input("e-3", {"a": 1})
    client.flush()


# Waiting -------------------------------------------------------------------------------------------------------------


def test_a_prediction_that_comes_before_the_wait_but_after_the_send_is_not_missed(
    client: Client, roles: Roles
) -> None:
    client.send_input("e-1", {"a": 1})
    roles.predict("e-1")
    assert client.wait_prediction("e-1", timeout=10) == prediction("e-1")


def test_the_first_prediction_of_an_event_is_the_answer(client: Client, roles: Roles) -> None:
    client.send_input("e-1", {"a": 1})
    roles.predict("e-1", True)
    roles.predict("e-1", False)
    roles.predict("other")
    assert client.wait_prediction("other", timeout=10).event_id == "other"
    assert client.wait_prediction("e-1", timeout=10).label is True


def test_a_wait_ends_as_soon_as_the_prediction_is_there(client: Client, roles: Roles) -> None:
    client.send_input("e-1", {"a": 1})
    with pytest.raises(TimeoutError):
        client.wait_prediction("e-1", timeout=0.2)  # connects
    delays = []
    for n in range(20):
        roles.predict(f"later-{n}")
        began = time.monotonic()
        client.wait_prediction(f"later-{n}", timeout=10)
        delays.append(time.monotonic() - began)
    assert sorted(delays)[10] < 0.1


def test_a_prediction_that_does_not_come_is_told_with_what_to_look_at(client: Client) -> None:
    with pytest.raises(TimeoutError, match=r"'e-1' within 0.3 s.*predictor.*counterpoint status"):
        client.wait_prediction("e-1", timeout=0.3)


def test_an_input_that_was_refused_is_told_at_once(client: Client, roles: Roles) -> None:
    client.send_input("e-1", {"a": 1})
    later(lambda: roles.refuse("inputs", event_id="e-1", role="predictor"))
    with pytest.raises(BadRecord, match="refused by the predictor: it is odd") as refused:
        client.wait_prediction("e-1", timeout=30)
    assert refused.value.event_id == "e-1"


def test_what_was_refused_may_be_sent_again_under_the_same_id(client: Client, roles: Roles) -> None:
    client.send_input("e-1", {"a": 1})
    roles.refuse("inputs", event_id="e-1")
    with pytest.raises(BadRecord):
        client.wait_prediction("e-1", timeout=10)
    client.send_input("e-1", {"a": 2})
    later(lambda: roles.predict("e-1"))
    assert client.wait_prediction("e-1", timeout=10).event_id == "e-1"


def test_what_became_of_a_verdict_is_told(client: Client, roles: Roles) -> None:
    feedback_id = client.send_feedback("e", label=True)
    later(lambda: roles.settle(feedback_id))
    outcome = client.wait_outcome(feedback_id, timeout=10)
    assert (outcome.status, outcome.model_version) == ("learned", 8)


def test_of_a_verdict_sent_twice_the_first_copys_outcome_is_told(
    client: Client, roles: Roles
) -> None:
    feedback_id = client.send_feedback("e", label=True)
    roles.settle(feedback_id, "duplicate", None)
    later(lambda: roles.settle(feedback_id))
    assert client.wait_outcome(feedback_id, timeout=10).status == "learned"


def test_a_verdict_that_was_settled_long_ago_is_a_duplicate(client: Client, roles: Roles) -> None:
    feedback_id = client.send_feedback("e", label=True)
    roles.settle(feedback_id, "duplicate", None)
    assert client.wait_outcome(feedback_id, timeout=0.5).status == "duplicate"


@pytest.mark.parametrize(
    "how", [{"feedback_id": "f-1"}, {"headers": [Header("feedback_id", b"f-1")]}]
)
def test_a_verdict_that_was_refused_is_told_at_once(client: Client, roles: Roles, how: Any) -> None:
    client.send_feedback("e", label=True, feedback_id="f-1")
    later(lambda: roles.refuse("feedback", **how))
    with pytest.raises(BadRecord, match="refused by the joiner: it is odd"):
        client.wait_outcome("f-1", timeout=30)


def test_an_outcome_that_does_not_come_is_told_with_what_to_look_at(client: Client) -> None:
    with pytest.raises(TimeoutError, match=r"'f-1' within 0.3 s.*joiner and learner.*status"):
        client.wait_outcome("f-1", timeout=0.3)


def test_a_version_is_served_when_every_living_predictor_has_it(
    client: Client, roles: Roles
) -> None:
    roles.beat("w-1", 12)
    roles.beat("w-2", 9)
    with pytest.raises(TimeoutError, match="w-2 serves 9"):
        client.wait_served(12, timeout=0.5)
    later(lambda: roles.beat("w-2", 12))
    client.wait_served(12, timeout=10)


@pytest.mark.parametrize("state", ["stopped", "starting"])
def test_a_predictor_that_does_not_run_is_not_waited_for(
    client: Client, roles: Roles, state: str
) -> None:
    roles.beat("w-1", 12)
    roles.beat("w-2", 9, state)
    client.wait_served(12, timeout=10)


def test_without_a_predictor_nothing_is_served(client: Client, roles: Roles) -> None:
    with pytest.raises(TimeoutError, match="no predictor is running"):
        client.wait_served(1, timeout=0.3)


def test_a_predictor_that_went_silent_is_not_waited_for_any_longer(
    client: Client, roles: Roles
) -> None:
    roles.beat("w-1", 9)
    ended = threading.Event()

    def beats() -> None:
        while not ended.wait(0.5):
            roles.beat("w-2", 12)

    thread = threading.Thread(target=beats)
    thread.start()
    try:
        client.wait_served(12, timeout=20)
    finally:
        ended.set()
        thread.join()


# Reading -------------------------------------------------------------------------------------------------------------


def test_predictions_come_from_now_on_or_from_the_beginning(client: Client, roles: Roles) -> None:
    roles.predict("before")
    with client.predictions() as new, client.predictions(from_beginning=True) as every:
        roles.predict("after")
        assert next(new).event_id == "after"
        assert {next(every).event_id, next(every).event_id} == {"before", "after"}


def test_predictions_end_when_another_thread_closes_them(client: Client) -> None:
    found = client.predictions()
    later(found.close)
    assert list(found) == []


def test_a_prediction_that_cannot_be_read_is_told_and_the_next_one_comes(
    client: Client, roles: Roles
) -> None:
    with client.predictions() as found:
        topic = f"{roles.loop}.predictions"
        roles.outputs.send(topic, b"\xff", b"e", partition=0)
        value = roles.codec.encode(topic, prediction("e"))
        roles.outputs.send(topic, value, b"e", partition=0)
        roles.outputs.flush()
        with pytest.raises(BadRecord):
            next(found)
        assert next(found).event_id == "e"


# Settings and asyncio ------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be_are_told_before_anything_is_opened() -> None:
    with pytest.raises(ConfigError, match="COUNTERPOINT_BOOTSTRAP"):
        Client("l", "nonsense")


def test_given_servers_go_before_those_of_the_settings(broker: Kafka, roles: Roles) -> None:
    settings = Settings(bootstrap="127.0.0.1:1")
    with Client(roles.loop, broker.bootstrap, settings) as client:
        assert client.send_inputs([("e", {})]) == 1


def test_the_same_is_there_for_asyncio(broker: Kafka, roles: Roles) -> None:
    asyncio.run(_use(broker, roles))


async def _use(broker: Kafka, roles: Roles) -> None:
    async with AsyncClient(roles.loop, broker.bootstrap) as client:
        await client.send_input("e-1", {"a": 1})
        assert await client.send_inputs([("e-2", {}), ("e-3", {})]) == 2
        found = client.predictions(from_beginning=True)
        for n in (1, 2, 3):
            later(partial(roles.predict, f"e-{n}"))
        waits = [client.wait_prediction(f"e-{n}", timeout=10) for n in (1, 2, 3)]
        assert [p.event_id for p in await asyncio.gather(*waits)] == ["e-1", "e-2", "e-3"]
        assert (await anext(found)).label is True
        await found.aclose()
        feedback_id = await client.send_feedback("e-1", label=False)
        assert len(await client.send_feedbacks([{"event_id": "e-2", "accept": True}])) == 1
        await client.flush()
        roles.settle(feedback_id)
        roles.beat("w-1", 8)
        outcome = await client.wait_outcome(feedback_id, timeout=10)
        assert outcome.model_version == 8
        await client.wait_served(8, timeout=10)


# The README's examples -----------------------------------------------------------------------------------------------


def example(bootstrap: str, name: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *args],
        env={**os.environ, "COUNTERPOINT_BOOTSTRAP": bootstrap},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_producers_example_prints_the_answer(broker: Kafka, roles: Roles) -> None:
    with example(broker.bootstrap, "producer.py", roles.loop) as producer:
        while not roles.sent("inputs"):
            assert producer.poll() is None
        roles.predict("payment-1")
        assert producer.communicate(timeout=30)[0] == "True 0.9 7 auto\n"
        assert producer.returncode == 0


def test_the_reviewers_example_waits_for_the_better_model(broker: Kafka, roles: Roles) -> None:
    with example(broker.bootstrap, "reviewer.py", roles.loop, "payment-1") as reviewer:
        while not (sent := roles.sent("feedback")):
            assert reviewer.poll() is None
        assert isinstance(sent[0], Feedback)
        roles.settle(sent[0].feedback_id)
        while reviewer.poll() is None:
            roles.beat("w-1", 8)
            time.sleep(0.1)
        assert reviewer.communicate(timeout=30)[0] == "learned 8\n"
        assert reviewer.returncode == 0


def test_the_consumers_example_reads_predictions_with_the_schema_alone(
    broker: Kafka, roles: Roles
) -> None:
    roles.predict("e-1")
    args = ("consumer.py", roles.loop, "1", str(schema_folder()))
    with example(broker.bootstrap, *args) as consumer:
        assert consumer.communicate(timeout=30)[0] == "e-1 True auto None\n"
        assert consumer.returncode == 0
