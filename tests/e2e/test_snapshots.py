"""Snapshots that cannot be used lie on ``models`` as the newest: the one before serves, and ``status`` says why."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams import operate
from streams.core.events import Prediction, Snapshot
from streams.engine import snapshots
from tests.conftest import Kafka
from tests.e2e.system import System, await_that, lesson

SECRET = b"of the tests"


class Evil:
    """What does harm when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.fixture
def system(broker: Kafka, tmp_path: Path, unique: str) -> Iterator[System]:
    with System(
        broker.bootstrap, tmp_path, name=unique, more="partitions=2,", snapshot_interval_s=0.5
    ) as made:
        made.environ["COUNTERPOINT_SECRET"] = SECRET.decode()
        made.prepare()
        yield made


def publish(system: System, manifest: Snapshot, state: bytes, *, cut: bool = False) -> None:
    """Writes a snapshot as a learner would."""
    sealed, chunks = snapshots.seal(state, manifest, SECRET)
    if manifest.snapshot_id.startswith("forged"):
        sealed = sealed._replace(signature=b"\x00" * 32)
    topic = system.topic("models")
    for key, chunk in zip(snapshots.chunk_keys(sealed), chunks, strict=True):
        data = chunk.data[:-1] if cut else chunk.data
        value = system.codec.encode(topic, chunk._replace(data=data))
        system.write(topic, value, key, partition=manifest.partition)
    value = system.codec.encode(topic, sealed)
    system.write(topic, value, snapshots.manifest_key(sealed), partition=manifest.partition)


def test_of_each_kind_the_one_before_is_used_and_the_status_says_why(system: System) -> None:
    system.await_running(system.start("learner"))
    system.send("examples", map(lesson, range(20)), "model_key")
    system.await_ids("outcomes", [f"f-{n}" for n in range(20)], "feedback_id")

    def newest() -> Snapshot | None:
        found = [each for each in system.records("models", Snapshot) if each.version == 21]
        return found[-1] if found else None

    good = await_that(newest, what="a snapshot of all lessons")
    assert system.end("learner-1") == 0
    base = good._replace(created_at=good.created_at + 1_000)
    state = pickle.dumps({"model": 1})
    publish(system, base._replace(snapshot_id="forged-1", version=91), state)
    publish(system, base._replace(snapshot_id="cut-2", version=92), state, cut=True)
    publish(system, base._replace(snapshot_id="old-river-3", version=93, river="0.0.1"), state)
    system.send("examples", [lesson(20)], "model_key")
    workers = [system.start("learner"), system.start("predictor")]
    system.await_running(*workers)
    publish(system, base._replace(snapshot_id="evil-4", version=94), pickle.dumps(Evil()))

    system.send_inputs(["asked"])
    system.await_ids("predictions", ["asked"])
    (answer,) = system.records("predictions", Prediction)
    assert answer.model_version == 22
    system.send("examples", map(lesson, range(21, 25)), "model_key")
    system.await_ids("outcomes", [f"f-{n}" for n in range(21, 25)], "feedback_id")
    for worker in workers:
        assert system.end(worker) == 0
    workers = [system.start("learner"), system.start("predictor")]
    system.await_running(*workers)
    words = (
        "is not signed with this",
        "a chunk is truncated",
        "made by River 0.0.1",
        "posix.system",
    )

    def told() -> bool:
        report = operate.status(system.loop, system.settings)
        notes = {each.status.role: " ".join(each.status.notes) for each in report.workers}
        return all(
            word in notes.get(role, "") for word in words for role in ("learner", "predictor")
        )

    def served() -> bool:
        return all((beat := system.status(each)) and beat.versions == {"": 26} for each in workers)

    await_that(served, what="both at version 26")
    await_that(told, what=f"notes, not {[system.status(each) for each in workers]}")
    report = operate.status(system.loop, system.settings)
    (model,) = report.models
    assert model.version == 26
    assert model.snapshot_age_s is not None
