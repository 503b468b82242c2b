"""A predictor's replica without a broker: what it does with lessons and snapshots in the order in which they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import Message

from streams.core import exclusions
from streams.core.errors import Unavailable
from streams.core.events import EXCLUDE, Chunk, Example, Exclusion, Snapshot
from streams.core.fold import Fold
from streams.core.lineage import BEGINNING
from streams.engine import snapshots
from streams.engine.codec import Codec
from streams.engine.log import KIND, Opening
from streams.engine.replica import Replica
from streams.engine.snapshots import SnapshotReader
from tests.core.logs import binary_fold, logistic
from tests.e2e.system import lesson

CODEC = Codec()


class Registry(Codec):
    """A codec whose registry is down for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.down = 0

    def decode_as(self, cls: Any, data: bytes | None) -> Any:
        """Decodes, unless the registry is down."""
        if self.down:
            self.down -= 1
            message = "the registry is down"
            raise Unavailable(message)
        return super().decode_as(cls, data)


class Log:
    """A log of nothing: the replica is given its lessons by hand."""

    examples, models = "loop.examples", "loop.models"

    def __init__(self) -> None:
        self.stored: Fold | None = None

    def new_fold(self, *, scores: bool) -> Fold:
        """An unlearned model."""
        return binary_fold(logistic(), scored=scores)

    def load(self, reader: SnapshotReader, key: str, *, scores: bool) -> Fold:
        """What the learner has stored."""
        assert reader.take(key) is not None
        assert self.stored is not None
        return self.stored


@pytest.fixture
def codec() -> Registry:
    return Registry()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def replica(log: Log, codec: Registry) -> Replica:
    made = Replica(log, codec, replays=True)  # type: ignore[arg-type]  # all that is asked of a log
    reader = SnapshotReader(codec.decode, lambda manifest, chunks: b"")
    made._opening, made._snapshots = Opening(reader, lineage={0: BEGINNING}), reader
    return made


@pytest.fixture
def come(replica: Replica) -> Callable[[range], None]:
    """Has lessons come, as the reading thread would."""

    def of(numbers: range) -> None:
        for number in numbers:
            replica._pending.append((0, of_model("", number, lesson(number))))

    return of


def test_a_lesson_that_cannot_be_read_now_is_folded_later_and_none_is_passed_over(
    replica: Replica, codec: Registry, come: Callable[[range], None]
) -> None:
    """A version that says three lessons must hold three."""
    come(range(3))
    codec.down = 2
    for _ in range(2):
        with pytest.raises(Unavailable):
            replica.fold(1.0)
        assert replica.serving("").learned == 0
    assert not replica.fold(1.0)
    assert replica.versions == {"": 3}
    assert replica.serving("").learned == 3


def test_folding_stops_when_its_time_is_over_and_goes_on_with_the_next_call(
    replica: Replica, come: Callable[[range], None]
) -> None:
    come(range(50))
    assert replica.fold(0.0)
    assert replica.serving("").learned == 1
    while replica.fold(0.0):
        continue
    assert replica.serving("").learned == 50


def test_a_reading_thread_that_died_is_not_left_unnoticed(replica: Replica) -> None:
    """It would serve its last version for ever, and say nothing."""
    replica._failure = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        replica.fold(1.0)


def test_a_learner_that_was_faster_is_not_waited_for_again(
    replica: Replica, log: Log, come: Callable[[range], None]
) -> None:
    """Its repaired model is there before the replica meets the record that asks for it."""
    come(range(3))
    replica._pending.append((0, taking_out("", 3, 1)))
    log.stored = log.new_fold(scores=False)
    log.stored.version = 4
    for key, stored in sealed(log.stored):
        replica._stored.append(record(Log.models, 0, key, stored))
    assert not replica.fold(1.0)
    assert replica.serving("") is log.stored
    assert replica.versions == {"": 4}
    assert replica.numbers()["awaited"] == 0


def test_a_model_that_is_taken_does_not_leap_over_lessons_that_another_of_its_partition_still_needs(
    replica: Replica, log: Log
) -> None:
    """Both of a partition's models wait for the learner; the first one's snapshot is further back than the second's.

    A soak found it: the second seek took the first one's place, and the lessons between never came.
    """
    records = [
        of_model("far", 0, lesson(0, "far")),
        of_model("near", 1, lesson(1, "near")),
        taking_out("far", 2, 0),
        of_model("far", 3, lesson(3, "far")),
        taking_out("near", 4, 1),
        of_model("near", 5, lesson(5, "near")),
    ]
    replica._pending.extend((0, each) for each in records)
    assert not replica.fold(1.0)
    assert replica.numbers()["awaited"] == 2
    for key, version in (("far", 3), ("near", 5)):
        log.stored = stored = log.new_fold(scores=False)
        stored.version = version
        for name, part in sealed(stored, key):
            replica._stored.append(record(Log.models, 0, name, part))
        assert not replica.fold(1.0)
    sought = {epoch: offset for _, offset, epoch in replica._seeks}
    newest = max(sought)
    replica._pending.extend((newest, each) for each in records[sought[newest] :])
    assert not replica.fold(1.0)
    assert replica.versions == {"far": 4, "near": 6}
    assert replica.serving("far").learned == 1


def taking_out(key: str, at: int, offset: int) -> Message:
    """The control record at an offset that takes a model's lesson out."""
    out = exclusions.written(exclusions.places([("feedback", 0, offset)]))
    told = Exclusion("x", EXCLUDE, key, out, "reviewer=ann", "ada", "", 0)
    return record(Log.examples, at, key.encode(), told, [(KIND, EXCLUDE.encode())])


def record(
    topic: str,
    offset: int,
    key: bytes,
    value: Any,
    headers: Sequence[tuple[str, bytes]] = (),
) -> Message:
    """A record as the reading thread gets it."""
    data = CODEC.encode(topic, value)
    at = {"topic": topic, "partition": 0, "offset": offset}
    return Message(**at, key=key, value=data, headers=list(headers))


def of_model(key: str, offset: int, example: Example) -> Message:
    """A lesson of a model key, as the reading thread gets it."""
    value = CODEC.encoder(Example, "any")(example)
    return Message(topic=Log.examples, partition=0, offset=offset, key=key.encode(), value=value)


def sealed(fold: Fold, key: str = "") -> list[tuple[bytes, Snapshot | Chunk]]:
    """A snapshot, as its records."""
    told = Snapshot(
        *(f"s{key}", "loop", key, fold.version, "d", 0, 0, "t", 0, 0, 0, b"", 0, {}, []),
        parent=None,
        river="",
        created_at=0,
    )
    manifest, chunks = snapshots.seal(b"state", told, b"secret")
    keys = [*snapshots.chunk_keys(manifest), snapshots.manifest_key(manifest)]
    return list(zip(keys, [*chunks, manifest], strict=True))
