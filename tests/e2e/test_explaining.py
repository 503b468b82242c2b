"""Why a prediction is as it is, on the real broker: sent to people with it, and told again by its history."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams import trace, versions
from streams.core.events import Outcome, Prediction, Review
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that, verdict

MANY = """
from river import linear_model, preprocessing
from streams import Loop

loop = Loop(
    name={name!r},
    task="multiclass",
    classes=("legit", "phishing", "spam"),
    model=preprocessing.StandardScaler() | linear_model.SoftmaxRegression(),
    partitions=2,
    {more}
)
"""
TOUCHY = """
from river import base
from streams import Loop


class Touchy(base.Classifier):
    '''Answers what it is asked, and not what nobody would ask: the mean of whole numbers.'''

    def learn_one(self, x, y):
        pass

    def predict_proba_one(self, x):
        if x["a"] != int(x["a"]):
            raise ValueError("no halves")
        return {{True: 0.75, False: 0.25}}


loop = Loop(name={name!r}, task="binary", model=Touchy(), partitions=2, {more})
"""


@pytest.fixture
def system(
    broker: Kafka, tmp_path: Path, unique: str, request: pytest.FixtureRequest
) -> Iterator[System]:
    """The test's system, of the source and with the words that it wants."""
    source, more = request.param
    with System(broker.bootstrap, tmp_path, source, unique, more) as made:
        made.prepare()
        made.start_all()
        yield made


def taught(system: System, labels: dict[str, Any]) -> dict[str, Prediction]:
    """Has events predicted and taught, and then as many predicted by who has learned; gives those by id."""
    system.send_inputs(labels)
    system.await_ids("predictions", labels)
    system.send("feedback", [verdict(event_id, label) for event_id, label in labels.items()])
    await_that(lambda: len(system.records("outcomes", Outcome)) == len(labels), what="outcomes")
    newest = max(each.model_version or 0 for each in system.records("outcomes", Outcome))

    def served() -> bool:
        beat = system.status("predictor-1")
        return beat is not None and beat.versions.get("", 0) >= newest

    await_that(served, what="the lessons are served")
    later = [f"later-{event_id}" for event_id in labels]
    system.send_inputs(later)
    system.await_ids("predictions", later)
    told = {each.event_id: each for each in system.records("predictions", Prediction)}
    return {event_id: told[event_id] for event_id in later}


def model_of(system: System, version: int) -> Any:
    """The River model of a version, made again."""
    path = system.folder / f"{version}.pkl"
    versions.at(system.loop, system.settings, version, out=path)
    return pickle.loads(path.read_bytes())


def total(basis: Any, contributions: Any) -> float:
    """What the model said, as the explanation has it."""
    return math.fsum([basis.bias, basis.others, *(each.weight for each in contributions)])


ALL_ASKED = "partitions=2, review=review.Everything()"
UNTOLD = "partitions=2, review=review.Everything(), explain=False"


@pytest.mark.parametrize("system", [(PHISHING, ALL_ASKED)], indirect=True)
def test_a_routed_prediction_adds_up_to_the_logit_of_its_version_and_history_says_why_it_failed(
    system: System,
) -> None:
    told = taught(system, {f"e-{n}": n % 2 == 0 for n in range(20)})
    models = {version: model_of(system, version) for version in {t.model_version for t in told.values()}}  # fmt: skip
    for each in told.values():
        assert each.explanation is not None
        assert each.basis is not None
        model = models[each.model_version]
        seen = model.transform_one(each.features)
        last = model["LogisticRegression"]
        logit = sum(last.weights[name] * x for name, x in seen.items()) + last.intercept
        assert total(each.basis, each.explanation) == pytest.approx(logit, abs=1e-9)
        by_name = {part.feature: part.weight for part in each.explanation}
        assert by_name == pytest.approx({n: last.weights[n] * x for n, x in seen.items() if x})
    asked = {each.event_id: each for each in system.records("reviews", Review)}
    assert {event_id: each.explanation for event_id, each in asked.items() if event_id in told} == {
        event_id: each.explanation for event_id, each in told.items()
    }
    wrong = next(iter(told.values()))
    assert asked[wrong.event_id].basis == wrong.basis

    story = trace.history(system.loop, system.settings, wrong.event_id)
    assert story.failure is None
    system.send("feedback", [verdict(wrong.event_id, not wrong.label)])
    await_that(lambda: len(system.records("outcomes", Outcome)) == 21, what="the last outcome")
    story = trace.history(system.loop, system.settings, wrong.event_id)
    failed = story.failure
    assert failed is not None
    assert (failed.predicted, failed.given) == (wrong.label, not wrong.label)
    assert failed.confidence == wrong.confidence
    pushed = [each for each in wrong.explanation or () if (each.weight > 0) == wrong.label]
    assert failed.pushed == tuple(pushed)
    assert failed.alike is not None
    assert failed.alike >= 1
    assert story.explanation["by"] == "prediction"
    assert failed.now is not None
    assert failed.now.answer.scores == story.today["scores"]

    plain = json.loads(system.command("history", system.reference, wrong.event_id, "--json").stdout)
    assert plain["failure"]["words"] == failed.words()
    assert plain["explanation"]["total"] == story.explanation["total"]
    shown = " ".join(system.command("history", system.reference, wrong.event_id).stdout.split())
    assert "linear, by the prediction: logit" in shown
    assert "why it failed said " in shown


@pytest.mark.parametrize("system", [(PHISHING, UNTOLD)], indirect=True)
def test_what_nobody_was_told_is_explained_by_the_version_that_predicted_made_again(
    system: System,
) -> None:
    told = taught(system, {f"e-{n}": n % 2 == 0 for n in range(10)})
    assert {each.explanation for each in told.values()} == {None}
    assert {each.basis for each in told.values()} == {None}
    one = next(iter(told.values()))
    story = trace.history(system.loop, system.settings, one.event_id)
    assert story.explanation["by"] == "version made again"
    likely = 1 / (1 + math.exp(-story.explanation["total"]))
    assert likely == pytest.approx(one.scores["True"], abs=1e-9)
    assert story.explanation["contributions"]


@pytest.mark.parametrize("system", [(MANY, "")], indirect=True)
def test_of_many_labels_a_failure_is_explained_against_the_one_that_was_given(
    system: System,
) -> None:
    labels = ("legit", "phishing", "spam")
    told = taught(system, {f"e-{n}": labels[n % 3] for n in range(12)})
    one = next(iter(told.values()))
    assert one.basis is not None
    (given,) = set(labels) - {one.label, one.basis.against}
    system.send("feedback", [verdict(one.event_id, given)])
    await_that(lambda: len(system.records("outcomes", Outcome)) == 13, what="the last outcome")
    story = trace.history(system.loop, system.settings, one.event_id)
    assert story.failure is not None
    assert story.failure.given == given
    assert (story.explanation["towards"], story.explanation["against"]) == (one.label, given)
    odds = math.log(one.scores[str(one.label)] / one.scores[given])
    assert story.explanation["total"] == pytest.approx(odds, abs=1e-9)


@pytest.mark.parametrize("system", [(TOUCHY, "")], indirect=True)
def test_a_model_that_cannot_be_explained_still_predicts_and_the_worker_says_so(
    system: System,
) -> None:
    for event_id, a in (("e-1", 1.0), ("e-2", 2.0)):
        system.send_inputs([event_id], a=a)
    system.await_ids("predictions", ["e-1", "e-2"])
    system.send("feedback", [verdict("e-1", True), verdict("e-2", False)])
    await_that(lambda: len(system.records("outcomes", Outcome)) == 2, what="outcomes")
    newest = max(each.model_version or 0 for each in system.records("outcomes", Outcome))
    await_that(
        lambda: (beat := system.status("predictor-1")) and beat.versions.get("", 0) >= newest
    )
    system.send_inputs(["e-3", "e-4"], a=4.0)
    system.await_ids("predictions", ["e-3", "e-4"])
    told = {each.event_id: each for each in system.records("predictions", Prediction)}
    assert (told["e-4"].label, told["e-4"].route, told["e-4"].explanation) == (True, "review", None)

    def said() -> Any:
        beat = system.status("predictor-1")
        return beat is not None and beat.numbers["unexplained"] == 2 and beat

    beat = await_that(said, what="the worker says so")
    assert beat.notes == ["sends predictions without an explanation: ValueError: no halves"]
    assert beat.numbers["dead_letters"] == 0
    story = trace.history(system.loop, system.settings, "e-4")
    assert story.explanation == {"why": "the model raises ValueError: no halves"}
