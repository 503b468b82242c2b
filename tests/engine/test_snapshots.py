"""Snapshots: signed, restricted, and put together from records in any order."""

from __future__ import annotations

import builtins
import collections
import functools
import io
import os
import pickle
import random
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import (
    compose,
    ensemble,
    facto,
    forest,
    linear_model,
    naive_bayes,
    neighbors,
    preprocessing,
    tree,
)
from river.__version__ import __version__ as river_version

from streams.core.errors import BadRecord
from streams.core.events import Check, Chunk, Snapshot
from streams.core.model import answerer
from streams.core.thinning import DAY_MS
from streams.engine import snapshots
from streams.engine.snapshots import (
    CHUNK_BYTES,
    SnapshotReader,
    chunk_keys,
    expendable,
    globals_of,
    manifest_key,
    parse_key,
    seal,
    unpickler,
    unseal,
)
from tests.core.logs import BINARY, binary_fold, lockstep, logistic, phishing

SECRET = b"secret"


def manifest(version: int = 7, snapshot_id: str = "s1", **changes: Any) -> Snapshot:
    blank = Snapshot(
        snapshot_id=snapshot_id,
        loop="payments",
        model_key="",
        version=version,
        definition="d",
        defined_at=0,
        floor=0,
        topic_id="t",
        partition=0,
        chunks=0,
        size=0,
        signature=b"",
        learned=version,
        metrics={"accuracy": 0.1 + 0.2, "n": 1},
        checks=[Check(3, "x")],
        parent=None,
        river=river_version,
        created_at=1000,
    )
    return blank._replace(**changes)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_state_comes_back_in_chunks_that_kafka_takes(size: int) -> None:
    state = random.Random(1).randbytes(size)
    sealed, chunks = seal(state, manifest(), SECRET)
    assert all(len(chunk.data) <= CHUNK_BYTES for chunk in chunks)
    assert (sealed.size, sealed.chunks) == (size, len(chunks))
    assert unseal(sealed, reversed(chunks), SECRET) == state


def test_whole_metrics_are_signed_as_the_wire_gives_them_back() -> None:
    sealed, chunks = seal(b"state", manifest(), SECRET)
    returned = sealed._replace(metrics={"n": 1.0, "accuracy": 0.1 + 0.2})
    assert unseal(returned, chunks, SECRET) == b"state"


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 8},
        {"loop": "cards"},
        {"model_key": "de"},
        {"definition": "e"},
        {"metrics": {"accuracy": 1.0, "n": 1}},
        {"checks": [Check(3, "y")]},
        {"parent": "s0"},
        {"topic_id": "u"},
        {"floor": 1},
        {"defined_at": 1},
        {"signature": b""},
    ],
)
def test_a_changed_manifest_is_refused(changed: dict[str, Any]) -> None:
    sealed, chunks = seal(b"state", manifest(), SECRET)
    with pytest.raises(BadRecord, match="not signed with this COUNTERPOINT_SECRET"):
        unseal(sealed._replace(**changed), chunks, SECRET)


def test_another_secret_is_refused() -> None:
    sealed, chunks = seal(b"state", manifest(), SECRET)
    with pytest.raises(BadRecord, match=r"Snapshot s1 .* version 7"):
        unseal(sealed, chunks, b"other")


def test_a_changed_state_is_refused() -> None:
    sealed, chunks = seal(b"state", manifest(), SECRET)
    with pytest.raises(BadRecord, match="not signed"):
        unseal(sealed, [chunks[0]._replace(data=b"State")], SECRET)


def test_a_missing_or_truncated_chunk_is_told() -> None:
    sealed, chunks = seal(bytes(2 * CHUNK_BYTES), manifest(), SECRET)
    with pytest.raises(BadRecord, match="lacks chunk 1 of 2"):
        unseal(sealed, chunks[:1], SECRET)
    with pytest.raises(BadRecord, match="truncated"):
        unseal(sealed, [chunks[0], chunks[1]._replace(data=b"")], SECRET)


def test_another_river_is_refused() -> None:
    sealed, chunks = seal(b"state", manifest(river="0.1"), SECRET)
    with pytest.raises(BadRecord, match=r"was made by River 0\.1"):
        unseal(sealed, chunks, SECRET)


# Unpickling


def doubled(features: dict[str, Any]) -> dict[str, Any]:
    """A user's own step."""
    return {name: 2 * value for name, value in features.items()}


class Calls:
    """A pickle that calls something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "harm",
    [
        Calls(os.system, "true"),
        Calls(subprocess.Popen, "true"),
        Calls(eval, "1"),
        Calls(exec, "1"),
        Calls(getattr, "a", "upper"),
        Calls(builtins.__import__, "os"),
        Calls(open, "/dev/null"),
        Calls(functools.reduce, max, [1]),
        doubled,
        collections.namedtuple,
    ],
)
def test_a_state_that_names_anything_else_is_refused(harm: Any) -> None:
    with pytest.raises(BadRecord, match="which is neither River's, nor plain data"):
        unpickler()(pickle.dumps({"model": harm}))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("river.base.base", "inspect"),
        ("river.base.base", "inspect.os.system"),
        ("river.compose.pipeline", "functools.partial"),
        ("river.datasets", "SMSSpam"),
        ("river.stream", "Cache"),
        ("river", "base"),
        ("river.compose.pipeline", "learn_during_predict"),
        ("riverside", "Bank"),
        ("numpy", "load"),
    ],
)
def test_no_way_leads_through_rivers_modules_to_what_they_import(module: str, name: str) -> None:
    data = b"\x80\x04" + b"".join(
        b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name)
    )
    with pytest.raises(BadRecord, match=f"names {module}.{name}"):
        unpickler()(data + b"\x93.")


def test_what_the_unlearned_model_names_is_allowed() -> None:
    model = compose.FuncTransformer(doubled) | linear_model.LogisticRegression()
    data = pickle.dumps(model)
    assert (doubled.__module__, "doubled") in globals_of(data)
    loaded = unpickler(globals_of(data))(data)
    assert answerer("binary", loaded, BINARY)({"a": 1.0}).confidence == 0.5


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_names_in_a_pickle_are_told_without_loading_it(protocol: int) -> None:
    value = [os.system, os.getcwd, collections.Counter(), np.float64(1), [np.float64(2)], doubled]
    named = globals_of(pickle.dumps(value, protocol=protocol))
    loaded: set[tuple[str, str]] = set()

    class Telling(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> Any:
            loaded.add((module, name))
            return super().find_class(module, name)

    Telling(io.BytesIO(pickle.dumps(value, protocol=5))).load()
    assert {name for _, name in loaded} <= {name for _, name in named}
    if protocol == 5:
        assert named == loaded


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x05", b"\x80\x04)R.", b"cos\nnothing\n."])
def test_a_damaged_state_is_a_bad_record(data: bytes) -> None:
    with pytest.raises(BadRecord):
        unpickler()(data)


def test_a_name_that_river_no_longer_has_is_a_bad_record() -> None:
    with pytest.raises(BadRecord, match="cannot be read"):
        unpickler()(b"criver.linear_model\nGone\n.")


LEARNED = [
    logistic(),
    naive_bayes.GaussianNB(),
    tree.HoeffdingTreeClassifier(),
    tree.HoeffdingAdaptiveTreeClassifier(seed=1),
    forest.ARFClassifier(n_models=3, seed=1),
    forest.AMFClassifier(n_estimators=3, seed=1),
    ensemble.BaggingClassifier(tree.HoeffdingTreeClassifier(), n_models=3, seed=1),
    ensemble.AdaBoostClassifier(linear_model.LogisticRegression(), n_models=3, seed=1),
    ensemble.SRPClassifier(n_models=3, seed=1),
    preprocessing.StandardScaler() | linear_model.SoftmaxRegression(),
    preprocessing.StandardScaler() | neighbors.KNNClassifier(),
    facto.FMClassifier(seed=1),
]


@pytest.mark.parametrize("model", LEARNED, ids=lambda model: type(model).__name__)
def test_learned_models_of_all_sorts_load(model: Any) -> None:
    fold = binary_fold(model)
    lockstep(fold, phishing()[:400])
    loads = unpickler(globals_of(pickle.dumps(model, protocol=5)))
    restored = binary_fold(model)
    restored.load(fold.dump(), loads)
    assert restored.digest() == fold.digest()


# Keys


def test_a_model_key_may_hold_slashes() -> None:
    key = manifest_key(manifest(model_key="de/berlin"))
    assert key == b"de/berlin/s1/manifest"
    assert parse_key(key) == ("de/berlin", "s1", None)
    assert parse_key(b"/s1/3") == ("", "s1", 3)


@pytest.mark.parametrize("key", [b"", b"s1/3", b"/s1/x", b"\xff/s1/3"])
def test_a_strange_key_is_a_bad_record(key: bytes) -> None:
    with pytest.raises(BadRecord, match="who else writes there"):
        parse_key(key)


def test_of_each_model_the_first_of_a_week_the_last_ones_and_every_base_are_kept() -> None:
    held = [
        manifest(version, f"{key}{version}", model_key=key, chunks=2, created_at=version)
        for key in ("a", "b")
        for version in range(14)
    ]
    gone = expendable(held, 60 * DAY_MS, bases={"a2"})
    assert gone[:5] == [
        b"a/a3/manifest",
        b"a/a1/manifest",
        b"b/b3/manifest",
        b"b/b2/manifest",
        b"b/b1/manifest",
    ]
    assert gone[5:7] == [b"a/a3/0", b"a/a3/1"]
    assert len(gone) == 15
    assert expendable(held[:10], 60 * DAY_MS) == []


# Reading

Records = list[tuple[bytes, object]]


def records(version: int, snapshot_id: str, state: bytes = b"state", **changes: Any) -> Records:
    sealed, chunks = seal(state, manifest(version, snapshot_id, **changes), SECRET)
    return [*zip(chunk_keys(sealed), chunks, strict=True), (manifest_key(sealed), sealed)]


class Values:
    """A codec that remembers what it encoded."""

    def __init__(self) -> None:
        self.held: list[object] = []

    def encode(self, record: object) -> bytes:
        self.held.append(record)
        return str(len(self.held) - 1).encode()

    def decode(self, data: bytes) -> object:
        if data == b"damaged":
            raise BadRecord("Not Avro")
        return self.held[int(data)]


def reader(**options: Any) -> tuple[SnapshotReader, Callable[[Records], list[Snapshot | None]]]:
    values = Values()
    made = SnapshotReader(
        values.decode, lambda found, chunks: unseal(found, chunks, SECRET), **options
    )

    def read(log: Records) -> list[Snapshot | None]:
        return [
            made.add(key, None if record is None else values.encode(record)) for key, record in log
        ]

    return made, read


BIG = bytes(2 * CHUNK_BYTES + 5)


@settings(max_examples=60, deadline=None)
@given(st.permutations(records(1, "s1", BIG) + records(2, "s2", BIG + b"2")))
def test_the_newest_snapshot_is_found_in_any_order(log: Records) -> None:
    made, read = reader()
    told = [snapshot for snapshot in read(log) if snapshot is not None]
    assert told[-1].snapshot_id == "s2"
    stored = made.newest("")
    assert stored is not None
    assert stored.state == BIG + b"2"
    assert made.model_keys() == [""]
    assert made.incomplete() == []
    assert held_bytes(made) == len(stored.state)


def held_bytes(made: SnapshotReader) -> int:
    """Bytes of states and chunks that a reader holds."""
    states = sum(len(stored.state) for stored in made._states.values())
    chunks = [c for k in made._chunks.values() for s in k.values() for c in s.values()]
    return states + sum(len(chunk.data) for chunk in chunks)


def test_each_model_key_has_its_own_newest() -> None:
    made, read = reader()
    read(records(5, "s5", model_key="de") + records(3, "s3", b"fr", model_key="fr"))
    assert made.model_keys() == ["de", "fr"]
    stored = made.newest("fr")
    assert stored is not None
    assert stored.state == b"fr"
    assert made.newest("it") is None


def test_an_incomplete_snapshot_is_ignored_and_its_keys_told() -> None:
    made, read = reader()
    read(records(1, "s1") + records(2, "s2", BIG)[:2])
    stored = made.newest("")
    assert stored is not None
    assert stored.snapshot.snapshot_id == "s1"
    assert made.incomplete() == [b"/s2/0", b"/s2/1"]


def test_an_invalid_snapshot_leaves_the_one_before_and_says_why() -> None:
    made, read = reader()
    forged = records(2, "s2", river="0.1")
    assert read(records(1, "s1") + forged)[-1] is None
    stored = made.newest("")
    assert stored is not None
    assert stored.snapshot.snapshot_id == "s1"
    assert "was made by River 0.1" in made.refused["s2"]
    assert read(forged)[-1] is None


def test_a_tombstone_takes_a_snapshot_away_whenever_it_comes() -> None:
    made, read = reader()
    read([(b"/s1/manifest", None), *records(1, "s1"), *records(2, "s2"), (b"/s2/0", None)])
    assert made.newest("") is None
    assert made.model_keys() == []
    assert made.manifests == {}
    read(records(1, "s3"))
    stored = made.newest("")
    assert stored is not None
    assert stored.snapshot.snapshot_id == "s3"


def test_a_snapshot_of_another_definition_is_not_used_but_known() -> None:
    made, read = reader(wanted=lambda snapshot: snapshot.definition == "mine")
    read(records(9, "s9") + records(2, "s2", definition="mine"))
    stored = made.newest("")
    assert stored is not None
    assert stored.snapshot.snapshot_id == "s2"
    assert set(made.manifests) == {"s9", "s2"}


def test_a_base_is_held_whoever_made_it() -> None:
    made, read = reader(wanted=lambda snapshot: snapshot.definition == "mine", bases=["s0"])
    read(records(1, "s0", b"base") + records(2, "s2", definition="mine"))
    base = made.base("s0")
    assert base is not None
    assert base.state == b"base"
    assert made.base("s1") is None
    stored = made.newest("")
    assert stored is not None
    assert stored.snapshot.snapshot_id == "s2"


def test_a_base_may_be_the_newest_and_stays_when_it_is_taken_or_overtaken() -> None:
    made, read = reader(bases=["s1"])
    read(records(1, "s1"))
    assert made.take("") is not None
    assert made.base("s1") is not None
    read(records(2, "s2"))
    assert made.base("s1") is not None


def test_a_taken_state_is_let_go_and_older_ones_stay_ignored() -> None:
    made, read = reader()
    read(records(2, "s2"))
    taken = made.take("")
    assert taken is not None
    assert taken.state == b"state"
    assert made.take("") is None
    assert read(records(1, "s1")) == [None, None]
    assert held_bytes(made) == 0


def test_few_unfinished_snapshots_are_held_at_a_time() -> None:
    made, read = reader()
    for number in range(50):
        read(records(number, f"s{number}", BIG)[:-1])
    assert held_bytes(made) == snapshots._UNFINISHED * len(BIG)
    assert "newer ones were begun" in made.refused["s0"]


def test_strange_records_are_told_and_passed() -> None:
    values = Values()
    made = SnapshotReader(values.decode, lambda found, chunks: b"")
    assert made.add(b"strange", b"") is None
    assert made.add(b"/s1/0", b"damaged") is None
    assert made.add(b"/s2/0", values.encode(Chunk("s3", 0, b""))) is None
    assert made.add(b"/s4/manifest", values.encode(manifest(1, "s4", model_key="de"))) is None
    assert made.refused["s1"] == "Not Avro"
    assert "not what its key says" in made.refused["s2"]
    assert "not what its key says" in made.refused["s4"]
    assert len(made.refused) == 4


def test_what_a_reader_remembers_is_bounded() -> None:
    made, read = reader()
    for number in range(snapshots._REMEMBERED + 50):
        read([(f"/s{number}/manifest".encode(), None)])
    assert len(made._gone) == snapshots._REMEMBERED


def test_a_base_that_comes_late_does_not_become_the_newest() -> None:
    made, read = reader(bases=["s1"])
    read(records(2, "s2"))
    assert read(records(1, "s1", b"base")) == [None, None]
    base, stored = made.base("s1"), made.newest("")
    assert base is not None
    assert base.state == b"base"
    assert stored is not None
    assert stored.snapshot.snapshot_id == "s2"
