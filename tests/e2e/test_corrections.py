"""Verdicts that are taken back: the model becomes the one that never saw them, on the real broker, whatever is killed."""

from __future__ import annotations

import json
import pickle
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streams.cli import commands
from streams.core import exclusions
from streams.core.events import (
    EXCLUDE,
    INCLUDE,
    RETRACT,
    Corrected,
    Example,
    Exclusion,
    Feedback,
    Outcome,
    Prediction,
    Review,
    Snapshot,
)
from streams.core.fold import Fold
from streams.engine.log import KIND, control_kind
from tests.conftest import Kafka
from tests.e2e.system import System, await_that, event, lesson, verdict

KEYS = tuple(f"k{n:02}" for n in range(20))
"""Each is a history of its own."""
BY_COUNTRY = """
from time import perf_counter

from river import base, linear_model
from streams import Loop


class Slow(base.Classifier):
    '''Takes a millisecond for a lesson, so that a rebuild takes long enough to be killed.'''

    def __init__(self):
        self._inner = linear_model.LogisticRegression()

    def learn_one(self, x, y):
        ready = perf_counter() + 0.001
        self._inner.learn_one({{n: v for n, v in x.items() if n != "country"}}, y)
        while perf_counter() < ready:
            pass

    def predict_proba_one(self, x):
        return self._inner.predict_proba_one({{n: v for n, v in x.items() if n != "country"}})


loop = Loop(
    name={name!r}, task="binary", model=Slow(), model_key="country", partitions=2, {more}
)
"""
REPAIRING = """
from river import linear_model
from streams import Loop

loop = Loop(name={name!r}, task="binary", model=linear_model.LogisticRegression(), partitions=2, {more})
"""


@pytest.fixture
def system(
    broker: Kafka, tmp_path: Path, unique: str, request: pytest.FixtureRequest
) -> Iterator[System]:
    """The test's system, of the source and with the words that it wants."""
    source, more = request.param
    settings = {"snapshot_interval_s": 0.5, "commit_interval_s": 0.3}
    with System(broker.bootstrap, tmp_path, source, unique, more, **settings) as made:
        made.prepare()
        yield made


class History:
    """What happens to one model key; ``number`` counts its feedback."""

    def __init__(self, key: str, at: int) -> None:
        self.key, self.at, self.number = key, at, at
        self.draw = random.Random(key)

    def lessons(self, count: int, corrects: Iterable[int] = ()) -> list[Example]:
        """New lessons; the last one corrects some."""
        made = [self.lesson(n) for n in range(self.number, self.number + count)]
        self.number += count
        wrong = [Corrected("feedback", 0, n) for n in corrects]
        return [*made[:-1], made[-1]._replace(corrects=wrong)]

    def lesson(self, number: int) -> Example:
        """The lesson of that feedback."""
        return lesson(number, self.key, country=self.key)

    def some(self, count: int = 2) -> list[int]:
        """Some of the feedback so far."""
        return [self.draw.randrange(self.at, self.number) for _ in range(count)]

    def control(self, numbers: Iterable[int], kind: str = EXCLUDE) -> Exclusion:
        """A control record about feedback."""
        named = exclusions.written(exclusions.places(("feedback", 0, n) for n in numbers))
        return Exclusion("x", kind, self.key, named, "a test", "ann", "because", 0)


def write(system: System, records: Iterable[Example | Exclusion]) -> None:
    """Appends to the log."""
    topic = system.topic("examples")
    for record in records:
        headers = [(KIND, record.kind.encode())] if isinstance(record, Exclusion) else None
        value = system.codec.encode(topic, record)
        system.outputs.send(topic, value, record.model_key.encode(), headers)
    system.outputs.flush(30)


def plain(system: System, at: Mapping[str, int] | None = None) -> dict[str, Fold]:
    """By model key, the model that learned what counts, each once and in order, and nothing else.

    Args:
        at: The versions that are wanted; the log's last ones by default.
    """
    log: dict[str, list[tuple[int, Example | Exclusion]]] = defaultdict(list)
    for seen in sorted(system.seen("examples"), key=lambda seen: seen.place):
        if control_kind(seen.message.headers()) != "define":
            key, version = (seen.message.key() or b"").decode(), seen.place[1] + 1
            if at is None or version <= at[key]:
                log[key].append((version, seen.record))
    folds = {}
    for key, records in log.items():
        out: set[tuple[str, int, int]] = set()
        for _, record in records:
            if isinstance(record, Exclusion):
                named = {(*w, n) for w, held in exclusions.read(record).items() for n in held}
                out = out | named if record.kind == EXCLUDE else out - named
        fold = folds[key] = Fold(system.loop.model, system.loop.task, system.loop.classes)
        seen_before: set[tuple[str, int, int]] = set()
        for version, record in records:
            if isinstance(record, Example):
                rests = {(s.topic, s.partition, s.offset) for s in record.sources}
                if rests - seen_before - out:
                    fold.apply(version, record._replace(corrects=()))
                seen_before |= rests
            fold.advance(version)
    return folds


def await_model(system: System, predictor: str, within_s: float = 60.0) -> dict[str, Fold]:
    """Waits until a predictor serves the log's last versions; gives the models that they have to be."""
    expected = plain(system)

    def served() -> bool:
        status = system.status(predictor)
        versions = {key: fold.version for key, fold in expected.items()}
        return status is not None and status.versions == versions

    await_that(served, within_s, f"{predictor} serves {expected}: {system.status(predictor)}")
    return expected


def assert_serves(system: System, expected: dict[str, Fold], name: str, **country: str) -> None:
    """What the predictors say is what these models say, to the last bit."""
    asked = [f"{name}-{key}-{n:03}" for key in expected for n in range(4)]
    for event_id in asked:
        system.send_inputs([event_id], **({"country": event_id.split("-")[-2]} if country else {}))
    system.await_ids("predictions", asked)
    found = {each.event_id: each for each in system.records("predictions", Prediction)}
    for event_id in asked:
        told = found[event_id]
        fold = expected[told.model_key]
        assert told.model_version == fold.version
        assert dict(told.scores) == dict(fold.answer(told.features).scores), event_id


@pytest.mark.parametrize("system", [(BY_COUNTRY, "")], indirect=True)
def test_twenty_histories_end_in_the_models_that_never_saw_what_is_out(system: System) -> None:
    """Before and after a snapshot, twice on one event, again while a rebuild runs, its duplicate later, a crash."""
    system.await_running(system.start("learner"), system.start("predictor"))
    histories = [History(key, 1_000 * n) for n, key in enumerate(KEYS)]
    for history in histories:
        write(system, history.lessons(30))
    await_stored(system, len(KEYS))
    for history in histories:
        wrong = history.some()
        write(system, [*history.lessons(10, wrong[:1]), history.control(wrong)])
        if history.draw.random() < 0.5:  # again while that rebuild runs
            write(system, [history.control(history.some()), *history.lessons(3)])
        write(system, [history.lesson(wrong[0])])  # its duplicate, later
    await_that(lambda: "is rebuilt for version" in system.log("learner-1"), what="a rebuild begins")
    system.end("learner-1", signal.SIGKILL)
    assert system.log("learner-1").count("is rebuilt, as version") < len(KEYS)
    for history in histories:
        if history.draw.random() < 0.7:
            write(system, history.lessons(5))
        kind = INCLUDE if history.draw.random() < 0.6 else EXCLUDE
        write(system, [history.control(history.some(3), kind), *history.lessons(2)])
        write(system, [history.control([history.number - 1])])
    serves_on(system)
    system.await_running(system.start("learner"))
    expected = await_model(system, "predictor-1")
    assert_serves(system, expected, "followed", country="")
    for history in histories:  # on top of snapshots that were made under other exclusions
        write(system, [history.control(history.some(), INCLUDE), *history.lessons(1)])
        write(system, [history.control(history.some(1)), history.lesson(history.at)])
    expected = await_model(system, "predictor-1")
    assert_serves(system, expected, "again", country="")
    system.end("predictor-1")
    system.await_running(system.start("predictor"))
    assert_serves(system, await_model(system, "predictor-1"), "anew", country="")
    told = defaultdict(set)
    for outcome in system.records("outcomes", Outcome):
        told[outcome.feedback_id].add((outcome.status, outcome.model_version))
    assert all(len(outcomes) == 1 for outcomes in told.values())
    assert told.keys() == {
        f"f-{n}" for history in histories for n in range(history.at, history.number)
    }


def serves_on(system: System) -> None:
    """Without a learner all models wait for one; they serve, and stamp, as the versions before the records in question."""

    def awaiting() -> Mapping[str, int] | None:
        status = system.status("predictor-1")
        return status.versions if status and status.numbers["awaited"] == len(KEYS) else None

    versions = await_that(awaiting, what="all models wait for a learner")
    assert_serves(system, plain(system, versions), "waiting", country="")


def await_stored(system: System, count: int) -> None:
    """Waits for a snapshot of each of so many model keys."""

    def stored() -> bool:
        return len({each.model_key for each in system.records("models", Snapshot)}) == count

    await_that(stored, what=f"snapshots of {count} model keys")


REPAIR = (REPAIRING, 'corrections="repair"')


@pytest.mark.parametrize("system", [REPAIR], indirect=True)
def test_corrections_and_retractions_share_one_record_and_the_model_never_saw_what_they_correct(
    system: System,
) -> None:
    system.start_all()
    ids = [f"e{n:03}" for n in range(24)]
    learn(system, [verdict(event_id, n % 3 == 0) for n, event_id in enumerate(ids)])
    again = [verdict(event_id, True, f"again-{event_id}") for event_id in ids[:4]]
    back = [verdict(ids[5], None, "back", RETRACT), verdict(ids[6], None, "not-mine", RETRACT)]
    system.send("feedback", [*again, back[0], back[1]._replace(reviewer="bob")])
    given = [*(f"again-{event_id}" for event_id in ids[:4]), "back", "not-mine"]
    system.await_ids("outcomes", given, "feedback_id")
    statuses = {o.feedback_id: o.status for o in system.records("outcomes", Outcome)}
    assert [statuses[each] for each in given] == ["learned"] * 4 + ["retracted", "noted"]
    (owed,) = await_that(lambda: system.records("examples", Exclusion))
    assert (owed.kind, owed.rule, owed.who) == (EXCLUDE, "corrections", "learner")
    assert exclusions.count(exclusions.read(owed)) == 5
    expected = await_model(system, "predictor-1")
    assert expected[""].learned == 23
    assert_serves(system, expected, "served")
    assert len(system.records("examples", Exclusion)) == 1
    audited = system.command("audit", system.reference, "--settled")
    assert audited.returncode == 0, audited.stdout + audited.stderr


def learn(system: System, verdicts: list[Feedback]) -> None:
    """Events are predicted, judged, and learned."""
    system.send_inputs([each.event_id for each in verdicts])
    system.await_ids("predictions", [each.event_id for each in verdicts])
    system.send("feedback", verdicts)
    system.await_ids("outcomes", [each.feedback_id for each in verdicts], "feedback_id")


@pytest.mark.parametrize("system", [(REPAIRING, "")], indirect=True)
def test_an_operator_takes_out_puts_back_rolls_back_and_looks_at_any_version(
    system: System,
) -> None:
    def models(command: str, *words: str) -> Any:
        argv = ["models", command, system.reference, *words, "--json"]
        done = CliRunner().invoke(commands, argv, env=system.environ)
        return str(done.exception) if done.exception else json.loads(done.stdout)

    system.start_all()
    ids = [f"e{n:03}" for n in range(16)]
    given = [verdict(event_id, n < 5) for n, event_id in enumerate(ids)]
    learn(system, [each._replace(reviewer="bob") for each in given[8:]])
    await_model(system, "predictor-1")
    learn(system, [each._replace(reviewer="ann") for each in given[:8]])
    before = await_model(system, "predictor-1")[""]
    written = len(system.seen("examples"))

    assert "learned anything of reviewer=eve" in models("exclude", "--reviewer", "eve")
    assert "is not out" in models("include", "--reviewer", "ann")
    (effect,) = models("exclude", "--reviewer", "ann", "--between", FIRST, LAST, "--dry-run")
    assert (effect["sources"], effect["learned"]) == (8, {"before": 16, "after": 8})
    assert effect["metrics"]["before"]["accuracy"] != effect["metrics"]["after"]["accuracy"]
    assert len(system.seen("examples")) == written

    (told,) = models("exclude", "--reviewer", "ann", "--why", "wrong column", "--who", "carl")
    assert (told["sources"], told["published"]) == (8, True)
    without = await_model(system, "predictor-1", 2.0)
    assert without[""].learned == 8
    assert_serves(system, without, "without")
    newest = models("list")[0]
    assert newest["version"] == told["version"]
    shown = models("show", newest["snapshot_id"])
    assert shown["excluded"] == 8
    assert shown["last_exclusion"]["who"] == "carl"
    assert shown["last_exclusion"]["rule"] == "reviewer=ann"
    assert "out already" in models("exclude", "--reviewer", "ann")

    (told,) = models("include", "--reviewer", "ann", "--feedback", "f-e000")
    assert told["sources"] == 1
    assert await_model(system, "predictor-1")[""].learned == 9
    models("include", "--reviewer", "ann")
    features = event("e000").features
    assert await_model(system, "predictor-1")[""].answer(features) == before.answer(features)

    half = sorted(seen.place[1] for seen in system.seen("examples"))[8]
    (told,) = models("exclude", "--after", str(half))
    assert await_model(system, "predictor-1")[""].learned == 16 - told["sources"] == half - 1

    asked = json.dumps(dict(features))
    out = str(system.folder / "model.pkl")
    then = models("at", str(before.version), "--features", asked, "--out", out)
    assert (then["learned"], then["excluded"]) == (16, 0)
    assert then["answer"]["scores"] == dict(before.answer(features).scores)
    pickled = pickle.loads(Path(out).read_bytes())
    assert pickled.predict_proba_one(features) == before.model.predict_proba_one(features)
    assert "has versions 0 to" in models("at", "1000000")
    assert models("at", str(told["version"]))["learned"] == half - 1
    last = str(before.version)
    later = {each["event_id"] for each in models("affected", "0", last, "--review")}
    assert later == set(ids[:8])
    asked_for = Counter(each.event_id for each in system.records("reviews", Review))
    assert {event_id for event_id, count in asked_for.items() if count == 2} == later
    audited = system.command("audit", system.reference, "--settled")
    assert audited.returncode == 0, audited.stdout + audited.stderr


FIRST, LAST = "2020-01-01", "2099-01-01T00:00:00Z"
