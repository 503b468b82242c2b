"""Bad records meet a running system: each becomes a dead letter as it was, and the good ones around it go through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from streams.core.events import (
    ACCEPT,
    DUPLICATE,
    EXPIRED,
    LEARNED,
    NOTED,
    ORPHANED,
    REJECT,
    DeadLetter,
    Feedback,
    Header,
    Input,
    Outcome,
    Prediction,
)
from streams.core.topics import partition_of
from streams.engine.codec import SINGLE_OBJECT, Codec, Record
from tests.conftest import Kafka
from tests.e2e.system import System, await_that, event, verdict

MOODY = """
from river import base, naive_bayes
from streams import Loop, Source


class Moody(base.Classifier):
    '''A model with a bad day now and then.'''

    def __init__(self):
        self.inner = naive_bayes.GaussianNB()

    @property
    def _multiclass(self):
        return True

    def learn_one(self, x, y):
        if x["mood"] == "unteachable":
            raise ValueError("no wish to learn this")
        self.inner.learn_one({{"a": x["a"]}}, y)

    def predict_one(self, x):
        if x["mood"] == "speechless":
            raise ValueError("no words for this")
        return None if x["mood"] == "shy" else "cat"

    def predict_proba_one(self, x):
        label = self.predict_one(x)
        return {{}} if label is None else {{label: 1.0}}


loop = Loop(
    name={name!r},
    task="multiclass",
    classes=("cat", "dog", "bird"),
    model=Moody(),
    inputs=Source(features={{"a": float, "mood": str}}),
    labels=[Source({name!r} + "-labels", event_id="id", label="truth", reviewer="by")],
    partitions=2,
    {more}
)
"""
LARGE = "x" * (10 << 20)
LARGEST = str(12 << 20)
CODEC = Codec()
HEADERS: list[tuple[str, bytes | None]] = [("trace", b"\x01"), ("trace", None)]


def encoded(record: Record) -> bytes:
    return CODEC.encode("any", record)


def mooded(event_id: str, mood: str = "fine", **features: Any) -> Input:
    return Input(event_id, {"a": 1.5, "mood": mood, **features})


class Bad(NamedTuple):
    value: bytes | None
    told: str
    stage: str = "decode"
    event_id: str | None = None


BAD_INPUTS = {
    "truncated Avro": Bad(encoded(mooded("cut"))[:-3], "truncated"),
    "nothing after the header": Bad(encoded(mooded("cut"))[:7], "truncated"),
    "more than a record": Bad(encoded(mooded("long")) + b"\x00", "1 bytes follow its end"),
    "unknown fingerprint": Bad(SINGLE_OBJECT + b"\x07" * 20, "unknown schema, fingerprint 0707"),
    "wrong magic": Bad(b"\x13\x37what is this", "starts with 13 37 77 68: neither Avro"),
    "a registry's framing": Bad(b"\x00\x00\x00\x00\x05\x02a", "set COUNTERPOINT_REGISTRY_URL"),
    "no value": Bad(None, "no value"),
    "another kind of record": Bad(encoded(verdict("e", "cat")), "expected a Input: was it sent"),
    "JSON that is not an object": Bad(b'[{"event_id": "e"}]', "a list and not an object"),
    "JSON that is none": Bad(b'{"event_id": "e"', "not JSON"),
    "JSON without features": Bad(b'{"event_id": "e"}', "no object 'features'", event_id="e"),
    "JSON with NaN": Bad(b'{"event_id": "e", "features": {"a": NaN}}', "NaN is no JSON"),
    "missing event id": Bad(b'{"features": {"a": 1.0, "mood": "fine"}}', "no field 'event_id'"),
    "empty event id": Bad(encoded(mooded("")), "event_id is empty"),
    "huge event id": Bad(encoded(mooded("e" * 513)), "513 bytes of UTF-8, more than 512"),
    "NaN": Bad(encoded(mooded("e", a=float("nan"))), "feature a is nan", event_id="e"),
    "infinity": Bad(encoded(mooded("e", a=float("-inf"))), "feature a is -inf", event_id="e"),
    "a changed type": Bad(
        encoded(mooded("e", a="high")), "feature a is str 'high', expected float", event_id="e"
    ),
    "a feature that is missing": Bad(encoded(Input("e", {"a": 1.0})), "'mood'", event_id="e"),
    "a model that raises": Bad(
        encoded(mooded("e", mood="speechless")), "ValueError: no words for this", "predict"
    ),
    "ten megabytes": Bad(encoded(mooded("e")._replace(text=LARGE)), "max_record_bytes"),
}
BAD_FEEDBACK = {
    "truncated Avro": Bad(encoded(verdict("{event}", "cat"))[:-3], "truncated"),
    "unknown fingerprint": Bad(SINGLE_OBJECT + b"\x07" * 20, "unknown schema"),
    "wrong magic": Bad(b"cat", "neither Avro"),
    "no value": Bad(None, "no value"),
    "another kind of record": Bad(encoded(mooded("e")), "was it sent to the wrong topic"),
    "ten megabytes": Bad(encoded(verdict("e", "cat")._replace(comment=LARGE)), "max_record_bytes"),
    "a huge event id": Bad(encoded(verdict("e" * 513, "cat")), "513 bytes"),
    "an empty event id": Bad(encoded(verdict("", "cat", "f")), "empty"),
    "an empty feedback id": Bad(encoded(verdict("e", "cat")._replace(feedback_id="")), "empty"),
}
BAD_LABELS = {
    "JSON that is not an object": Bad(b'"cat"', "a str and not an object"),
    "no event id": Bad(b'{"truth": "cat"}', "no field 'id'"),
    "no label": Bad(b'{"id": "e"}', "no field 'truth'", event_id="e"),
    "an unknown label": Bad(b'{"id": "e", "truth": "cow"}', "label is str 'cow'", event_id="e"),
    "wrong magic": Bad(b"\x13\x37", "neither Avro"),
    "ten megabytes": Bad(b'{"id": "e", "by": "%s"}' % LARGE.encode(), "max_record_bytes"),
}


class Running(System):
    """The system of this file; each test uses events of its own."""

    def new_events(self, count: int, partition: int) -> list[str]:
        ids = (f"e-{uuid4().hex}" for _ in iter(int, 1))
        fitting = (each for each in ids if partition_of(each.encode(), 2) == partition)
        return [next(fitting) for _ in range(count)]

    def predicted(self, count: int = 1, partition: int = 0, mood: str = "fine") -> list[str]:
        ids = self.new_events(count, partition)
        self.send("inputs", (mooded(each, mood) for each in ids))
        self.await_ids("predictions", ids)
        return ids

    def letter_at(self, topic: str, place: tuple[int, int]) -> DeadLetter | None:
        letters = self.records("dead-letters", DeadLetter)
        found = [
            each for each in letters if (each.topic, each.partition, each.offset) == (topic, *place)
        ]
        assert len(found) < 2
        return found[0] if found else None

    def await_letter(self, topic: str, place: tuple[int, int]) -> DeadLetter:
        return await_that(lambda: self.letter_at(topic, place), what=f"letter for {topic} {place}")

    def outcome_of(self, feedback_id: str) -> Outcome | None:
        found = self.outcomes_of(feedback_id)
        return found[-1] if found else None

    def outcomes_of(self, feedback_id: str) -> list[Outcome]:
        outcomes = self.records("outcomes", Outcome)
        return [each for each in outcomes if each.feedback_id == feedback_id]

    def await_outcome(self, feedback_id: str) -> Outcome:
        return await_that(lambda: self.outcome_of(feedback_id), what=f"outcome of {feedback_id}")


@pytest.fixture(scope="module")
def running(broker: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    name = f"bad-input-{uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("bad-input")
    with Running(broker.bootstrap, folder, MOODY, name) as system:
        admin = AdminClient(system.kafka)
        labels = NewTopic(f"{name}-labels", 3, 1, config={"max.message.bytes": LARGEST})
        admin.create_topics([labels])[labels.topic].result(30)
        system.prepare()
        for topic in (system.topic("inputs"), system.topic("feedback")):
            resource = ConfigResource(
                ResourceType.TOPIC,
                topic,
                incremental_configs=[
                    ConfigEntry(
                        "max.message.bytes",
                        LARGEST,
                        incremental_operation=AlterConfigOpType.SET,
                    )
                ],
            )
            admin.incremental_alter_configs([resource])[resource].result(30)
        system.start_all()
        yield system


def assert_same(letter: DeadLetter, bad: Bad, key: bytes, role: str) -> None:
    assert letter.value == bad.value
    assert letter.key == key
    assert letter.headers == [Header(*header) for header in HEADERS]
    assert (letter.role, letter.stage) == (role, bad.stage)
    assert bad.told in letter.reason
    if bad.event_id is not None:
        assert letter.event_id == bad.event_id


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_a_bad_input_is_a_dead_letter_between_two_predictions(running: Running, bad: Bad) -> None:
    before, after = running.new_events(2, partition=1)
    inputs = running.topic("inputs")
    running.send("inputs", [mooded(before)])
    place = running.write(inputs, bad.value, b"as sent", HEADERS, partition=1)
    running.send("inputs", [mooded(after)])
    assert_same(running.await_letter(inputs, place), bad, b"as sent", "predictor")
    running.await_ids("predictions", [before, after])


def test_json_that_fits_the_declared_features_is_an_input_too(running: Running) -> None:
    (event_id,) = running.new_events(1, partition=0)
    told = {"event_id": event_id, "features": {"a": 2, "mood": "fine", "ignored": [1]}}
    running.write(running.topic("inputs"), json.dumps(told).encode(), event_id.encode())
    running.await_ids("predictions", [event_id])
    (found,) = (p for p in running.records("predictions", Prediction) if p.event_id == event_id)
    assert found.features == {"a": 2.0, "mood": "fine"}


@pytest.mark.parametrize("bad", BAD_FEEDBACK.values(), ids=BAD_FEEDBACK)
def test_a_bad_feedback_is_a_dead_letter_between_two_lessons(running: Running, bad: Bad) -> None:
    before, after = running.predicted(2, partition=1)
    feedback = running.topic("feedback")
    running.send("feedback", [verdict(before, "cat")])
    place = running.write(feedback, bad.value, b"as sent", HEADERS, partition=1)
    running.send("feedback", [verdict(after, "dog")])
    assert_same(running.await_letter(feedback, place), bad, b"as sent", "joiner")
    assert running.await_outcome(f"f-{before}").status == LEARNED
    assert running.await_outcome(f"f-{after}").status == LEARNED


@pytest.mark.parametrize(
    ("mood", "wrong", "told"),
    [
        ("fine", verdict("", "cow"), "label 'cow' is not a class of this loop; they are 'cat'"),
        ("fine", verdict("", 1), "label 1 is not a class"),
        ("fine", Feedback("", "", "correct"), "correct needs the true label"),
        ("fine", verdict("", "dog", kind=REJECT), "reject with the label 'dog'"),
        ("fine", Feedback("", "", "praise"), "verdict 'praise' is none of accept"),
        ("shy", Feedback("", "", ACCEPT), "accept of an answer that the model did not give"),
    ],
)
def test_a_verdict_that_teaches_nonsense_is_a_dead_letter(
    running: Running, mood: str, wrong: Feedback, told: str
) -> None:
    (event_id,) = running.predicted(mood=mood)
    feedback = wrong._replace(event_id=event_id, feedback_id=f"wrong-{event_id}")
    value = encoded(feedback)
    headers: list[tuple[str, bytes | None]] = [("feedback_id", feedback.feedback_id.encode())]
    place = running.write(running.topic("feedback"), value, event_id.encode(), headers)
    letter = running.await_letter(running.topic("feedback"), place)
    assert (letter.value, letter.key) == (value, event_id.encode())
    assert letter.headers == [Header(*headers[0])]
    assert (letter.role, letter.stage) == ("joiner", "join")
    assert (letter.event_id, letter.feedback_id) == (event_id, feedback.feedback_id)
    assert told in letter.reason
    running.send("feedback", [verdict(event_id, "bird")])
    assert running.await_outcome(f"f-{event_id}").status == LEARNED
    assert running.outcome_of(feedback.feedback_id) is None


def test_rejecting_one_of_three_answers_is_noted(running: Running) -> None:
    (event_id,) = running.predicted()
    running.send("feedback", [Feedback(f"f-{event_id}", event_id, REJECT)])
    assert running.await_outcome(f"f-{event_id}").status == NOTED


def test_a_lesson_that_makes_the_model_raise_is_a_dead_letter_and_the_next_is_learned(
    running: Running,
) -> None:
    (hopeless,) = running.predicted(mood="unteachable")
    (event_id,) = running.predicted()
    running.send("feedback", [verdict(hopeless, "cat"), verdict(event_id, "cat")])
    assert running.await_outcome(f"f-{event_id}").status == LEARNED
    examples = [seen for seen in running.seen("examples") if seen.message.key() is not None]
    (example,) = (seen for seen in examples if getattr(seen.record, "event_id", "") == hopeless)
    letter = running.await_letter(running.topic("examples"), example.place)
    assert letter.value == example.message.value()
    assert (letter.role, letter.stage) == ("learner", "learn")
    assert (letter.event_id, letter.feedback_id) == (hopeless, f"f-{hopeless}")
    assert "ValueError: no wish to learn this" in letter.reason
    assert running.outcome_of(f"f-{hopeless}") is None


def test_the_same_feedback_id_is_learned_once_and_told_to_be_a_duplicate(running: Running) -> None:
    (event_id,) = running.predicted()
    running.send("feedback", [verdict(event_id, "cat")] * 3)

    def all_told() -> bool:
        return len(running.outcomes_of(f"f-{event_id}")) == 3

    await_that(all_told, what="three outcomes")
    statuses = sorted(each.status for each in running.outcomes_of(f"f-{event_id}"))
    assert statuses == [DUPLICATE, DUPLICATE, LEARNED]


@pytest.mark.parametrize("bad", BAD_LABELS.values(), ids=BAD_LABELS)
def test_a_bad_label_is_a_dead_letter_between_two_lessons(running: Running, bad: Bad) -> None:
    before, after = running.predicted(2)
    labels = f"{running.name}-labels"
    first = json.dumps({"id": before, "truth": "cat", "by": "ann"}).encode()
    last = json.dumps({"id": after, "truth": "dog"}).encode()
    running.write(labels, first, partition=2)
    place = running.write(labels, bad.value, b"as sent", HEADERS, partition=2)
    running.write(labels, last, partition=2)
    assert_same(running.await_letter(labels, place), bad, b"as sent", "intake")
    partition, offset = place
    assert running.await_outcome(f"{labels}-{partition}-{offset - 1}").status == LEARNED
    assert running.await_outcome(f"{labels}-{partition}-{offset + 1}").event_id == after


def test_a_role_that_met_all_this_still_runs_and_has_committed(running: Running) -> None:
    for role, suffix in (("predictor", "inputs"), ("joiner", "feedback")):
        ends = {p: o + 1 for p, o in sorted(seen.place for seen in running.seen(suffix))}
        await_that(lambda: running.committed(role, suffix) == ends, what=f"{role} at {ends}")  # noqa: B023
    assert all(process.poll() is None for process in running.processes.values())


# Too early, too late -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hasty(broker: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A joiner of a loop that waits for three seconds, or one; the tests write its predictions."""
    name = f"hasty-{uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("hasty")
    more = "partitions=2, window=timedelta(seconds=3), early=timedelta(seconds=1),"
    with Running(broker.bootstrap, folder, name=name, more=more) as system:
        system.prepare()
        system.await_running(system.start("joiner"))
        yield system


def answered(event_id: str) -> Prediction:
    features = event(event_id).features
    return Prediction(
        event_id, True, {"True": 1.0}, 1.0, features, None, None, "", 0, "auto", "none", 0.0
    )


def test_feedback_for_an_event_that_never_was_is_orphaned(hasty: Running) -> None:
    hasty.send("feedback", [verdict("never-was", True)])
    assert hasty.await_outcome("f-never-was").status == ORPHANED


def test_feedback_that_came_before_its_prediction_is_joined(hasty: Running) -> None:
    hasty.send("feedback", [verdict("early", True)])
    hasty.send("predictions", [answered("early")])
    hasty.await_ids("examples", ["early"])


def test_feedback_that_is_older_than_the_window_is_expired(hasty: Running) -> None:
    """The broker's clock is what counts, so feedback on other events is sent until it has gone far enough."""
    hasty.send("predictions", [answered("slow")])
    (predicted,) = (s for s in hasty.seen("predictions") if s.record.event_id == "slow")
    late: int = predicted.message.timestamp()[1] + timedelta(seconds=3) // timedelta(milliseconds=1)

    def later() -> bool:
        hasty.send("feedback", [verdict("never-was", True, uuid4().hex)])
        times: list[int] = [seen.message.timestamp()[1] for seen in hasty.seen("feedback")]
        return max(times) > late

    await_that(later)
    hasty.send("feedback", [verdict("slow", True)])
    assert hasty.await_outcome("f-slow").status == EXPIRED
