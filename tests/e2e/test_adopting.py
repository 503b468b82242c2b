"""Models that begin anew: another definition is adopted, also by a second try, and history is learned."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest
from river import linear_model, preprocessing

from streams import bootstrap, corrections
from streams.config import Settings
from streams.core.errors import BadRecord, Conflict, NotFound
from streams.core.events import (
    CONTINUE,
    EXCLUDE,
    FRESH,
    LEARNED,
    REFOLD,
    DeadLetter,
    Define,
    Example,
    Outcome,
    Prediction,
    Snapshot,
)
from streams.core.fold import Fold
from streams.core.topics import partition_of
from streams.engine.log import Log
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that, lesson, verdict

FAILED = 1
MODES = (REFOLD, CONTINUE, FRESH)
OTHER_MODEL = PHISHING.replace("LogisticRegression()", "LogisticRegression(l2=0.1)")
THIRD_MODEL = PHISHING.replace("LogisticRegression()", "LogisticRegression(l2=0.2)")
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
OTHER_BY_COUNTRY = BY_COUNTRY.replace("LogisticRegression()", "LogisticRegression(l2=0.1)")
COUNTRIES = ("at", "ch", "de", "li")


@pytest.fixture
def make(broker: Kafka, tmp_path: Path, unique: str) -> Iterator[Callable[..., System]]:
    """Makes the test's system, of the source and with the settings that it wants."""
    made: list[System] = []

    def of(source: str = PHISHING, **settings: object) -> System:
        system = System(broker.bootstrap, tmp_path, source, unique, "", **settings)
        made.append(system)
        system.prepare()
        return system

    yield of
    for system in made:
        with system:
            pass


def adopt(system: System, mode: str) -> None:
    bootstrap.adopt(system.loop, system.settings, mode, "")


def assert_refused_to_adopt(system: System, mode: str, words: str) -> None:
    with pytest.raises(Conflict, match=words):
        adopt(system, mode)


def lose_the_secret(system: System) -> None:
    """A River of another version refuses the snapshots as another secret does."""
    system.environ["COUNTERPOINT_SECRET"] = "another"
    system.settings = Settings.from_env(system.environ)


def assert_refused(system: System, role: str, *words: str) -> None:
    code, told = system.await_end(system.start(role, f"{role}-refused"))
    assert code == FAILED, told
    assert "Traceback" not in told
    for word in words:
        assert word in told


def teach(system: System, numbers: range, country: str = "") -> None:
    """Writes lessons to the log and waits until they are learned, and stored."""
    features: dict[str, Any] = {"country": country} if country else {}
    system.send("examples", (lesson(n, country, **features) for n in numbers), "model_key")
    system.await_ids("outcomes", [f"f-{n}" for n in numbers], "feedback_id")
    end = max(outcome.model_version or 0 for outcome in told(system, numbers))
    await_that(lambda: stored(system, country) >= end, what=f"a snapshot of version {end}")


def told(system: System, numbers: range) -> list[Outcome]:
    ids = {f"f-{n}" for n in numbers}
    return [found for found in system.records("outcomes", Outcome) if found.feedback_id in ids]


def stored(system: System, key: str = "") -> int:
    versions = [s.version for s in system.records("models", Snapshot) if s.model_key == key]
    return max(versions, default=0)


def await_learned(system: System, count: int, key: str = "") -> None:
    """Waits for the newest stored model of a key to have learned so many lessons."""

    def learned() -> int:
        found = [s for s in system.records("models", Snapshot) if s.model_key == key]
        return max(found, key=lambda s: (s.version, s.created_at)).learned if found else 0

    await_that(lambda: learned() == count, what=f"{count} lessons of {key!r}, not {learned()}")


def definitions(system: System, partition: int = 0) -> list[Define]:
    seen = [each for each in system.seen("examples") if each.place[0] == partition]
    return [each.record for each in seen if isinstance(each.record, Define)]


def log_of(system: System, mode: str) -> tuple[Log, bootstrap.Parts]:
    parts = bootstrap.Parts(system.loop, system.settings)
    return parts.log(parts.define(mode, "killed soon after")), parts


def begin_to_adopt(system: System, mode: str, partition: int = 0) -> int:
    """Leaves the log as an adoption does that is killed as soon as its record is written."""
    log, parts = log_of(system, mode)
    return log.define(partition, log.mine, parts.outputs)


def pass_over(system: System, numbers: range, at: int) -> None:
    """Stores what a learner that was started anew by the definition at ``at`` does when it has come so far."""
    log, parts = log_of(system, FRESH)
    fold = log.new_fold(scores=True)
    for number in numbers:
        fold.mark(number + 2, lesson(number))
    log.publish([log.seal(fold, "", 0, floor=fold.version, defined_at=at)], parts.outputs)


# Adoptions that were interrupted -------------------------------------------------------------------------------------


def test_what_was_to_be_continued_when_the_adoption_was_killed_is_continued_by_another_try(
    make: Callable[..., System],
) -> None:
    system = make(snapshot_interval_s=0.1)
    system.await_running(system.start("learner"))
    teach(system, range(30))
    assert system.end("learner-1") == 0
    system.write_loop(OTHER_MODEL)
    begin_to_adopt(system, CONTINUE)
    for role in ("learner", "predictor"):
        assert_refused(system, role, "adopt --continue", "see it through", "--refold or --fresh")
    adopt(system, CONTINUE)
    assert_refused_to_adopt(system, CONTINUE, "there is nothing to adopt")
    system.await_running(system.start("learner"))
    teach(system, range(30, 31))
    await_learned(system, 31)


@pytest.mark.parametrize(("mode", "learned"), [(REFOLD, 31), (FRESH, 1)])
def test_what_was_to_be_continued_when_the_adoption_was_killed_can_begin_otherwise(
    make: Callable[..., System], mode: str, learned: int
) -> None:
    system = make(snapshot_interval_s=0.1)
    system.await_running(system.start("learner"))
    teach(system, range(30))
    assert system.end("learner-1") == 0
    system.write_loop(OTHER_MODEL)
    begin_to_adopt(system, CONTINUE)
    adopt(system, mode)
    assert_refused_to_adopt(system, mode, "there is nothing to adopt")
    system.await_running(system.start("learner"))
    teach(system, range(30, 31))
    await_learned(system, learned)


def test_a_fresh_start_that_was_killed_before_it_told_the_rest_tells_it_by_another_try(
    make: Callable[..., System],
) -> None:
    """Also if a learner has been on its way since then, and stored that it had passed over some of it."""
    system = make()
    system.send("examples", map(lesson, range(5)), "model_key")
    system.write_loop(OTHER_MODEL)
    at = begin_to_adopt(system, FRESH)
    pass_over(system, range(3), at)
    adopt(system, FRESH)
    assert len(told(system, range(5))) == 5
    assert_refused_to_adopt(system, FRESH, "there is nothing to adopt")


def test_a_fresh_start_that_was_killed_is_made_up_for_by_the_next_adoption_whatever_it_is(
    make: Callable[..., System],
) -> None:
    system = make()
    system.send("examples", map(lesson, range(5)), "model_key")
    system.write_loop(OTHER_MODEL)
    begin_to_adopt(system, FRESH)
    system.write_loop(THIRD_MODEL)
    adopt(system, REFOLD)
    assert len(told(system, range(5))) == 5


def test_partitions_that_an_interrupted_adoption_did_not_reach_are_adopted_by_another_try(
    make: Callable[..., System],
) -> None:
    """And of a partition where it was about to store the models, those that it had stored are not taken for all."""
    system = make(BY_COUNTRY, snapshot_interval_s=0.1)
    system.await_running(system.start("learner"))
    lessons = {country: range(i * 10, i * 10 + 10) for i, country in enumerate(COUNTRIES)}
    for country, numbers in lessons.items():
        teach(system, numbers, country)
    assert system.end("learner-1") == 0
    system.write_loop(OTHER_BY_COUNTRY)

    begun = partition_of(b"ch", 2)
    beside = [country for country in COUNTRIES if partition_of(country.encode(), 2) == begun]
    assert 1 < len(beside) < len(COUNTRIES)
    at = begin_to_adopt(system, CONTINUE, begun)
    log, parts = log_of(system, CONTINUE)
    fold = log.new_fold(scores=True)
    fold.advance(at + 1)
    log.publish([log.seal(fold, "ch", begun, floor=0, defined_at=at)], parts.outputs)
    assert "see it through" in str(log.trouble(begun))

    adopt(system, CONTINUE)
    assert_refused_to_adopt(system, CONTINUE, "there is nothing to adopt")
    system.await_running(system.start("learner"))
    for i, country in enumerate(COUNTRIES):
        teach(system, range(100 + i, 101 + i), country)
        await_learned(system, 11, country)


# Adoptions that cannot be --------------------------------------------------------------------------------------------


def test_models_that_cannot_be_read_are_not_continued_and_nothing_is_written(
    make: Callable[..., System],
) -> None:
    """The log makes them anew, also when they had been continued before."""
    system = make(snapshot_interval_s=0.1)
    system.await_running(system.start("learner"))
    teach(system, range(10))
    assert system.end("learner-1") == 0
    system.write_loop(OTHER_MODEL)
    adopt(system, CONTINUE)
    before = definitions(system)

    lose_the_secret(system)
    assert_refused(system, "learner", "adopt with --refold or --fresh")
    system.write_loop(THIRD_MODEL)
    assert_refused_to_adopt(system, CONTINUE, "adopt with --refold or --fresh")
    assert definitions(system) == before
    system.write_loop(OTHER_MODEL)
    adopt(system, REFOLD)
    system.await_running(system.start("learner"))
    teach(system, range(10, 11))
    await_learned(system, 11)


def test_a_loop_goes_on_with_partitions_where_nothing_was_learned_yet(
    make: Callable[..., System],
) -> None:
    system = make(BY_COUNTRY, snapshot_interval_s=0.1)
    system.await_running(system.start("learner"))
    teach(system, range(10), "at")
    assert system.end("learner-1") == 0
    system.write_loop(OTHER_BY_COUNTRY)
    adopt(system, CONTINUE)
    assert_refused_to_adopt(system, CONTINUE, "there is nothing to adopt")
    system.await_running(system.start("learner"), system.start("predictor"))
    other = next(c for c in COUNTRIES if partition_of(c.encode(), 2) != partition_of(b"at", 2))
    teach(system, range(10, 11), "at")
    await_learned(system, 11, "at")
    teach(system, range(20, 21), other)
    await_learned(system, 1, other)


def test_what_a_fresh_start_has_forgotten_is_not_learned_by_a_learner_that_was_killed_on_its_way(
    make: Callable[..., System],
) -> None:
    """It had stored a model below the definition: what the next one reads first must not be the definition alone."""
    system = make(snapshot_interval_s=0.1)
    system.await_running(system.start("learner"))
    teach(system, range(30))
    assert system.end("learner-1") == 0
    system.write_loop(OTHER_MODEL)
    adopt(system, FRESH)
    at = next(
        each.place[1] for each in system.seen("examples") if each.record == definitions(system)[-1]
    )
    pass_over(system, range(10), at)
    system.await_running(system.start("learner"))
    teach(system, range(30, 31))
    await_learned(system, 1)


# Verdicts that the learner had not got to ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_each_verdict_in_front_of_an_adoption_ends_as_one_outcome(
    make: Callable[..., System], mode: str
) -> None:
    """Some were learned and not stored, some were never read by a learner."""
    system = make()
    system.start_all()
    ids = [f"e{n:03}" for n in range(40)]
    system.send_inputs(ids)
    system.await_ids("predictions", ids)
    system.send("feedback", (verdict(each, n % 3 == 0) for n, each in enumerate(ids[:20])))
    system.await_ids("outcomes", ids[:20])
    assert system.end("learner-1") == 0
    system.send("feedback", (verdict(each, n % 3 == 0) for n, each in enumerate(ids[20:])))
    system.await_ids("examples", ids)
    assert system.end("predictor-1") == 0

    system.write_loop(OTHER_MODEL)
    adopt(system, mode)
    system.await_running(system.start("learner"), system.start("predictor"))
    system.await_ids("outcomes", ids)
    found = {(o.event_id, o.status, o.model_version) for o in system.records("outcomes", Outcome)}
    version = {
        seen.record.event_id: seen.place[1] + 1
        for seen in system.seen("examples")
        if isinstance(seen.record, Example)
    }
    assert found == {(event_id, LEARNED, version[event_id]) for event_id in ids}
    report = bootstrap.audit(system.loop, system.settings)
    assert report.ok, str(report)


def test_who_adopts_tells_of_the_fresh_start_and_of_each_verdict_once(
    make: Callable[..., System],
) -> None:
    system = make()
    system.send("examples", [lesson(0), lesson(1), lesson(0)], "model_key")
    system.write_loop(OTHER_MODEL)
    adopt(system, FRESH)
    found = {(o.feedback_id, o.model_version, o.detail) for o in told(system, range(2))}
    detail = "by the models that were left for a fresh start at offset 4"
    assert found == {("f-0", 2, detail), ("f-1", 3, detail)}


def test_who_continues_buries_what_the_learner_would_have(make: Callable[..., System]) -> None:
    system = make()
    examples = system.topic("examples")
    system.send("examples", [lesson(0), lesson(1, a="much")], "model_key")
    system.write(examples, b"\xff", b"", partition=0)
    system.send("examples", [lesson(0), lesson(2)], "model_key")
    system.write_loop(OTHER_MODEL)
    adopt(system, CONTINUE)
    assert {(o.feedback_id, o.model_version) for o in told(system, range(3))} == {
        ("f-0", 2),
        ("f-2", 6),
    }
    letters = {
        (d.offset, d.stage, d.feedback_id) for d in system.records("dead-letters", DeadLetter)
    }
    assert letters == {(2, "learn", "f-1"), (3, "decode", None)}


# Seeds ------------------------------------------------------------------------------------------------------


def test_what_is_out_is_carried_over_and_what_was_carried_over_stays_in(
    make: Callable[..., System],
) -> None:
    """Who continues rebuilds what the learner did not come to; the log alone does not make the model after that."""
    system = make(snapshot_interval_s=0.1)
    system.await_running(system.start("learner"))
    teach(system, range(30))
    assert system.end("learner-1") == 0
    (recorded,) = exclude(system, "f-3")
    assert not recorded.published
    system.write_loop(OTHER_MODEL)
    adopt(system, CONTINUE)
    system.await_running(system.start("learner"))
    teach(system, range(30, 31))
    await_learned(system, 30)
    with pytest.raises(Conflict, match="came with a model that was continued"):
        exclude(system, "f-5")
    with pytest.raises(NotFound, match="nothing was recorded"):
        exclude(system, "f-99")
    (recorded,) = exclude(system, "f-30")
    assert recorded.published
    await_learned(system, 29)
    assert system.end("learner-1") == 0
    system.write_loop(THIRD_MODEL)
    adopt(system, REFOLD)
    system.await_running(system.start("learner"))
    teach(system, range(31, 32))
    await_learned(system, 30)
    assert len({(o.feedback_id, o.model_version) for o in told(system, range(32))}) == 32


def exclude(system: System, feedback_id: str) -> list[corrections.Recorded]:
    """Takes one verdict out."""
    choice = corrections.Choice(feedback=feedback_id)
    return corrections.record(system.loop, system.settings, EXCLUDE, choice, who="ann")


def trained(system: System, rows: int = 200) -> Any:
    """Seeds the loop with a trained model, and gives that."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    for number in range(rows):
        taught = lesson(number)
        model.learn_one(dict(taught.features), taught.label)
    path = system.folder / "trained.pkl"
    path.write_bytes(pickle.dumps(model))
    bootstrap.seed(system.loop, system.settings, path)
    return model


def assert_answers_as(system: System, model: Any) -> None:
    ids = [f"e{n}" for n in range(20)]
    system.send_inputs(ids)
    system.await_ids("predictions", ids)
    for found in system.records("predictions", Prediction):
        likely = model.predict_proba_one(dict(found.features))
        assert found.scores == {str(label): p for label, p in likely.items()}


def test_a_trained_model_is_continued_before_it_has_learned_anything(
    make: Callable[..., System],
) -> None:
    system = make()
    model = trained(system)
    system.write_loop(OTHER_MODEL)
    adopt(system, CONTINUE)
    system.await_running(system.start("predictor"))
    assert_answers_as(system, model)


def test_a_loop_whose_trained_model_cannot_be_read_any_more_begins_without_it(
    make: Callable[..., System],
) -> None:
    system = make()
    trained(system)
    lose_the_secret(system)
    assert_refused(system, "predictor", "which the models", "is gone: adopt with --refold")
    assert_refused_to_adopt(system, FRESH, "adopt with --refold")
    adopt(system, REFOLD)
    system.await_running(system.start("predictor"))
    assert_answers_as(system, system.loop.model)


def history(numbers: range) -> list[dict[str, Any]]:
    taught = map(lesson, numbers)
    return [{**each.features, "label": each.label} for each in taught]


def test_a_loop_seeded_from_json_lines_and_from_avro_has_learned_both_as_its_inputs_would_be(
    make: Callable[..., System],
) -> None:
    """A JSON number without a point is an integer; the loop's own types make the float of it that it predicts on."""
    types = "inputs=Source(features=dict(a=float, b=float, c=float)),"
    system = make(PHISHING.replace("{more}", types))
    lines = system.folder / "history.jsonl"
    rows = [{**row, "c": int(row["c"])} for row in history(range(20))]
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert bootstrap.seed(system.loop, system.settings, lines) == 20
    container = system.folder / "history.avro"
    fields = [{"name": name, "type": "double"} for name in "abc"]
    fields.append({"name": "label", "type": "boolean"})
    with container.open("wb") as file:
        schema = {"type": "record", "name": "Row", "fields": fields}
        fastavro.writer(file, schema, history(range(20, 40)))
    assert bootstrap.seed(system.loop, system.settings, container) == 20
    system.await_running(system.start("learner"), system.start("predictor"))

    fold = Fold(system.loop.model, system.loop.task, system.loop.classes)
    for number in range(40):
        fold.apply(number + 2, lesson(number))
    system.send_inputs(["asked"])
    system.await_ids("predictions", ["asked"])
    (found,) = system.records("predictions", Prediction)
    assert found.model_version == 41
    assert found.scores == fold.answer(found.features).scores


def test_history_with_a_number_that_is_none_leaves_the_loop_as_it_was(
    make: Callable[..., System],
) -> None:
    system = make()
    lines = system.folder / "history.jsonl"
    lines.write_text('{"a": 1.0, "label": true}\n{"a": NaN, "label": true}\n')
    with pytest.raises(BadRecord, match="line 2: not JSON: NaN is no JSON"):
        bootstrap.seed(system.loop, system.settings, lines)
    assert system.records("examples", Example) == []
