"""Against a real schema registry: what is written there, who else can read it, and what happens while it is down."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from io import BytesIO
from typing import Any

import fastavro
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from streams.core import events
from streams.core.errors import BadRecord, ConfigError, Unavailable
from streams.engine.codec import SCHEMAS, Codec, subject
from streams.engine.registry import SchemaRegistry
from streams.engine.sources import input_reader
from streams.loop import Source
from tests.engine.apicurio import Apicurio

TOPIC = "payments.predictions"
PREDICTION = events.Prediction(
    event_id="e1",
    label=True,
    scores={"False": 0.25, "True": 0.75},
    confidence=0.75,
    features={"amount": 12.5, "hour": 3, "country": "é", "new": True, "age": None},
    text=None,
    occurred_at=1_700_000_000_000,
    model_key="",
    model_version=12_345,
    route=events.REVIEW,
    reason="everything",
    probability=1.0,
    explanation=[events.Contribution("amount", 12.5, -0.3)],
    basis=events.Basis("linear", "logit", True, False, 0.1, -0.05),
)
OLD_FEEDBACK = {
    "type": "record",
    "name": "Feedback",
    "namespace": "counterpoint",
    "fields": [
        {"name": "feedback_id", "type": "string"},
        {"name": "event_id", "type": "string"},
        {"name": "verdict", "type": "string"},
    ],
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    registry = Apicurio(tmp_path_factory.mktemp("apicurio"))
    registry.start()
    yield registry
    registry.stop()


@pytest.fixture
def apicurio(shared: Apicurio) -> Apicurio:
    """Up, whatever the test before did."""
    if not shared.answers():
        shared.start()
    return shared


@pytest.fixture
def connect(apicurio: Apicurio) -> Iterator[Callable[[], SchemaRegistry]]:
    """Makes registries that know nothing yet, as other processes would."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(SchemaRegistry({"url": apicurio.url})))


@pytest.fixture
def client(apicurio: Apicurio) -> Iterator[SchemaRegistryClient]:
    """The stock client."""
    with SchemaRegistryClient({"url": apicurio.url}) as stock:
        yield stock


def test_all_our_schemas_register_each_under_its_subject(
    connect: Callable[[], SchemaRegistry], client: SchemaRegistryClient
) -> None:
    registry = connect()
    for cls, own in SCHEMAS.items():
        name = subject(f"l.{cls.__name__.lower()}", cls)
        schema_id = registry.register(name, own.source)
        assert registry.register(name, own.source) == schema_id
        assert connect().register(name, own.source) == schema_id
        assert registry.schema(schema_id)["name"] == cls.__name__
    known = client.get_subjects()
    assert {"l.prediction-value", "l.example-counterpoint.Example"} <= set(known)
    assert len(known) >= len(SCHEMAS)


def test_a_stock_deserializer_reads_what_we_write(
    connect: Callable[[], SchemaRegistry], client: SchemaRegistryClient
) -> None:
    data = Codec(connect()).encode(TOPIC, PREDICTION)
    stock = AvroDeserializer(client)
    fields = stock(data, SerializationContext(TOPIC, MessageField.VALUE))
    assert PREDICTION.explanation is not None
    assert PREDICTION.basis is not None
    told = [each._asdict() for each in PREDICTION.explanation]
    nested = {"explanation": told, "basis": PREDICTION.basis._asdict()}
    assert fields == PREDICTION._asdict() | nested


def test_we_read_what_a_stock_serializer_writes(
    connect: Callable[[], SchemaRegistry], client: SchemaRegistryClient
) -> None:
    text = json.dumps(SCHEMAS[events.Feedback].source)
    feedback = events.Feedback("f", "e", "correct", label=False, given_at=5)
    stock = AvroSerializer(client, text, lambda record, _: record._asdict())
    data = stock(feedback, SerializationContext("payments.feedback", MessageField.VALUE))
    assert Codec(connect()).decode(data) == feedback


def test_a_reader_that_never_wrote_finds_the_schema_by_its_id(
    connect: Callable[[], SchemaRegistry],
) -> None:
    data = Codec(connect()).encode(TOPIC, PREDICTION)
    reader = Codec(connect())
    assert [reader.decode(data) for _ in range(3)] == [PREDICTION] * 3
    name, fields = reader.decode_any(data)
    assert (name, fields["scores"]) == ("counterpoint.Prediction", PREDICTION.scores)


def test_a_record_of_an_older_schema_is_resolved_by_the_registry(
    connect: Callable[[], SchemaRegistry], client: SchemaRegistryClient
) -> None:
    schema_id = client.register_schema(
        "old.feedback-value", Schema(json.dumps(OLD_FEEDBACK), "AVRO")
    )
    out = BytesIO()
    record = {"feedback_id": "f", "event_id": "e", "verdict": "accept"}
    fastavro.schemaless_writer(out, fastavro.parse_schema(OLD_FEEDBACK), record)
    data = struct.pack(">bI", 0, schema_id) + out.getvalue()
    codec = Codec(connect())
    assert codec.decode(data) == events.Feedback("f", "e", "accept", channel="client")


def test_the_users_own_topic_is_read_by_the_registry(
    connect: Callable[[], SchemaRegistry], client: SchemaRegistryClient
) -> None:
    schema = {
        "type": "record",
        "name": "Paid",
        "fields": [
            {"name": "payment", "type": "string"},
            {"name": "amount", "type": "double"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        ],
    }
    stock = AvroSerializer(client, json.dumps(schema))
    context = SerializationContext("payments", MessageField.VALUE)
    data = stock({"payment": "p1", "amount": 2.5, "at": 1_700_000_000_000}, context)
    source = Source("payments", event_id="payment", occurred_at="at")
    read = input_reader(source, Codec(connect()))
    assert read(None, data) == events.Input("p1", {"amount": 2.5}, None, 1_700_000_000_000)


def test_an_id_that_the_registry_does_not_know_makes_a_bad_record(
    connect: Callable[[], SchemaRegistry],
) -> None:
    codec = Codec(connect())
    for _ in range(2):
        with pytest.raises(BadRecord, match="schema 123456789, which the registry http"):
            codec.decode(b"\x00" + (123_456_789).to_bytes(4, "big") + b"x")


def test_an_id_that_the_registry_does_not_know_is_not_asked_for_again_at_once(
    apicurio: Apicurio, connect: Callable[[], SchemaRegistry]
) -> None:
    registry = connect()
    with pytest.raises(BadRecord):
        registry.schema(987_654_321)
    apicurio.stop()
    with pytest.raises(BadRecord, match="schema 987654321"):
        registry.schema(987_654_321)
    with pytest.raises(Unavailable):
        registry.schema(987_654_322)


def test_a_schema_that_is_not_avro_makes_a_bad_record(
    connect: Callable[[], SchemaRegistry], client: SchemaRegistryClient
) -> None:
    text = '{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}'
    schema_id = client.register_schema("other-value", Schema(text, "JSON"))
    with pytest.raises(BadRecord, match="is JSON, not Avro"):
        Codec(connect()).decode(struct.pack(">bI", 0, schema_id) + b"x")


def test_a_schema_that_the_registry_refuses_is_the_operators_mistake(
    connect: Callable[[], SchemaRegistry], client: SchemaRegistryClient
) -> None:
    other = {**OLD_FEEDBACK, "fields": [{"name": "feedback_id", "type": "int"}]}
    client.register_schema("strict-value", Schema(json.dumps(other), "AVRO"))
    client.set_compatibility("strict-value", "BACKWARD")
    with pytest.raises(ConfigError, match="registry subject = 'strict-value': a schema that the"):
        Codec(connect()).encode("strict", events.Feedback("f", "e", "accept"))


def test_while_the_registry_is_down_known_schemas_work_and_others_wait(
    apicurio: Apicurio, connect: Callable[[], SchemaRegistry]
) -> None:
    """It comes back having forgotten everything; what was learned from it stays true."""
    knowing = Codec(connect())
    data = knowing.encode(TOPIC, PREDICTION)
    fresh = Codec(connect())
    feedback = events.Feedback("f", "e", "accept")
    apicurio.stop()

    assert knowing.decode(data) == PREDICTION
    assert knowing.encode(TOPIC, PREDICTION) == data
    told = f"the schema registry {apicurio.url} does not answer for "
    calls: list[Any] = [
        lambda: fresh.decode(data),
        lambda: fresh.decode_any(data),
        lambda: fresh.encode(TOPIC, PREDICTION),
        lambda: fresh.encoder(events.Feedback, "payments.feedback"),
        lambda: knowing.encode("payments.feedback", feedback),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match=told):
            call()

    apicurio.start()
    again = fresh.encode(TOPIC, PREDICTION)
    assert fresh.decode(again) == PREDICTION
    assert fresh.decode(knowing.encode("payments.feedback", feedback)) == feedback
    assert knowing.decode(data) == PREDICTION
    assert knowing.encode(TOPIC, PREDICTION) == data


def test_a_password_in_the_address_is_not_told() -> None:
    registry = SchemaRegistry({"url": "http://ann:secret@127.0.0.1:9/"})
    with closing(registry), pytest.raises(Unavailable) as caught:
        registry.schema(1)
    assert "secret" not in str(caught.value)
    assert "http://127.0.0.1:9/" in str(caught.value)
