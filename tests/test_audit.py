"""The audit on logs written by hand: a green one, and one for each thing that it has to notice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import nan
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from river import linear_model, preprocessing

from streams import bootstrap
from streams.audit import Report, Said, Stored, Subject, audit, lineage_of, nearly
from streams.config import Settings
from streams.core.errors import BadRecord
from streams.core.events import (
    DeadLetter,
    Define,
    Example,
    Feedback,
    Input,
    Outcome,
    Prediction,
    Review,
    Snapshot,
    Source,
)
from streams.core.fold import Fold
from streams.core.topics import TopicSpec
from streams.engine.admin import create
from streams.engine.codec import Codec, Record
from streams.engine.producer import Outputs
from tests.conftest import Kafka
from tests.e2e.system import System, await_that, lesson, verdict

CODEC = Codec()
SUFFIXES = (
    *("inputs", "predictions", "reviews", "feedback", "outcomes", "examples", "dead-letters"),
)
EVENTS = 6
FEEDBACK = ("feedback", 0)
WINDOW_MS = 1_000
Records = list[Record | bytes]


def unlearned(base: str | None = None) -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def features(n: int) -> dict[str, float]:
    return {"a": float(n % 5), "b": n * 0.7}


class Forgetful(Fold):
    """A fold without the memory of what it has seen."""

    def mark(self, version: int, example: Example) -> tuple[Source, ...]:
        super().mark(version, example)
        return tuple(example.sources)


@dataclass
class World:
    """The topics of a loop, one partition each: an index in a list is an offset."""

    inputs: Records = field(default_factory=list)
    predictions: Records = field(default_factory=list)
    feedback: Records = field(default_factory=list)
    outcomes: Records = field(default_factory=list)
    examples: Records = field(default_factory=list)
    dead_letters: Records = field(default_factory=list)
    reviews: Records = field(default_factory=list)
    stored: dict[str, Stored] = field(default_factory=dict)

    def store(self, fold: Fold | None = None) -> None:
        """Stores what the fold of the core makes of the log."""
        fold = fold or Fold(unlearned(), "binary", (False, True))
        for offset, example in enumerate(self.examples):
            if isinstance(example, Example):
                fold.apply(offset + 1, example)
        sources = fold.seen
        self.stored = {"": Stored(fold.version, sources, fold.model)}

    def answer(self, fold: Fold, event_id: str, n: int) -> Prediction:
        label, scores, confidence = fold.answer(features(n))
        return Prediction(
            event_id, label, scores, confidence, features(n), None, None, "", fold.version, "review", "all", 1.0
        )  # fmt: skip


def example_of(n: int, offset: int, feedback_id: str | None = None) -> Example:
    source = Source("feedback", 0, offset, feedback_id or f"f-{n}", None, "client")
    return Example(
        f"e-{n}", "", features(n), n % 2 == 0, 1.0, [source], True, {}, 0, "review", "all", 1.0, 1, 1
    )  # fmt: skip


def review(n: int, requested_at: int = 0, version: int = 0) -> Review:
    return Review(
        f"e-{n}", True, {}, 1.0, features(n), None, None, "", version, "all", 1.0, None, 0.0,
        requested_at, requested_at + WINDOW_MS,
    )  # fmt: skip


def learned(n: int, version: int, offset: int | None = None) -> Outcome:
    return Outcome(
        f"e-{n}", f"f-{n}", "learned", None, 0, n if offset is None else offset, "", version
    )


def define(definition: str, mode: str = "fresh") -> Define:
    return Define("l", definition, "a model", mode, None, True, False, "0", "3", "me", "because")


def green() -> World:
    """Six events, each predicted, then corrected, then learned; the log begins with a definition."""
    world, fold = World(examples=[define("d")]), Fold(unlearned(), "binary", (False, True))
    for n in range(EVENTS):
        world.inputs.append(Input(f"e-{n}", features(n)))
        world.predictions.append(world.answer(fold, f"e-{n}", n))
        world.reviews.append(review(n))
        world.feedback.append(Feedback(f"f-{n}", f"e-{n}", "correct", n % 2 == 0))
        example = example_of(n, n)
        world.examples.append(example)
        fold.apply(len(world.examples), example)
        world.outcomes.append(learned(n, len(world.examples)))
    world.store()
    return world


def letter(topic: str, offset: int, **changes: Any) -> DeadLetter:
    made = DeadLetter(topic, 0, offset, 0, b"k", b"v", [], "r", "decode", "odd", None, None, 0)
    return made._replace(**changes)


Recount = Callable[..., Report]


@pytest.fixture
def recount(broker: Kafka, unique: str) -> Recount:
    """Writes a world to topics of its own, and audits it."""
    kafka = {"bootstrap.servers": broker.bootstrap}
    topics = {suffix: f"{unique}.{suffix}" for suffix in SUFFIXES}

    def run(world: World, *, settled: bool = True, **changes: Any) -> Report:
        _write(kafka, topics, world)
        before = changes.pop("before", None)
        if before is not None:
            before(AdminClient(kafka), topics)
        subject = Subject(
            kafka=kafka,
            topics=topics,
            decode=CODEC.decode_any,
            read_input=lambda key, value: CODEC.decode_as(Input, value).event_id,
            unreadable=BadRecord,
            unlearned=unlearned,
            stored=world.stored,
            **changes,
        )
        return audit(subject, settled=settled)

    return run


def _write(kafka: dict[str, str], topics: dict[str, str], world: World) -> None:
    config = {"message.timestamp.type": "LogAppendTime"}
    create(AdminClient(kafka), [TopicSpec(name, 1, config) for name in topics.values()], 1)
    outputs = Outputs(kafka)
    for suffix, topic in topics.items():
        records: Records = getattr(world, suffix.replace("-", "_"))
        for record in records:
            if isinstance(record, DeadLetter):
                record = record._replace(topic=topics.get(record.topic, record.topic))
            headers = [("kind", b"define")] if isinstance(record, Define) else None
            value = record if isinstance(record, bytes) else CODEC.encode(topic, record)
            outputs.send(topic, value, b"k", headers, 0)
    outputs.flush()


def told(report: Report) -> str:
    return "\n".join(map(str, report.findings))


def off(report: Report) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(finding.promise, finding.what, finding.examples) for finding in report.findings]


# Green ---------------------------------------------------------------------------------------------------------------


def test_a_loop_that_kept_its_promises_is_ok(recount: Recount) -> None:
    report = recount(green())
    assert told(report) == ""
    assert report.ok
    assert report.counts == {
        "inputs": 6,
        "predictions": 6,
        "predictions_again": 0,
        "reviews": 6,
        "reviews_again": 0,
        "dead_letters": 0,
        "feedback": 6,
        "outcomes": 6,
        "learned": 6,
        "examples": 6,
        "examples_again": 0,
        "waiting": 0,
        "rebuilt": 6,
        "models": 1,
    }
    assert json.loads(json.dumps(report.as_json()))["ok"] is True
    assert "ok: nothing lost" in str(report)


def test_what_crashes_write_again_is_ok(recount: Recount) -> None:
    world = green()
    world.predictions.append(world.predictions[0])
    world.examples.append(world.examples[2])
    world.outcomes += [
        world.outcomes[3],
        Outcome("e-1", "f-1", "duplicate", None, 0, 6, None, None),
    ]
    world.feedback.append(world.feedback[1])
    world.reviews.append(world.reviews[3])
    world.store()
    report = recount(world)
    assert told(report) == ""
    assert report.counts["reviews_again"] == 1
    assert (report.counts["predictions_again"], report.counts["examples_again"]) == (1, 1)


def test_an_id_that_comes_again_after_it_was_forgotten_is_that_of_another_feedback(
    recount: Recount,
) -> None:
    """Two outcomes of one id are too many, unless the joiner could not know any more that there was one."""
    world = green()
    world.feedback.append(world.feedback[1])
    world.outcomes.append(Outcome("e-1", "f-1", "orphaned", None, 0, 6, None, None))
    assert recount(world, known_ms=-1).ok
    assert off(recount(world, known_ms=60_000)) == [
        (1, "feedback with several outcomes", ("f-1: learned and orphaned",))
    ]


def test_an_input_sent_twice_is_answered_by_one_prediction(recount: Recount) -> None:
    world = green()
    world.inputs.append(world.inputs[0])
    assert told(recount(world)) == ""


def test_records_that_nobody_can_read_are_answered_by_their_dead_letters(recount: Recount) -> None:
    world = green()
    world.inputs += [b"\xff", Input("e-bad", {})]
    world.feedback += [b"\xff", Feedback("f-bad", "e-1", "correct", "what?")]
    world.dead_letters += [
        letter("inputs", 6),
        letter("inputs", 7, event_id="e-bad"),
        letter("feedback", 6),
        letter("feedback", 7, feedback_id="f-bad"),
    ]
    report = recount(world)
    assert told(report) == ""
    assert report.counts["dead_letters"] == 4


def test_a_lesson_that_the_model_refused_is_answered_by_its_dead_letter(recount: Recount) -> None:
    world = green()
    world.feedback.append(Feedback("f-6", "e-1", "correct", True))
    world.examples.append(example_of(6, 6)._replace(features={"a": "not a number"}))
    world.dead_letters.append(letter("examples", 7, feedback_id="f-6"))
    world.store()
    assert told(recount(world)) == ""


def test_what_is_under_way_waits_unless_the_loop_is_settled(recount: Recount) -> None:
    world = green()
    world.inputs.append(Input("e-new", features(9)))
    world.feedback.append(Feedback("f-new", "e-0", "correct", True))
    report = recount(world, settled=False)
    assert told(report) == ""
    assert report.counts["waiting"] == 2


def test_feedback_that_was_sent_on_to_its_own_partition_has_one_outcome(recount: Recount) -> None:
    world = green()
    world.feedback.append(world.feedback[0])
    world.outcomes.append(Outcome("e-0", "f-0", "duplicate", None, 0, 6, None, None))
    assert told(recount(world)) == ""


def consensus() -> World:
    """As ``green``, with an event that two people agreed on, one was outvoted, and a senior was asked."""
    world = green()
    world.feedback += [Feedback(f"f-{n}", "e-1", "correct", n != 7) for n in (6, 7, 8)]
    sources = [example_of(n, n).sources[0] for n in (6, 8)]
    example = example_of(1, 6)._replace(sources=sources)
    world.examples.append(example)
    version = len(world.examples)
    for n in (6, 8):
        world.outcomes.append(learned(n, version)._replace(event_id="e-1"))
    world.outcomes.append(Outcome("e-1", "f-7", "outvoted", None, 0, 7, None, None))
    world.reviews.append(review(1)._replace(senior=True, reason="those who were asked disagree"))
    world.store()
    return world


def test_an_example_of_several_is_learned_once_by_each_and_a_senior_is_asked_beside_the_others(
    recount: Recount,
) -> None:
    report = recount(consensus(), waits_ms=60_000)
    assert told(report) == ""
    assert (report.counts["reviews"], report.counts["outcomes"]) == (7, 9)


def test_an_event_that_a_senior_was_asked_about_twice_is_named(recount: Recount) -> None:
    world = consensus()
    world.reviews.append(review(1, 1)._replace(senior=True))
    assert off(recount(world)) == [(1, "events that were reviewed twice", ("e-1",))]


def test_a_verdict_waits_for_others_to_agree_as_long_as_the_loop_lets_it(recount: Recount) -> None:
    world = green()
    world.feedback.append(Feedback("f-waits", "e-0", "correct", True))
    report = recount(world, waits_ms=3_600_000)
    assert told(report) == ""
    assert report.counts["waiting"] == 1


def test_a_verdict_that_waits_for_too_long_is_lost(recount: Recount) -> None:
    world = green()
    world.feedback.append(Feedback("f-lost", "e-0", "correct", True))
    what = "feedback without an outcome or a dead letter"
    assert off(recount(world, waits_ms=-3_600_000)) == [(1, what, ("f-lost",))]


def test_what_retention_has_deleted_is_not_missed(recount: Recount) -> None:
    """The first half of inputs, feedback and predictions is gone: nobody is accused of what that held."""

    def trim(admin: AdminClient, topics: dict[str, str]) -> None:
        gone = [
            TopicPartition(topics[suffix], 0, 3) for suffix in ("inputs", "feedback", "predictions")
        ]
        for done in admin.delete_records(gone).values():
            done.result()

    report = recount(green(), before=trim)
    assert told(report) == ""
    assert any("3 records of feedback are deleted" in note for note in report.notes)
    assert report.counts["rebuilt"] == 3


def test_versions_that_other_code_has_made_are_not_made_again(recount: Recount) -> None:
    world = green()
    begun = len(world.examples)
    world.examples.append(define("another", "fresh"))
    world.feedback.append(Feedback("f-6", "e-1", "correct", True))
    world.examples.append(example_of(6, 6))
    world.outcomes.append(learned(6, begun + 2))
    fold = Fold(unlearned(), "binary", (False, True))
    for offset, example in enumerate(world.examples):
        if isinstance(example, Example):
            (fold.apply if offset > begun else fold.mark)(offset + 1, example)
    sources = fold.seen
    world.stored = {"": Stored(fold.version, sources, fold.model)}
    world.predictions[:] = [
        p._replace(scores={"True": 0.5, "False": 0.5})
        for p in world.predictions
        if isinstance(p, Prediction)
    ]
    report = recount(world)
    assert told(report) == ""
    assert any("other code" in note for note in report.notes)


# Promise 1 -----------------------------------------------------------------------------------------------------------


def test_an_input_that_was_dropped_is_named(recount: Recount) -> None:
    world = green()
    del world.predictions[5]
    assert off(recount(world)) == [(1, "inputs without a prediction or a dead letter", ("e-5",))]


def test_an_unreadable_input_without_a_dead_letter_is_named_by_its_place(recount: Recount) -> None:
    world = green()
    world.inputs.append(b"\xff")
    assert ".inputs-0 at 6" in told(recount(world))


def test_a_dead_letter_of_another_topic_does_not_stand_for_an_input(recount: Recount) -> None:
    world = green()
    world.inputs.append(Input("e-6", {}))
    world.dead_letters.append(letter("examples", 6, event_id="e-6"))
    assert "e-6" in told(recount(world))


def test_a_prediction_of_nothing_is_named(recount: Recount) -> None:
    world = green()
    del world.inputs[2]
    assert off(recount(world)) == [(1, "predictions of inputs that are not there", ("e-2",))]


def test_feedback_that_was_dropped_is_named(recount: Recount) -> None:
    world = green()
    world.feedback.append(Feedback("f-lost", "e-1", "correct", True))
    what = "feedback without an outcome or a dead letter"
    assert off(recount(world)) == [(1, what, ("f-lost",))]


def test_feedback_that_is_only_called_a_duplicate_is_lost(recount: Recount) -> None:
    world = green()
    world.feedback.append(Feedback("f-lost", "e-1", "correct", True))
    world.outcomes.append(Outcome("e-1", "f-lost", "duplicate", None, 0, 6, None, None))
    assert "f-lost" in told(recount(world))


def test_an_outcome_of_nothing_is_named(recount: Recount) -> None:
    world = green()
    world.outcomes.append(Outcome("e-1", "f-ghost", "orphaned", None, 0, 9, None, None))
    assert off(recount(world)) == [(1, "outcomes of feedback that is not there", ("f-ghost",))]


def test_a_feedback_with_two_outcomes_is_named(recount: Recount) -> None:
    world = green()
    world.outcomes.append(Outcome("e-1", "f-1", "orphaned", None, 0, 1, None, None))
    what = "feedback with several outcomes"
    assert off(recount(world)) == [(1, what, ("f-1: learned and orphaned",))]


def test_a_record_of_ours_that_nobody_can_read_is_named(recount: Recount) -> None:
    world = green()
    world.outcomes.append(b"\xff")
    assert ".outcomes-0 at 6" in told(recount(world))


def test_an_event_that_was_reviewed_twice_is_named(recount: Recount) -> None:
    """A joiner that forgets predictions: what a crash predicted again is sent to people again."""
    world = green()
    world.reviews.append(review(3, requested_at=WINDOW_MS, version=2))
    assert off(recount(world)) == [(1, "events that were reviewed twice", ("e-3",))]


def test_an_id_that_is_used_again_when_the_first_is_forgotten_may_be_reviewed_again(
    recount: Recount,
) -> None:
    world = green()
    world.reviews.append(review(3, requested_at=2 * WINDOW_MS + 1, version=2))
    report = recount(world)
    assert told(report) == ""
    assert report.counts["reviews"] == 7


def test_of_many_offenders_the_first_few_are_named_and_all_are_counted(recount: Recount) -> None:
    world = green()
    world.feedback += [Feedback(f"f-lost-{n}", "e-1", "correct", True) for n in range(20)]
    (finding,) = recount(world).findings
    assert finding.times == 20
    assert finding.examples == tuple(f"f-lost-{n}" for n in range(5))


# Promise 2 -----------------------------------------------------------------------------------------------------------


def test_a_verdict_learned_at_two_versions_is_named(recount: Recount) -> None:
    world = green()
    world.outcomes.append(learned(3, 99))
    assert (2, "feedback learned more than once", ("f-3",)) in off(recount(world))


def test_a_fold_that_forgets_what_it_has_seen_is_found_out(recount: Recount) -> None:
    """The dedup of the core is taken away: the example that a crash wrote again is learned again."""
    world = green()
    world.examples.append(world.examples[2])
    world.outcomes.append(learned(1, len(world.examples)))
    world.store(Forgetful(unlearned(), "binary", (False, True)))
    report = recount(world)
    assert (2, "feedback learned more than once", ("f-1",)) in off(report)
    assert (3, "stored models that answer otherwise than their log", ("'' at 8",)) in off(report)


def test_a_verdict_that_stands_at_two_places_of_the_log_is_named(recount: Recount) -> None:
    """A joiner that forgets ids: the second copy of a feedback became an example of its own."""
    world = green()
    world.feedback.append(world.feedback[1])
    world.examples.append(example_of(1, 6))
    world.outcomes.append(learned(1, len(world.examples), 6))
    world.store()
    report = recount(world)
    assert (2, "feedback in examples from several places", ("f-1",)) in off(report)
    assert (2, "feedback learned more than once", ("f-1",)) in off(report)
    assert not report.ok


def test_a_lesson_without_an_example_is_named(recount: Recount) -> None:
    world = green()
    world.feedback.append(Feedback("f-6", "e-1", "correct", True))
    world.outcomes.append(learned(6, 9))
    assert off(recount(world)) == [(2, "feedback learned without an example", ("f-6",))]


def test_an_example_that_was_not_learned_is_named(recount: Recount) -> None:
    world = green()
    del world.outcomes[4]
    assert (2, "examples whose feedback was never learned", ("f-4",)) in off(recount(world))


def test_a_lesson_at_another_version_than_its_example_is_named(recount: Recount) -> None:
    world = green()
    world.outcomes[4] = learned(4, 99)
    what = "feedback learned at another version than its example's"
    assert off(recount(world)) == [(2, what, ("f-4",))]


def test_an_example_that_rests_on_other_feedback_is_named(recount: Recount) -> None:
    world = green()
    world.examples[3] = example_of(2, 1)  # f-2 is at 2
    world.store()
    report = recount(world)
    assert "f-2 (event e-2" in told(report)
    assert "examples that rest on feedback that is not there" in told(report)


def test_a_model_that_learned_what_is_not_in_the_log_is_named(recount: Recount) -> None:
    world = green()
    world.feedback.append(Feedback("f-abstained", "e-1", "abstain"))
    world.outcomes.append(Outcome("e-1", "f-abstained", "abstained", None, 0, 6, None, None))
    stored = world.stored[""]
    world.stored = {"": stored._replace(sources={FEEDBACK: range(7)})}
    report = recount(world)
    assert [finding.promise for finding in report.findings] == [2]
    assert "f-abstained (feedback-0 at 6, in the model alone" in told(report)


def test_a_model_that_did_not_learn_what_is_in_the_log_is_named(recount: Recount) -> None:
    world = green()
    stored = world.stored[""]
    world.stored = {"": stored._replace(sources={FEEDBACK: [0, 1, 2, 3, 5]})}
    assert "f-4 (feedback-0 at 4, in the log alone" in told(recount(world))


# Promises 3 and 5 ----------------------------------------------------------------------------------------------------


def test_a_stored_model_that_is_another_is_named(recount: Recount) -> None:
    world = green()
    world.stored = {"": world.stored[""]._replace(model=unlearned())}
    what = "stored models that answer otherwise than their log"
    assert off(recount(world)) == [(3, what, ("'' at 7",))]


def test_a_stored_model_of_a_version_that_never_was_is_named(recount: Recount) -> None:
    world = green()
    world.stored = {"": world.stored[""]._replace(version=50)}
    what = "stored models of versions that are not in the log"
    assert off(recount(world)) == [(3, what, ("'' at 50",))]


def test_a_stored_model_that_lags_behind_the_log_is_compared_at_its_version(
    recount: Recount,
) -> None:
    world, longer = green(), green()
    del world.examples[-2:]
    world.store()
    longer.stored = world.stored
    assert told(recount(longer)) == ""


def test_an_example_that_was_lost_after_it_was_learned_is_found_out(recount: Recount) -> None:
    """One record is dropped from the log: the model knows more than the log does."""
    world = green()
    world.examples[4] = define("d")
    assert {finding.promise for finding in recount(world).findings} >= {2, 3, 5}
    assert "f-3" in told(recount(world))


def test_a_prediction_that_its_version_does_not_give_is_named(recount: Recount) -> None:
    world = green()
    wrong = world.predictions[3]
    assert isinstance(wrong, Prediction)
    world.predictions[3] = wrong._replace(scores={**wrong.scores, "True": 0.123})
    what = "predictions that their version does not give again"
    assert off(recount(world)) == [(5, what, ("e-3 at 4",))]


def test_a_prediction_by_a_version_that_never_was_is_named(recount: Recount) -> None:
    world = green()
    wrong = world.predictions[3]
    assert isinstance(wrong, Prediction)
    world.predictions[3] = wrong._replace(model_version=40)
    what = "predictions by versions that are not in the log"
    assert off(recount(world)) == [(5, what, ("e-3 at 40",))]


def test_a_prediction_by_the_unlearned_model_is_made_again_before_there_is_any_example(
    recount: Recount,
) -> None:
    world = World(inputs=[Input("e-0", features(0))])
    world.predictions.append(World().answer(Fold(unlearned(), "binary"), "e-0", 0))
    assert recount(world).counts["rebuilt"] == 1


def test_a_model_that_does_not_replay_is_only_asked_for_its_sources(recount: Recount) -> None:
    world = green()
    world.stored = {"": world.stored[""]._replace(model=unlearned())}
    report = recount(world, replays=False)
    assert told(report) == ""
    assert report.counts["rebuilt"] == 0


@pytest.fixture
def rounded() -> World:
    """A world whose predictions and stored model differ in the last bits from what is made of the log here."""
    world = green()
    world.predictions[:] = [
        p._replace(scores={name: score * (1 + 1e-12) for name, score in p.scores.items()})
        for p in world.predictions
        if isinstance(p, Prediction)
    ]
    world.stored[""].model["LogisticRegression"].intercept += 1e-12
    return world


def test_on_a_machine_that_rounds_alike_the_last_bit_counts(
    recount: Recount, rounded: World
) -> None:
    assert {finding.promise for finding in recount(rounded).findings} == {3, 5}


def test_on_a_machine_that_rounds_otherwise_it_does_not_and_that_is_said(
    recount: Recount, rounded: World
) -> None:
    report = recount(rounded, rounds_alike=False)
    assert told(report) == ""
    assert any("this machine rounds otherwise" in note for note in report.notes)


def test_on_a_machine_that_rounds_otherwise_another_answer_is_still_named(recount: Recount) -> None:
    world = green()
    wrong = world.predictions[3]
    assert isinstance(wrong, Prediction)
    world.predictions[3] = wrong._replace(scores={**wrong.scores, "True": 0.123})
    world.stored = {"": world.stored[""]._replace(model=unlearned())}
    report = recount(world, rounds_alike=False)
    assert {finding.promise for finding in report.findings} == {3, 5}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((True, {"True": 0.5, "False": 0.5}), (False, {"True": 0.5 - 1e-9, "False": 0.5}), True),
        ((True, {"True": 0.9}), (True, {"True": 0.9, "False": 0.1}), False),
        ((2.0, {}), (2.0 + 1e-9, {}), True),
        ((2.0, {}), (2.1, {}), False),
        ((2, {}), (2.0, {}), True),
        ((nan, {}), (nan, {}), True),
        ((None, {}), (None, {}), True),
        (("a", {}), ("b", {}), False),
        (("a", {}), ("a", {"a": 1.0}), False),
    ],
)
def test_answers_are_near_if_they_differ_by_rounding_alone(
    one: Said, other: Said, expected: bool
) -> None:
    assert nearly(one, other) == nearly(other, one) == expected


def test_models_whose_snapshots_nobody_can_use_are_named_with_the_reason(recount: Recount) -> None:
    world = green()
    world.stored = {}
    report = recount(world, unusable={"": "is not signed with this COUNTERPOINT_SECRET"})
    what = "models whose snapshots cannot be used"
    assert off(report) == [(3, what, ("'': is not signed with this COUNTERPOINT_SECRET",))]
    assert report.counts["models"] == 0


def test_models_that_are_not_stored_yet_are_not_compared_and_that_is_said(recount: Recount) -> None:
    world = green()
    world.stored = {}
    report = recount(world)
    assert told(report) == ""
    assert report.notes == ["no model was compared with the log: none is stored yet"]
    assert report.counts["models"] == 0


# On real parts -------------------------------------------------------------------------------------------------------

OTHER_CPU = "glibc.cpu.hwcaps=-FMA,-AVX2"
WAVY = """
import math

from river import base
from streams import Loop


class Wavy(base.Classifier):
    # Its last bits tell the last bits of many powers of e: no two kinds of CPU agree on all of them.

    def __init__(self):
        self._seen = 0

    def learn_one(self, x, y):
        self._seen += 1

    def predict_proba_one(self, x):
        waves = (math.exp(-(n + 0.5) / 777 / (1 + self._seen)) for n in range(4096))
        p = 0.5 + sum(int(wave * 2**53) for wave in waves) % 1024 * 2**-50
        return {{True: p, False: 1 - p}}


loop = Loop(name={name!r}, task="binary", model=Wavy(), partitions=1)
"""


def test_an_audit_on_another_cpu_than_the_learners_is_green_and_says_what_it_left_out(
    broker: Kafka, tmp_path: Path, unique: str
) -> None:
    """Only a CPU that has these instructions can be told to do without them."""
    with System(broker.bootstrap, tmp_path, WAVY, unique, snapshot_interval_s=0.1) as system:
        system.prepare()
        system.start_all()
        ids = [f"e{n:03}" for n in range(20)]
        for some in (ids[:10], ids[10:]):
            system.send_inputs(some)
            system.await_ids("predictions", some)
            system.send("feedback", (verdict(each, True) for each in some))
            system.await_ids("outcomes", some)
        end = max(each.place[1] + 1 for each in system.seen("examples"))
        await_that(lambda: end in {s.version for s in system.records("models", Snapshot)})
        alike = system.command("audit", system.reference)
        assert alike.returncode == 0, alike.stdout
        assert "rounds otherwise" not in alike.stdout
        system.environ["GLIBC_TUNABLES"] = OTHER_CPU
        other = system.command("audit", system.reference)
        assert other.returncode == 0, other.stdout
        can = os.uname().machine == "x86_64" and " fma " in Path("/proc/cpuinfo").read_text()
        assert ("this machine rounds otherwise" in other.stdout) == can


def test_an_audit_with_another_secret_than_the_learners_does_not_say_that_all_is_well(
    broker: Kafka, tmp_path: Path, unique: str
) -> None:
    with System(broker.bootstrap, tmp_path, name=unique, snapshot_interval_s=0.1) as system:
        system.prepare()
        system.await_running(system.start("learner"))
        system.send("examples", map(lesson, range(5)), "model_key")
        await_that(lambda: {s.version for s in system.records("models", Snapshot)} >= {6})
        mine = bootstrap.audit(system.loop, system.settings)
        assert mine.counts["models"] == 1
        system.environ["COUNTERPOINT_SECRET"] = "another"
        other = bootstrap.audit(system.loop, Settings.from_env(system.environ))
        assert other.counts["models"] == 0
        assert "models whose snapshots cannot be used ('': Snapshot" in told(other)
        assert "is not signed with this COUNTERPOINT_SECRET" in told(other)


# Lineages ------------------------------------------------------------------------------------------------------------


def lineage(*modes: str) -> tuple[int, float]:
    """Where the newest of several definitions, at offsets 0, 10, 20 …, learns from, and what it can compare."""
    named = [(mode.split()[0], "d" if "again" in mode else f"d{n}") for n, mode in enumerate(modes)]
    defined = [(10 * n, define(name, mode)._asdict()) for n, (mode, name) in enumerate(named)]
    found = lineage_of(defined)
    return found.learn_from, found.comparable_after


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        (("fresh",), (0, -1)),
        (("fresh", "fresh"), (10, 10)),
        (("fresh", "refold"), (0, 10)),
        (("fresh", "fresh", "refold"), (10, 20)),
        (("fresh", "continue"), (10, float("inf"))),
        (("fresh", "continue", "refold"), (0, 20)),
        (("fresh", "continue again", "refold again"), (0, 20)),
    ],
)
def test_a_lineage_begins_where_its_definition_says(
    modes: Iterable[str], expected: tuple[int, float]
) -> None:
    assert lineage(*modes) == expected


def test_a_definition_that_is_said_again_changes_nothing() -> None:
    again = [(offset, define("d")._asdict()) for offset in (0, 5)]
    assert lineage_of(again) == lineage_of(again[:1])
    assert all(one["definition"] == two["definition"] for (_, one), (_, two) in pairwise(again))
