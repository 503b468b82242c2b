"""Replicas of the fold: predictors on other machines, started anew, beside two learners, and with a model for each key."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.core.events import Example, Outcome, Prediction, Snapshot
from streams.core.fold import CHECK_EVERY, Fold
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that, lesson

OTHER_CPU = "glibc.cpu.hwcaps=-FMA,-AVX2"
COUNTRIES = ("at", "ch", "de", "li")
UNSEEDED = """
import random

from river import base, linear_model
from streams import Loop


class Wilful(base.Classifier):
    '''Learns what it likes to, which no other process can know.'''

    def __init__(self):
        self._random = random.Random()
        self._inner = linear_model.LogisticRegression()

    def learn_one(self, x, y):
        if self._random.random() < 0.5:
            self._inner.learn_one(x, y)

    def predict_proba_one(self, x):
        return self._inner.predict_proba_one(x)


loop = Loop(name={name!r}, task="binary", model=Wilful(), partitions=2)
"""
SLOW = """
from time import perf_counter

from river import base, linear_model
from streams import Loop


class Slow(base.Classifier):
    '''Takes 100 ms for a lesson.'''

    def __init__(self):
        self._inner = linear_model.LogisticRegression()

    def learn_one(self, x, y):
        ready = perf_counter() + 0.1
        self._inner.learn_one(x, y)
        while perf_counter() < ready:
            pass

    def predict_proba_one(self, x):
        return self._inner.predict_proba_one(x)


loop = Loop(name={name!r}, task="binary", model=Slow(), partitions=2)
"""
BY_COUNTRY = """
from river import compose, linear_model
from streams import Loop

loop = Loop(
    name={name!r},
    task="binary",
    model=compose.Discard("country") | linear_model.LogisticRegression(),
    model_key="country",
    partitions=2,
)
"""


@pytest.fixture
def make(broker: Kafka, tmp_path: Path, unique: str) -> Iterator[Callable[..., System]]:
    """Makes the test's system, of the source and with the settings that it wants."""
    made: list[System] = []

    def of(source: str = PHISHING, **settings: float) -> System:
        system = System(broker.bootstrap, tmp_path, source, unique, "", **settings)
        made.append(system)
        system.prepare()
        return system

    yield of
    for system in made:
        with system:
            pass


def of_country(number: int, country: str) -> Example:
    """A lesson for the model of a country; of the only model without one."""
    return lesson(number, country, country=country) if country else lesson(number)


def teach(system: System, numbers: range, country: str = "") -> None:
    """Writes lessons to the log and waits until the learner has told of each."""
    system.send("examples", (of_country(n, country) for n in numbers), "model_key")
    system.await_ids("outcomes", (f"f-{n}" for n in numbers), "feedback_id", within_s=90)


def await_served(system: System, worker: str, versions: dict[str, int]) -> None:
    """Waits until a worker serves these versions."""

    def served() -> bool:
        status = system.status(worker)
        return status is not None and status.versions == versions

    await_that(served, what=f"{worker} serves {versions}, not {system.status(worker)}")


def ends_of_keys(system: System) -> dict[str, int]:
    """By model key, the version after the last lesson in the log."""
    return {
        (seen.message.key() or b"").decode(): seen.place[1] + 1
        for seen in system.seen("examples")
        if not seen.message.headers()
    }


def answers(system: System, ids: list[str], **features: str) -> list[Prediction]:
    """What the running predictors say to events of these ids."""
    system.send_inputs(ids, **features)
    system.await_ids("predictions", ids)
    found = {each.event_id: each for each in system.records("predictions", Prediction)}
    return [found[event_id] for event_id in ids]


def expected(system: System, numbers: range, country: str = "") -> Fold:
    """The fold of these lessons, made here."""
    fold = Fold(system.loop.model, system.loop.task, system.loop.classes)
    for version, number in enumerate(numbers, start=1):
        fold.apply(version, of_country(number, country))
    return fold


def assert_answers_of(fold: Fold, found: list[Prediction]) -> None:
    """The predictions are those of the fold, to the last bit."""
    for each in found:
        assert dict(each.scores) == dict(fold.answer(each.features).scores)


def test_a_replica_whose_machine_rounds_otherwise_takes_the_learners_snapshot_and_says_so(
    make: Callable[..., System],
) -> None:
    """Only a CPU that has these instructions can be told to do without them; elsewhere nobody may be accused."""
    system = make(snapshot_interval_s=0.5)
    system.start("predictor", "other", GLIBC_TUNABLES=OTHER_CPU)
    system.start("predictor", "alike")
    system.await_running("other", "alike", system.start("learner"))
    teach(system, range(CHECK_EVERY + 50))
    await_served(system, "other", ends_of_keys(system))
    can = os.uname().machine == "x86_64" and " fma " in Path("/proc/cpuinfo").read_text()

    def taken() -> bool:
        status = system.status("other")
        return status is not None and status.numbers.get("snapshots_taken", 0) > 0

    def compared() -> bool:
        newest = [each.version for each in system.records("models", Snapshot)]
        return bool(newest) and max(newest) == max(ends_of_keys(system).values())

    await_that(taken if can else compared, what=f"a snapshot taken: {system.status('other')}")
    await_served(system, "other", ends_of_keys(system))
    other, alike = system.status("other"), system.status("alike")
    assert other is not None
    assert alike is not None
    assert any("another CPU" in note for note in other.notes) == can
    assert alike.notes == []
    assert alike.numbers["drifts"] == 0


def test_a_replica_that_starts_anew_is_the_one_that_followed_to_the_last_bit(
    make: Callable[..., System],
) -> None:
    """It starts from a snapshot and the log after it, or from the log alone."""
    system = make(snapshot_interval_s=0.1)
    system.await_running(system.start("predictor"), system.start("learner"))
    teach(system, range(40))
    await_that(lambda: system.records("models", Snapshot), what="a snapshot")
    assert system.end("learner-1") == 0
    stored = max(each.version for each in system.records("models", Snapshot))
    system.send("examples", map(lesson, range(40, 70)), "model_key")
    versions = ends_of_keys(system)
    assert stored < versions[""]
    await_served(system, "predictor-1", versions)
    fold = expected(system, range(70))
    followed = answers(system, [f"before-{n:04}" for n in range(20)])
    assert system.end("predictor-1") == 0
    system.await_running(system.start("predictor"))
    anew = answers(system, [f"after-{n:05}" for n in range(20)])
    for found in (followed, anew):
        assert {each.model_version for each in found} == {versions[""]}
        assert_answers_of(fold, found)


def test_a_learner_that_was_asleep_and_the_one_that_took_over_say_the_same(
    make: Callable[..., System],
) -> None:
    """The sleeper wakes up as a zombie: what it still writes are the same versions, and its snapshots the same models."""
    system = make(snapshot_interval_s=0.2, commit_interval_s=0.2)
    system.await_running(
        system.start("learner"), system.start("learner", "learner-2"), system.start("predictor")
    )
    teach(system, range(30))
    system.send_signal("learner-1", signal.SIGSTOP)
    system.send_signal("learner-2", signal.SIGSTOP)
    system.send("examples", map(lesson, range(30, 60)), "model_key")
    system.send_signal("learner-1", signal.SIGCONT)
    await_that(lambda: told(system) >= set(range(60)), 60, "the first learner has them all")
    system.send_signal("learner-2", signal.SIGCONT)
    teach(system, range(60, 90))
    versions = {
        (each.feedback_id, each.model_version) for each in system.records("outcomes", Outcome)
    }
    assert len(versions) == 90
    await_served(system, "predictor-1", ends_of_keys(system))
    assert_answers_of(expected(system, range(90)), answers(system, [f"e{n:05}" for n in range(20)]))

    def stored() -> bool:
        newest = [s for s in system.records("models", Snapshot) if s.version == max(ends)]
        return bool(newest) and {each.learned for each in newest} == {90}

    ends = ends_of_keys(system).values()
    await_that(stored, what="a snapshot of all that was learned, each once")


def told(system: System) -> set[int]:
    """The lessons whose outcomes are there."""
    return {int(o.feedback_id.removeprefix("f-")) for o in system.records("outcomes", Outcome)}


def test_each_model_key_has_a_model_of_its_own_and_its_memory_is_shown(
    make: Callable[..., System],
) -> None:
    system = make(BY_COUNTRY, snapshot_interval_s=0.2)
    system.await_running(system.start("predictor"), system.start("learner"))
    lessons = {country: range(i * 40, i * 40 + 40) for i, country in enumerate(COUNTRIES)}
    for country, numbers in lessons.items():
        teach(system, numbers, country)
    versions = ends_of_keys(system)
    assert versions.keys() == set(COUNTRIES)
    await_served(system, "predictor-1", versions)
    for country, numbers in lessons.items():
        found = answers(system, [f"{country}-{n:04}" for n in range(10)], country=country)
        assert {(each.model_key, each.model_version) for each in found} == {
            (country, versions[country])
        }
        assert_answers_of(expected(system, numbers, country), found)

    def all_stored() -> bool:
        stored = {each.model_key: each.version for each in system.records("models", Snapshot)}
        return stored == versions

    await_that(all_stored, what="a snapshot of each model")
    sizes = {each.model_key: each.size for each in system.records("models", Snapshot)}

    def shown() -> bool:
        status = system.status("learner-1")
        return status is not None and status.numbers.get("model_bytes", 0) >= sum(sizes.values())

    await_that(shown, what=f"memory of {sizes} in the learner's status")
    listed = system.command("models", "list", system.reference)
    assert listed.returncode == 0, listed.stderr
    for country in COUNTRIES:
        assert country in listed.stdout
    assert system.end("predictor-1") == 0
    system.await_running(system.start("predictor"))
    await_served(system, "predictor-1", versions)


def test_a_model_that_does_not_replay_is_served_from_the_learners_snapshots(
    make: Callable[..., System],
) -> None:
    system = make(UNSEEDED)
    system.await_running(system.start("predictor"), system.start("learner"))
    teach(system, range(30))
    await_served(system, "predictor-1", ends_of_keys(system))
    (found,) = answers(system, ["e00001"])
    assert found.label is not None
    assert found.model_version == ends_of_keys(system)[""]

    def taken() -> bool:
        status = system.status("predictor-1")
        return status is not None and status.numbers.get("snapshots_taken", 0) > 0

    await_that(taken, what="the predictor's heartbeat tells of the snapshot it took")


def test_a_replica_that_fell_far_behind_takes_the_next_snapshot_and_folds_on_from_it(
    make: Callable[..., System],
) -> None:
    """More than 20 s of lessons wait for it when it wakes up, and the learner has done them meanwhile."""
    system = make(SLOW, snapshot_interval_s=0.5)
    system.await_running(system.start("predictor"), system.start("learner"))
    teach(system, range(20))
    await_served(system, "predictor-1", ends_of_keys(system))
    system.send_signal("predictor-1", signal.SIGSTOP)
    teach(system, range(20, 250))
    system.send_signal("predictor-1", signal.SIGCONT)

    def taken() -> bool:
        status = system.status("predictor-1")
        return status is not None and status.numbers.get("snapshots_taken", 0) > 0

    await_that(taken, what="a snapshot is taken")
    teach(system, range(250, 260))
    await_served(system, "predictor-1", ends_of_keys(system))
    status = system.status("predictor-1")
    assert status is not None
    assert status.numbers["drifts"] == 0
    assert status.notes == []
    assert_answers_of(
        expected(system, range(260)), answers(system, [f"e{n:05}" for n in range(20)])
    )
