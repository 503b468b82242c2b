"""The topics of a loop: their names, how many partitions, and the settings that its promises rest on.

It does not talk to a broker: ``engine.admin`` creates and checks what is specified here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

INPUTS, PREDICTIONS, REVIEWS, FEEDBACK = "inputs", "predictions", "reviews", "feedback"
EXAMPLES, OUTCOMES, MODELS, SCORES = "examples", "outcomes", "models", "scores"
STATUS, DEAD_LETTERS = "status", "dead-letters"
SUFFIXES = (
    *(INPUTS, PREDICTIONS, REVIEWS, FEEDBACK, EXAMPLES),
    *(OUTCOMES, MODELS, SCORES, STATUS, DEAD_LETTERS),
)

DAY_MS = 86_400_000
SLACK_MS = DAY_MS
"""What is needed for a join is kept this much longer: for workers that were down, and clocks that differ."""
UNLIMITED = "-1"


class TopicSpec(NamedTuple):
    """What a topic has to be.

    Attributes:
        name: Its full name.
        partitions: How many; 0 for a topic that is not ours, which may have any number.
        config: Broker settings, as text; numbers of retention and size are lower limits.
        own: Whether we create it; others need only exist.
    """

    name: str
    partitions: int
    config: Mapping[str, str]
    own: bool = True


class Keep(NamedTuple):
    """How long records stay, and how large they may be, where the loop itself does not say.

    Attributes:
        inputs_ms: Raw inputs.
        outcomes_ms: Outcomes; never shorter than the feedback they are about.
        dead_letters_ms: Records that could not be used; never shorter than the feedback that may be among them.
        record_bytes: The largest record that is taken in.
    """

    inputs_ms: int = 7 * DAY_MS
    outcomes_ms: int = 90 * DAY_MS
    dead_letters_ms: int = 90 * DAY_MS
    record_bytes: int = 512 << 10


class HasTopic(Protocol):
    """A source: its own topic, or None for the loop's."""

    @property
    def topic(self) -> str | None: ...


class HasTopics(Protocol):
    """What has to be known of a loop."""

    @property
    def name(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def window_ms(self) -> int: ...
    @property
    def early_ms(self) -> int: ...
    @property
    def model_key(self) -> Any: ...
    @property
    def inputs(self) -> HasTopic: ...
    @property
    def labels(self) -> Sequence[HasTopic]: ...


def topic_name(loop: str, suffix: str) -> str:
    """The name of a loop's own topic.

    >>> topic_name("payments", DEAD_LETTERS)
    'payments.dead-letters'
    """
    return f"{loop}.{suffix}"


def join_ms(loop: HasTopics) -> int:
    """How long predictions and feedback have to be kept for every join to be decided, or decided again."""
    return 2 * loop.window_ms + loop.early_ms + SLACK_MS


def topics(loop: HasTopics, keep: Keep = Keep()) -> dict[str, TopicSpec]:  # noqa: B008  a value
    """All topics of a loop by suffix, the user's own among them: ``inputs``, and ``label:<topic>`` for each of labels."""
    specs = {suffix: _spec(loop, suffix, keep) for suffix in SUFFIXES}
    if loop.inputs.topic is not None:
        specs[INPUTS] = _foreign(loop.inputs.topic)
    for source in loop.labels:
        specs[f"label:{source.topic}"] = _foreign(str(source.topic))
    return specs


def _foreign(name: str) -> TopicSpec:
    return TopicSpec(name, 0, {}, own=False)


def _spec(loop: HasTopics, suffix: str, keep: Keep) -> TopicSpec:
    by_model_key = loop.partitions if loop.model_key is not None else 1
    partitions = {EXAMPLES: by_model_key, MODELS: by_model_key, SCORES: by_model_key}
    partitions |= {STATUS: 1, DEAD_LETTERS: 1}
    # t(record) is the broker's clock: monotone in a partition, and nobody's claim.
    config = {"message.timestamp.type": "LogAppendTime", **_config(loop, suffix, keep)}
    name = topic_name(loop.name, suffix)
    return TopicSpec(name, partitions.get(suffix, loop.partitions), config)


def _config(loop: HasTopics, suffix: str, keep: Keep) -> dict[str, str]:
    joined_ms = join_ms(loop)
    # What we write about a record holds it and more, and Avro may take twice the room of JSON.
    large = str(2 * keep.record_bytes + (1 << 20))
    match suffix:
        case "models" | "status":
            # The broker never compacts the segment it writes to: with short ones, old states go away.
            compacted = {"cleanup.policy": "compact", "segment.ms": "600000"}
            return compacted | ({"max.message.bytes": large} if suffix == MODELS else {})
        case "examples":
            return _kept(UNLIMITED) | {"max.message.bytes": large}
        case "predictions":
            return _kept(joined_ms) | {"max.message.bytes": large}
        case "feedback" | "reviews":
            return _kept(joined_ms) | {"max.message.bytes": large}
        case "outcomes":
            return _kept(max(keep.outcomes_ms, joined_ms + loop.window_ms))
        case "dead-letters":
            # Whatever was too large elsewhere has room here.
            kept = _kept(max(keep.dead_letters_ms, joined_ms + loop.window_ms))
            return kept | {"max.message.bytes": str(32 << 20)}
        case "scores":
            return _kept(UNLIMITED)
        case _:
            return _kept(keep.inputs_ms) | {"max.message.bytes": large}


def _kept(retention_ms: int | str) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(retention_ms),
        "retention.bytes": UNLIMITED,
    }


def murmur2(key: bytes) -> int:
    """Kafka's hash of a key, as a signed 32-bit number.

    >>> murmur2(b"21"), murmur2(b"foobar")
    (-973932308, -790332482)
    """
    length = len(key)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * 0x5BD1E995 & 0xFFFFFFFF
        k = (k ^ k >> 24) * 0x5BD1E995 & 0xFFFFFFFF
        h = h * 0x5BD1E995 & 0xFFFFFFFF ^ k
    if whole < length:
        h = (h ^ int.from_bytes(key[whole:], "little")) * 0x5BD1E995 & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    h ^= h >> 15
    return h - (1 << 32) if h >> 31 else h


def partition_of(key: bytes, n: int) -> int:
    """The partition out of ``n`` that Kafka's own clients give to a key (librdkafka: ``murmur2_random``).

    >>> partition_of(b"event-1", 4)
    2
    """
    return (murmur2(key) & 0x7FFFFFFF) % n
