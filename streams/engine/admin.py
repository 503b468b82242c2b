"""Topics on the broker: made, checked against what the loop's promises need, described, deleted.

It changes no topic that is there, and none that is the user's own: it tells the command that would.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AclOperation,
    AdminClient,
    ConfigResource,
    ConsumerGroupDescription,
    NewTopic,
    OffsetSpec,
    ResourceType,
    TopicDescription,
)

from streams.core.errors import ConfigError, Mistake, NotFound, Unavailable
from streams.core.topics import UNLIMITED, TopicSpec

T = TypeVar("T")

CONNECT_S = 20.0
REQUEST_S = 15.0
VISIBLE_S = 15.0

EXACT = ("cleanup.policy", "message.timestamp.type")
AT_LEAST = ("retention.ms", "retention.bytes", "max.message.bytes")
HOPELESS = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED)
"""What waiting does not mend."""
REFUSED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
)
MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
NOT_YET = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)
"""What a broker says while a partition's leader takes up its work."""
MOVING = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)
"""What a broker says while a group's coordinator does."""

# As pasted into a shell that has the setting.
SERVER = '--bootstrap-server "$COUNTERPOINT_BOOTSTRAP"'


class TopicInfo(NamedTuple):
    """A topic as it is.

    Attributes:
        topic_id: Another one after it was deleted and made again.
        records: Offsets between first and end: with compaction or transactions, not all are records.
    """

    name: str
    topic_id: str
    partitions: int
    records: int


def reachable(kafka: Mapping[str, Any], timeout_s: float = CONNECT_S) -> None:
    """See that a broker answers, and lets us in.

    Raises:
        Unavailable: It does not, and why, in a sentence.
    """
    connect(kafka, timeout_s)


def connect(kafka: Mapping[str, Any], timeout_s: float = CONNECT_S) -> AdminClient:
    """An admin client whose broker has answered.

    Raises:
        Unavailable: None does, and why, in a sentence.
    """
    told: list[KafkaError] = []  # the reason is only told here; requests just time out
    try:
        conf: dict[str, Any] = {"log_level": 0, **kafka, "error_cb": told.append}
        admin = AdminClient(conf)
    except KafkaException as error:
        message = f"the settings for Kafka do not fit together: {_error(error).str()}"
        raise Unavailable(message) from error
    deadline = monotonic() + timeout_s
    while not _answers(admin):
        hopeless = [error for error in told if error.code() in HOPELESS]
        if hopeless or monotonic() > deadline:
            raise Unavailable(_why(str(kafka["bootstrap.servers"]), timeout_s, hopeless or told))
    return admin


def _answers(admin: AdminClient) -> bool:
    try:
        admin.list_topics(timeout=0.5)
    except KafkaException:
        admin.poll(0.1)
        return False
    return True


def _why(servers: str, timeout_s: float, told: list[KafkaError]) -> str:
    # "all brokers down" says less than what was told before it.
    telling = [error for error in told if error.code() != KafkaError._ALL_BROKERS_DOWN]
    if not telling:  # a refused connection would have been told: someone is there, and hangs up
        return (
            f"Kafka at {servers} does not answer within {timeout_s:g} s."
            " If it wants TLS or a password, set COUNTERPOINT_SECURITY_PROTOCOL"
        )
    reason = telling[-1].str()
    if telling[-1].code() in HOPELESS:
        return (
            f"Kafka at {servers} does not let us in: {reason}. "
            "Check COUNTERPOINT_SECURITY_PROTOCOL, COUNTERPOINT_SASL_* and COUNTERPOINT_SSL_CA"
        )
    return (
        f"no Kafka at {servers} within {timeout_s:g} s: {reason}. "
        "Start it (`counterpoint broker` starts one), or set COUNTERPOINT_BOOTSTRAP"
    )


def create(
    admin: AdminClient,
    specs: Iterable[TopicSpec],
    replication_factor: int,
    echo: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Make the topics that are missing, our own only, and give their names once they can be used.

    Raises:
        ConfigError: The broker refused some: what was refused, and what it takes.
        Unavailable: It did not answer.
    """
    own = [spec for spec in specs if spec.own]
    there = _metadata(admin)
    new = [spec for spec in own if spec.name not in there]
    if not new:
        return []
    made: list[str] = []
    mistakes: list[Mistake] = []
    asked = [
        NewTopic(spec.name, spec.partitions, replication_factor, config=dict(spec.config))
        for spec in new
    ]
    for name, future in admin.create_topics(asked, request_timeout=REQUEST_S).items():
        try:
            future.result(REQUEST_S + 1)
        except KafkaException as error:
            if _error(error).code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # another process was faster
            mistakes.append(_refusal(name, _error(error), replication_factor))
        else:
            made.append(name)
            echo(f"created {name}")
    if mistakes:
        raise ConfigError(mistakes)
    _await_visible(admin, {spec.name: spec.partitions for spec in new})
    return made


def _refusal(name: str, error: KafkaError, replication_factor: int) -> Mistake:
    code = error.code()
    if code in REFUSED:
        return _no_right(name, "Create")
    if code == KafkaError.INVALID_REPLICATION_FACTOR:
        expected = "no more than there are brokers: set COUNTERPOINT_REPLICATION_FACTOR"
        return Mistake(f"{name} replication factor", replication_factor, expected)
    if code in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError.REQUEST_TIMED_OUT):
        message = f"topic {name} was not created: {error.str()}"
        raise Unavailable(message)
    return Mistake(name, "not created", f"what the broker accepts: {error.str()}")


def _no_right(name: str, operation: str, kind: str = "topic") -> Mistake:
    expected = (
        f"the right to {operation.lower()} it: kafka-acls.sh {SERVER} --add"
        f" --allow-principal User:YOURS --operation {operation} --{kind} {name}"
    )
    return Mistake(name if kind == "topic" else f"{kind} {name}", "refused", expected)


def _metadata(admin: AdminClient) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = admin.list_topics(timeout=REQUEST_S).topics
    except KafkaException as error:
        message = f"the broker did not tell its topics: {_error(error).str()}"
        raise Unavailable(message) from error
    return found


def _await_visible(admin: AdminClient, partitions: Mapping[str, int]) -> None:
    deadline = monotonic() + VISIBLE_S
    while True:
        there = _metadata(admin)
        late = [name for name, count in partitions.items() if not _has_leaders(there, name, count)]
        if not late:
            break
        if monotonic() > deadline:
            message = f"created, but without a leader after {VISIBLE_S:g} s: {', '.join(late)}"
            raise Unavailable(message)
        admin.poll(0.05)
    # A leader is announced a moment before it serves.
    every = [TopicPartition(name, n) for name, count in partitions.items() for n in range(count)]
    _offsets(admin, every, OffsetSpec.latest())


def _has_leaders(there: Mapping[str, Any], name: str, count: int) -> bool:
    if name not in there or len(there[name].partitions) < count:
        return False
    return all(partition.leader >= 0 for partition in there[name].partitions.values())


def check(admin: AdminClient, specs: Iterable[TopicSpec]) -> list[Mistake]:
    """Everything about the topics that the loop's promises cannot live with; each with the command that mends it.

    Raises:
        Unavailable: The broker did not answer.
    """
    specs = list(specs)
    described = _described(admin, [spec.name for spec in specs])
    mistakes: list[Mistake] = []
    known = []
    for spec in specs:
        found = described[spec.name]
        if isinstance(found, KafkaError):
            mistakes.append(_absent(spec, found))
        elif spec.own:
            known.append(spec)
            if len(found.partitions) != spec.partitions:
                mistakes.append(_wrong_count(spec, len(found.partitions)))
    for spec in known:
        mistakes += _wrong_config(spec, admin)
    return mistakes


def rights(
    admin: AdminClient, reads: Collection[str], writes: Collection[str], group: str
) -> list[Mistake]:
    """Everything that this user may not do and a role has to: a consumer without rights would wait in silence.

    Raises:
        Unavailable: The broker did not answer.
    """
    described = _described(admin, [*reads, *writes], operations=True)
    wanted = [("Read", name) for name in reads] + [("Write", name) for name in writes]
    mistakes = [
        _no_right(name, operation)
        for operation, name in wanted
        if not _allows(described[name], operation)
    ]
    if not _allows(_described_group(admin, group), "Read"):
        mistakes.append(_no_right(group, "Read", "group"))
    return mistakes


def _described_group(admin: AdminClient, group: str) -> ConsumerGroupDescription | KafkaError:
    """What the group's coordinator says; one that was asked before it is the coordinator is asked again."""
    deadline = monotonic() + REQUEST_S
    while True:
        future = admin.describe_consumer_groups(
            [group], include_authorized_operations=True, request_timeout=REQUEST_S
        )[group]
        found: ConsumerGroupDescription | KafkaError = _settled(future)
        is_moving = isinstance(found, KafkaError) and found.code() in MOVING
        if not is_moving or monotonic() > deadline:
            return found
        admin.poll(0.05)


def _allows(
    found: TopicDescription | ConsumerGroupDescription | KafkaError, operation: str
) -> bool:
    if isinstance(found, KafkaError):
        if found.code() in REFUSED:
            return False
        message = f"the broker did not tell what this user may do: {found.str()}"
        raise Unavailable(message)
    allowed = found.authorized_operations
    return allowed is None or AclOperation[operation.upper()] in allowed


def _absent(spec: TopicSpec, error: KafkaError) -> Mistake:
    if error.code() in REFUSED:
        return _no_right(spec.name, "Describe")
    if error.code() not in MISSING:
        message = f"topic {spec.name}: {error.str()}"
        raise Unavailable(message)
    if spec.own:
        expected = "to be there: counterpoint topics create LOOP"
    else:
        expected = (
            "to be there, or another name in its Source; it is yours, so make it as it is to be: "
            f"kafka-topics.sh {SERVER} --create --topic {spec.name}"
        )
    return Mistake(spec.name, "missing", expected)


def _wrong_count(spec: TopicSpec, count: int) -> Mistake:
    if spec.partitions > 1:
        # Never more of them on a topic in use: its keys would move, and joins miss.
        mending = f"say Loop(partitions={count}) if all topics of the loop have so many"
    else:
        mending = "exactly one"
    expected = (
        f"{spec.partitions}: {mending}; or make it anew, which loses what is on it: "
        f"kafka-topics.sh {SERVER} --delete --topic {spec.name} && counterpoint topics create LOOP"
    )
    return Mistake(f"{spec.name} partitions", count, expected)


def _wrong_config(spec: TopicSpec, admin: AdminClient) -> Iterable[Mistake]:
    resource = ConfigResource(ResourceType.TOPIC, spec.name)
    future = admin.describe_configs([resource], request_timeout=REQUEST_S)[resource]
    found = _settled(future)
    if isinstance(found, KafkaError):
        if found.code() in REFUSED:
            yield _no_right(spec.name, "DescribeConfigs")
            return
        message = f"settings of topic {spec.name}: {found.str()}"
        raise Unavailable(message)
    for name, wanted in spec.config.items():
        actual = found[name].value if name in found else None
        if not _fits(name, actual, wanted):
            least = " or more" if name in AT_LEAST and wanted != UNLIMITED else ""
            expected = (
                f"{wanted}{least}: kafka-configs.sh {SERVER} --alter --entity-type topics"
                f" --entity-name {spec.name} --add-config {name}={wanted}"
            )
            yield Mistake(f"{spec.name} {name}", actual, expected)


def _fits(name: str, actual: str | None, wanted: str) -> bool:
    if name in EXACT:
        return actual == wanted
    if name in AT_LEAST:
        unlimited = actual == UNLIMITED
        return unlimited or (wanted != UNLIMITED and int(actual or 0) >= int(wanted))
    return True  # the rest is for comfort


def topic_ids(admin: AdminClient, names: Collection[str]) -> dict[str, str]:
    """Topic name to topic id.

    Raises:
        NotFound: There is no such topic, or we may not see it.
        Unavailable: The broker did not answer.
    """
    return {name: str(found.topic_id) for name, found in _existing(admin, names).items()}


def describe(admin: AdminClient, names: Collection[str]) -> list[TopicInfo]:
    """Topics as they are, in the order asked for.

    Raises:
        NotFound: There is no such topic, or we may not see it.
        Unavailable: The broker did not answer.
    """
    existing = _existing(admin, names)
    partitions = [
        TopicPartition(name, partition.id)
        for name, found in existing.items()
        for partition in found.partitions
    ]
    lows = _offsets(admin, partitions, OffsetSpec.earliest())
    highs = _offsets(admin, partitions, OffsetSpec.latest())
    records = dict.fromkeys(existing, 0)
    for (name, partition), high in highs.items():
        records[name] += high - lows[name, partition]
    return [
        TopicInfo(name, str(found.topic_id), len(found.partitions), records[name])
        for name, found in existing.items()
    ]


def _offsets(
    admin: AdminClient, partitions: list[TopicPartition], spec: OffsetSpec
) -> dict[tuple[str, int], int]:
    offsets: dict[tuple[str, int], int] = {}
    deadline = monotonic() + VISIBLE_S
    while partitions:
        late = []
        asked = admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=REQUEST_S)
        for partition, future in asked.items():
            found = _settled(future)
            if not isinstance(found, KafkaError):
                offsets[partition.topic, partition.partition] = found.offset
            elif found.code() in NOT_YET and monotonic() < deadline:
                late.append(partition)
            else:
                message = f"offsets of {partition.topic}-{partition.partition}: {found.str()}"
                raise Unavailable(message)
        partitions = late
        if late:
            admin.poll(0.05)
    return offsets


def delete(admin: AdminClient, names: Iterable[str]) -> list[str]:
    """Delete those of the topics that are there, with all that is on them, and give their names.

    Raises:
        ConfigError: The broker refused some.
        Unavailable: It did not answer.
    """
    there = _metadata(admin)
    names = [name for name in names if name in there]
    if not names:
        return []
    mistakes: list[Mistake] = []
    gone: list[str] = []
    for name, future in admin.delete_topics(names, request_timeout=REQUEST_S).items():
        found = _settled(future)
        if not isinstance(found, KafkaError):
            gone.append(name)
        elif found.code() in REFUSED:
            mistakes.append(_no_right(name, "Delete"))
        elif found.code() not in MISSING:
            message = f"topic {name} was not deleted: {found.str()}"
            raise Unavailable(message)
    if mistakes:
        raise ConfigError(mistakes)
    deadline = monotonic() + VISIBLE_S
    while not _metadata(admin).keys().isdisjoint(gone) and monotonic() < deadline:
        admin.poll(
            0.05
        )  # told by the controller before the brokers have heard: made anew now, it would be missed
    return gone


def _existing(admin: AdminClient, names: Collection[str]) -> dict[str, TopicDescription]:
    existing = {}
    for name, found in _described(admin, names).items():
        if not isinstance(found, KafkaError):
            existing[name] = found
        elif found.code() in REFUSED:
            raise NotFound(str(_no_right(name, "Describe")))
        elif found.code() in MISSING:
            message = (
                f"there is no topic {name}: counterpoint topics create LOOP makes a loop's own"
            )
            raise NotFound(message)
        else:
            message = f"topic {name}: {found.str()}"
            raise Unavailable(message)
    return existing


def _described(
    admin: AdminClient, names: Collection[str], *, operations: bool = False
) -> dict[str, TopicDescription | KafkaError]:
    if not names:
        return {}
    asked = TopicCollection(list(dict.fromkeys(names)))
    futures = admin.describe_topics(
        asked, include_authorized_operations=operations, request_timeout=REQUEST_S
    )
    return {name: _settled(future) for name, future in futures.items()}


def _settled(future: Future[T]) -> T | KafkaError:
    """What a request gave, or the error it ended in."""
    try:
        return future.result(REQUEST_S + 1)
    except KafkaException as error:
        return _error(error)


def _error(error: KafkaException) -> KafkaError:
    found: KafkaError = error.args[0]
    return found
