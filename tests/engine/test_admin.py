"""Topics on a real broker: created, checked, described, deleted; and brokers that do not let us in."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewPartitions,
    ResourcePatternType,
    ResourceType,
)

from streams.broker import Broker
from streams.core.errors import ConfigError, Mistake, NotFound, Unavailable
from streams.core.topics import DAY_MS, TopicSpec, topics
from streams.engine import admin
from tests.conftest import Kafka


class Named(NamedTuple):
    topic: str | None = None


class ALoop(NamedTuple):
    name: str
    partitions: int = 2
    window_ms: int = DAY_MS
    early_ms: int = 0
    model_key: str | None = None
    inputs: Named = Named()
    labels: tuple[Named, ...] = ()


@pytest.fixture
def client(broker: Kafka) -> AdminClient:
    return admin.connect({"bootstrap.servers": broker.bootstrap})


def make(client: AdminClient, name: str, partitions: int, **config: str) -> None:
    given = {setting.replace("_", "."): value for setting, value in config.items()}
    admin.create(client, [TopicSpec(name, partitions, given)], 1)


def produce(broker: Kafka, topic: str, partition: int, count: int) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for _ in range(count):
        producer.produce(topic, b"value", partition=partition)
    assert producer.flush(30) == 0


def by_name(mistakes: list[Mistake]) -> dict[str, object]:
    return {mistake.name: mistake.value for mistake in mistakes}


def test_what_is_created_passes_the_check_and_can_be_used_at_once(
    client: AdminClient, broker: Kafka, unique: str
) -> None:
    specs, told = list(topics(ALoop(unique)).values()), list[str]()
    made = admin.create(client, specs, 1, told.append)
    assert sorted(made) == sorted(spec.name for spec in specs)
    assert sorted(told) == sorted(f"created {name}" for name in made)
    assert admin.check(client, specs) == []
    produce(broker, f"{unique}.inputs", 1, 3)
    assert admin.describe(client, [f"{unique}.inputs"])[0].records == 3


def test_creating_again_changes_nothing(client: AdminClient, unique: str) -> None:
    specs = list(topics(ALoop(unique)).values())
    admin.create(client, specs, 1)
    before = admin.topic_ids(client, [spec.name for spec in specs])
    assert admin.create(client, list(topics(ALoop(unique, partitions=5)).values()), 1) == []
    assert admin.topic_ids(client, [spec.name for spec in specs]) == before


def test_the_user_s_own_topics_are_missed_but_never_created_nor_checked_further(
    client: AdminClient, unique: str
) -> None:
    loop = ALoop(unique, inputs=Named(f"{unique}-mine"), labels=(Named(f"{unique}-lost"),))
    specs = list(topics(loop).values())
    admin.create(client, specs, 1)
    missing = admin.check(client, specs)
    assert by_name(missing) == {f"{unique}-mine": "missing", f"{unique}-lost": "missing"}
    assert f"--create --topic {unique}-mine" in missing[0].expected
    make(client, f"{unique}-mine", 9)
    make(client, f"{unique}-lost", 1)
    assert admin.check(client, specs) == []


def test_everything_that_is_off_is_told_together_with_the_command_that_mends_it(
    client: AdminClient, unique: str
) -> None:
    make(client, f"{unique}.predictions", 3, retention_ms="1000")
    make(client, f"{unique}.examples", 2, cleanup_policy="compact")
    make(client, f"{unique}.models", 1, max_message_bytes="1000")
    make(client, f"{unique}.feedback", 2, retention_bytes="1000")
    wanted = ("predictions", "examples", "models", "feedback", "status")
    specs = [topics(ALoop(unique))[suffix] for suffix in wanted]
    found = admin.check(client, specs)
    assert by_name(found) == {
        f"{unique}.predictions partitions": 3,
        f"{unique}.examples partitions": 2,
        f"{unique}.status": "missing",
        f"{unique}.predictions message.timestamp.type": "CreateTime",
        f"{unique}.predictions retention.ms": "1000",
        f"{unique}.predictions max.message.bytes": "1048588",
        f"{unique}.examples message.timestamp.type": "CreateTime",
        f"{unique}.examples cleanup.policy": "compact",
        f"{unique}.examples retention.ms": "604800000",
        f"{unique}.examples max.message.bytes": "1048588",
        f"{unique}.models message.timestamp.type": "CreateTime",
        f"{unique}.models cleanup.policy": "delete",
        f"{unique}.models max.message.bytes": "1000",
        f"{unique}.feedback message.timestamp.type": "CreateTime",
        f"{unique}.feedback retention.bytes": "1000",
        f"{unique}.feedback max.message.bytes": "1048588",
    }
    expected = {mistake.name: mistake.expected for mistake in found}
    assert "Loop(partitions=3)" in expected[f"{unique}.predictions partitions"]
    assert "exactly one" in expected[f"{unique}.examples partitions"]
    assert "counterpoint topics create" in expected[f"{unique}.status"]
    mending = (
        f'kafka-configs.sh --bootstrap-server "$COUNTERPOINT_BOOTSTRAP" --alter --entity-type topics'
        f" --entity-name {unique}.examples --add-config cleanup.policy=delete"
    )
    assert expected[f"{unique}.examples cleanup.policy"] == f"delete: {mending}"


def test_more_room_than_needed_is_no_mistake(client: AdminClient, unique: str) -> None:
    spec = topics(ALoop(unique))["predictions"]
    config = {**spec.config, "retention.ms": "-1", "max.message.bytes": "9999999"}
    admin.create(client, [spec._replace(config=config)], 1)
    assert admin.check(client, [spec]) == []


def test_more_partitions_than_before_are_told(client: AdminClient, unique: str) -> None:
    spec = topics(ALoop(unique))["feedback"]
    admin.create(client, [spec], 1)
    client.create_partitions([NewPartitions(spec.name, 3)])[spec.name].result(30)
    await_check(client, spec, "Loop(partitions=3)")


def test_a_topic_that_was_deleted_and_made_again_has_another_id(
    client: AdminClient, unique: str
) -> None:
    spec = TopicSpec(unique, 1, {})
    admin.create(client, [spec], 1)
    before = admin.topic_ids(client, [unique])
    assert admin.delete(client, [unique, f"{unique}-never-was"]) == [unique]
    assert admin.delete(client, [unique]) == []
    admin.create(client, [spec], 1)
    assert admin.topic_ids(client, [unique]).keys() == before.keys()
    assert admin.topic_ids(client, [unique]) != before


def test_topics_are_described_in_the_order_asked_for(
    client: AdminClient, broker: Kafka, unique: str
) -> None:
    names = [f"{unique}-b", f"{unique}-a"]
    admin.create(client, [TopicSpec(name, 3, {}) for name in names], 1)
    produce(broker, names[0], 0, 5)
    produce(broker, names[0], 2, 2)
    found = admin.describe(client, names)
    assert [(info.name, info.partitions, info.records) for info in found] == [
        (names[0], 3, 7),
        (names[1], 3, 0),
    ]
    assert {info.name: info.topic_id for info in found} == admin.topic_ids(client, names)
    assert admin.describe(client, []) == []


def test_a_topic_that_is_not_there_is_told(client: AdminClient, unique: str) -> None:
    with pytest.raises(NotFound, match=f"there is no topic {unique}"):
        admin.describe(client, [unique])
    with pytest.raises(NotFound, match=f"there is no topic {unique}"):
        admin.topic_ids(client, [unique])


def test_what_the_broker_refuses_to_create_is_told_together(
    client: AdminClient, unique: str
) -> None:
    wrong = TopicSpec(unique, 1, {"cleanup.policy": "keep"})
    with pytest.raises(ConfigError) as caught:
        admin.create(client, [wrong, TopicSpec("no name", 1, {})], 1)
    assert by_name(list(caught.value.mistakes)) == {unique: "not created", "no name": "not created"}
    with pytest.raises(ConfigError, match="COUNTERPOINT_REPLICATION_FACTOR"):
        admin.create(client, [TopicSpec(unique, 1, {})], 99)


def test_no_broker_is_one_sentence_within_the_time_given() -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        admin.reachable({"bootstrap.servers": "127.0.0.1:9"}, timeout_s=1.5)
    assert time.monotonic() - began < 10
    told = str(caught.value)
    assert told.startswith("no Kafka at 127.0.0.1:9 within 1.5 s: ")
    assert "Connection refused" in told
    assert "set COUNTERPOINT_BOOTSTRAP" in told
    assert "\n" not in told


def test_settings_that_do_not_fit_together_are_told() -> None:
    with pytest.raises(Unavailable, match=r"security\.protocol"):
        admin.reachable({"bootstrap.servers": "127.0.0.1:9", "security.protocol": "none"})


class Secured(Broker):
    """The embedded broker with names, passwords and rights, as a team's Kafka has them."""

    password = secrets.token_hex(8)

    def _settings(self) -> dict[str, str]:
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        listener = "listener.name.plaintext.plain.sasl.jaas.config"
        users = f'username="root" password="{self.password}"'
        known = f'user_root="{self.password}" user_app="{self.password}"'
        return {
            **super()._settings(),
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            listener: f"{plain} {users} {known};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:root;User:ANONYMOUS",
        }

    def as_user(self, name: str, password: str | None = None) -> dict[str, str]:
        return {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": name,
            "sasl.password": password or self.password,
        }

    def _answers(self) -> bool:
        try:
            admin.reachable(self.as_user("root"), 0.5)
        except Unavailable:
            return False
        return True


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    broker = Secured(tmp_path_factory.mktemp("secured"))
    with broker:
        yield broker


def test_a_wrong_password_is_told_at_once(secured: Secured) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        admin.reachable(secured.as_user("app", "guessed"), timeout_s=20)
    assert time.monotonic() - began < 10
    assert "does not let us in" in str(caught.value)
    assert "Authentication failed" in str(caught.value)
    assert "Check COUNTERPOINT_SECURITY_PROTOCOL, COUNTERPOINT_SASL_*" in str(caught.value)
    assert "guessed" not in str(caught.value)


def test_a_client_without_a_password_is_told(secured: Secured) -> None:
    with pytest.raises(Unavailable, match="set COUNTERPOINT_SECURITY_PROTOCOL"):
        admin.reachable({"bootstrap.servers": secured.bootstrap}, timeout_s=2)


def test_rights_that_are_refused_are_told_with_the_command_that_grants_them(
    secured: Secured, unique: str
) -> None:
    spec = TopicSpec(unique, 1, {"cleanup.policy": "delete"})
    app, root = admin.connect(secured.as_user("app")), admin.connect(secured.as_user("root"))
    with pytest.raises(ConfigError, match=f"--operation Create --topic {unique}"):
        admin.create(app, [spec], 1)
    admin.create(root, [spec], 1)
    (found,) = admin.check(app, [spec])
    assert (found.name, found.value) == (unique, "refused")
    assert f"kafka-acls.sh {admin.SERVER} --add" in found.expected
    assert f"--operation Describe --topic {unique}" in found.expected
    with pytest.raises(NotFound, match="the right to describe it"):
        admin.topic_ids(app, [unique])
    allow(root, unique, AclOperation.DESCRIBE)
    await_check(app, spec, "--operation DescribeConfigs")
    with pytest.raises(ConfigError, match="--operation Delete"):
        admin.delete(app, [unique])
    allow(root, unique, AclOperation.DESCRIBE_CONFIGS)
    await_check(app, spec, "")


def test_a_role_is_told_all_rights_that_it_lacks_before_it_would_wait_in_silence(
    secured: Secured, unique: str
) -> None:
    app, root = admin.connect(secured.as_user("app")), admin.connect(secured.as_user("root"))
    specs = [TopicSpec(f"{unique}.{n}", 1, {"cleanup.policy": "delete"}) for n in ("in", "out")]
    admin.create(root, specs, 1)
    (read, written), group = (spec.name for spec in specs), f"{unique}.predictor"
    assert admin.rights(root, [read], [written], group) == []
    found = {
        mistake.name: mistake.expected for mistake in admin.rights(app, [read], [written], group)
    }
    assert f"--operation Read --topic {read}" in found[read]
    assert f"--operation Write --topic {written}" in found[written]
    assert f"--operation Read --group {group}" in found[f"group {group}"]
    allow(root, read, AclOperation.READ)
    allow(root, written, AclOperation.WRITE)
    allow(root, group, AclOperation.READ, ResourceType.GROUP)
    deadline = time.monotonic() + 10
    while admin.rights(app, [read], [written], group):
        assert time.monotonic() < deadline, "the broker has heard of the rights"


def allow(
    root: AdminClient,
    name: str,
    operation: AclOperation,
    kind: ResourceType = ResourceType.TOPIC,
) -> None:
    binding = AclBinding(
        kind,
        name,
        ResourcePatternType.LITERAL,
        "User:app",
        "*",
        operation,
        AclPermissionType.ALLOW,
    )
    root.create_acls([binding])[binding].result(30)


def await_check(client: AdminClient, spec: TopicSpec, told: str) -> None:
    """Nothing else tells when a broker has heard what its controller has decided."""
    deadline = time.monotonic() + 10
    while True:
        found = [mistake.expected for mistake in admin.check(client, [spec])]
        if (told in found[0]) if told and found else not (told or found):
            return
        assert time.monotonic() < deadline, found
