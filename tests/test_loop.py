"""The loop that a user writes: what is checked, what is told, and how it is found by its name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from river import anomaly, compose, forest, linear_model, multiclass, naive_bayes, preprocessing

import streams
from streams import Loop, Source, review
from streams.core.errors import ConfigError, Mistake, NotFound
from streams.core.model import definition_of
from streams.loop import load


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def loop(**changes: Any) -> Loop:
    return Loop(**{"name": "payments", "task": "binary", "model": logistic(), **changes})


def many(**changes: Any) -> Loop:
    model = preprocessing.StandardScaler() | linear_model.SoftmaxRegression()
    return loop(**{"task": "multiclass", "model": model, "classes": ["a", "b", "c"], **changes})


def numbers(**changes: Any) -> Loop:
    model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    return loop(**{"task": "regression", "model": model, **changes})


def mistakes(make: Callable[..., Loop] = loop, **changes: Any) -> list[Mistake]:
    with pytest.raises(ConfigError) as caught:
        make(**changes)
    return list(caught.value.mistakes)


def test_a_loop_of_the_readme_is_right() -> None:
    made = Loop(
        name="payments",
        task="binary",
        model=logistic(),
        inputs=Source(
            "payments.captured",
            event_id="payment_id",
            features={"amount": float, "country": str, "hour": int},
        ),
        labels=[
            Source("chargebacks", event_id="payment_id", label=lambda r: r["status"] == "lost")
        ],
        review=review.Uncertain(share=0.05) | review.Audit(share=0.01),
        window=timedelta(days=30),
        early=timedelta(days=1),
        unanswered=False,
    )
    assert (made.window_ms, made.early_ms) == (2_592_000_000, 86_400_000)
    assert made.inputs.feature_types == {"amount": float, "country": str, "hour": int}
    assert [source.topic for source in made.labels] == ["chargebacks"]


def test_what_nobody_said_is_filled_in() -> None:
    made = loop()
    assert made.inputs == Source()
    assert made.inputs.feature_types is None
    assert made.classes == (False, True)
    assert made.review == review.Everything()
    assert (made.partitions, made.corrections, made.delivery) == (4, "learn-again", "at-least-once")
    assert made.unanswered is None
    assert many().classes == ("a", "b", "c")
    assert numbers().classes == ()


def test_a_loop_is_not_changed_by_the_lists_and_dicts_it_was_made_of() -> None:
    classes, weights = ["a", "b"], {"correct": 1.0}
    made = many(classes=classes, weights=weights)
    classes.append("c")
    weights["correct"] = 7.0
    assert made.classes == ("a", "b")
    assert made.weights == {"correct": 1.0}
    with pytest.raises(AttributeError):
        made.partitions = 8  # type: ignore[misc]  # the mistake under test


def test_the_types_of_features_may_be_named() -> None:
    source = Source("t", features={"a": "float", "b": "int", "c": "str", "d": "bool", "e": int})
    expected = {"a": float, "b": int, "c": str, "d": bool, "e": int}
    assert loop(inputs=source).inputs.feature_types == expected


def test_making_a_loop_leaves_its_model_as_it_was_also_when_weights_are_probed() -> None:
    model = logistic()
    before = definition_of(model, "binary")
    loop(model=model, inputs=Source("t", features={"x": float}), weights={"accept": 0.5})
    assert definition_of(model, "binary") == before
    assert model.predict_proba_one({"x": 1.0}) == {False: 0.5, True: 0.5}


def test_all_mistakes_are_told_together_each_with_name_value_and_what_was_expected() -> None:
    found = mistakes(
        name="Pay ments",
        task="draft",
        inputs=Source("a b", features={"amount": list}),
        labels=[Source()],
        review=review.Audit(2) | review.Uncertain(0),
        window=3,
        early=timedelta(days=-1),
        unanswered="maybe",
        model_key=3,
        weights={"abstain": 1, "accept": 0},
        corrections="undo",
        partitions=0,
        delivery="exactly-once",
    )
    assert [mistake.name for mistake in found] == [
        "name",
        "task",
        "inputs.topic",
        "inputs.features['amount']",
        "labels[0].topic",
        "labels[0].label",
        "review.Audit(share)",
        "review.Uncertain(share)",
        "window",
        "early",
        "unanswered",
        "model_key",
        "weights",
        "weights['accept']",
        "corrections",
        "partitions",
        "delivery",
    ]
    told = str(ConfigError(found)).splitlines()
    assert told[0].startswith("name = 'Pay ments': 1 to 64 lower-case letters")
    assert len(told) == len(found)
    later = [mistake.name for mistake in found if "comes with a later version" in mistake.expected]
    assert later == ["task"]


@pytest.mark.parametrize("name", ["", "A", "a.b", "a b", "-a", "ä", "a" * 65, "a\n", None, 7])
def test_a_name_has_to_do_as_part_of_topics_and_paths(name: object) -> None:
    assert [mistake.name for mistake in mistakes(name=name)] == ["name"]


@pytest.mark.parametrize("view", [None, "amount", [""], [7]])
def test_a_view_is_names_of_features(view: object) -> None:
    assert [mistake.name for mistake in mistakes(view=view)] == ["view"]


@pytest.mark.parametrize("explain", [None, 1, "no"])
def test_predictions_are_explained_or_not(explain: object) -> None:
    assert loop().explain
    assert not loop(explain=False).explain
    assert mistakes(explain=explain) == [Mistake("explain", explain, "True or False")]


@pytest.mark.parametrize("task", ["drafts", None, ["binary"]])
def test_an_unknown_task_is_told_once(task: object) -> None:
    assert [mistake.name for mistake in mistakes(task=task)] == ["task"]


@pytest.mark.parametrize(
    ("make", "model", "expected"),
    [
        (loop, linear_model.LogisticRegression, "write LogisticRegression()"),
        (loop, linear_model.LinearRegression(), "a classifier, since the task is binary"),
        (loop, preprocessing.StandardScaler(), "a River classifier or regressor"),
        (loop, anomaly.HalfSpaceTrees(), "a River classifier or regressor"),
        (loop, "logistic", "a River classifier or regressor"),
        (loop, None, "a River classifier or regressor"),
        (numbers, logistic(), "a regressor, since the task is regression"),
        (many, logistic(), "multiclass.OneVsRestClassifier(...) makes one of it"),
    ],
)
def test_the_model_fits_the_task(make: Callable[..., Loop], model: object, expected: str) -> None:
    (found,) = mistakes(make, model=model)
    assert found.name == "model"
    assert expected in found.expected
    assert len(str(found)) < 200


@pytest.mark.parametrize(
    ("make", "model"),
    [
        (many, multiclass.OneVsRestClassifier(linear_model.LogisticRegression())),
        (
            many,
            preprocessing.StandardScaler()
            | multiclass.OutputCodeClassifier(logistic(), code_size=4),
        ),
        (many, naive_bayes.GaussianNB()),
        (loop, forest.ARFClassifier(seed=1)),
        (numbers, preprocessing.TargetStandardScaler(linear_model.LinearRegression())),
    ],
)
def test_wrapped_and_piped_models_are_known_for_what_they_are(
    make: Callable[..., Loop], model: object
) -> None:
    assert make(model=model).model is model


@pytest.mark.parametrize(
    ("make", "classes"),
    [
        (loop, ("fraud", "fine")),
        (loop, (0, 1)),
        (loop, (True, False)),
        (numbers, (1.0,)),
        (many, ()),
        (many, ("a",)),
        (many, ("a", "a")),
        (many, ("a", 1)),
        (many, (1.0, 2.0)),
        (many, (True, False)),
        (many, ("a", "")),
        (many, (1, 2**63)),
        (many, "abc"),
        (many, 3),
        (many, ([],)),
    ],
)
def test_classes_fit_the_task(make: Callable[..., Loop], classes: object) -> None:
    assert [mistake.name for mistake in mistakes(make, classes=classes)] == ["classes"]


@pytest.mark.parametrize(
    ("make", "label"),
    [
        (loop, 0),
        (loop, "false"),
        (many, "d"),
        (many, True),
        (numbers, True),
        (numbers, "0"),
        (numbers, float("nan")),
    ],
)
def test_unanswered_is_one_of_the_labels_there_are(
    make: Callable[..., Loop], label: object
) -> None:
    assert [mistake.name for mistake in mistakes(make, unanswered=label)] == ["unanswered"]


def test_unanswered_may_be_any_label_and_false_is_one() -> None:
    assert loop(unanswered=False).unanswered is False
    assert many(unanswered="a").unanswered == "a"
    assert numbers(unanswered=0).unanswered == 0


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (Source(""), "topic"),
        (Source(".."), "topic"),
        (Source("a" * 250), "topic"),
        (Source(7), "topic"),  # type: ignore[arg-type]  # the mistakes under test
        (Source("t", event_id=""), "event_id"),
        (Source("t", event_id=None), "event_id"),  # type: ignore[arg-type]
        (Source("t", text=3), "text"),  # type: ignore[arg-type]
        (Source("t", occurred_at=""), "occurred_at"),
        (Source("t", schema="x.avsc"), "schema"),  # type: ignore[arg-type]
        (Source("t", features=["a"]), "features"),  # type: ignore[arg-type]
        (Source("t", features={"": float}), "features"),
        (Source("t", features={"a": "double"}), "features['a']"),
        (Source("t", features={"a": []}), "features['a']"),  # type: ignore[dict-item]
    ],
)
def test_a_source_says_what_can_be_read(source: Source, name: str) -> None:
    assert [mistake.name for mistake in mistakes(inputs=source)] == [f"inputs.{name}"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"inputs": "topic"}, "inputs"),
        ({"labels": "topic"}, "labels"),
        ({"labels": Source("t", label="x")}, "labels"),
        ({"labels": ["topic"]}, "labels[0]"),
        ({"labels": [Source("t")]}, "labels[0].label"),
        ({"labels": [Source(label="x")]}, "labels[0].topic"),
        ({"labels": [Source("t", label="x"), Source("t", label="y")]}, "labels[1].topic"),
        ({"inputs": Source("t"), "labels": [Source("t", label="y")]}, "labels[0].topic"),
        ({"inputs": Source("payments.predictions")}, "inputs.topic"),
        ({"labels": [Source("payments.inputs", label="y")]}, "labels[0].topic"),
    ],
)
def test_sources_are_sources_of_topics_of_their_own(changes: dict[str, Any], name: str) -> None:
    assert [mistake.name for mistake in mistakes(**changes)] == [name]


@pytest.mark.parametrize("policy", [None, review.Everything, "everything", 0.05])
def test_who_is_asked_is_said_by_a_policy(policy: object) -> None:
    assert [mistake.name for mistake in mistakes(review=policy)] == ["review"]


@pytest.mark.parametrize(
    "window", [timedelta(0), timedelta(days=-1), timedelta(microseconds=9), 30]
)
def test_a_window_is_a_time(window: object) -> None:
    assert [mistake.name for mistake in mistakes(window=window)] == ["window"]


def test_other_corrections_and_deliveries_are_told() -> None:
    found = mistakes(corrections="learn", delivery="exactly-once")
    assert [(mistake.name, mistake.expected) for mistake in found] == [
        ("corrections", "one of learn-again, keep-first, repair"),
        ("delivery", "one of at-least-once, transactional"),
    ]


@pytest.mark.parametrize(
    ("reviewers", "name"),
    [
        (3, "reviewers"),
        (review.Consensus, "reviewers"),
        (review.Consensus(of=3, agree=4), "reviewers.agree"),
        (review.Consensus(of=1, agree=1), "reviewers.of"),
    ],
)
def test_what_is_no_consensus_of_reviewers_is_told(reviewers: object, name: str) -> None:
    assert [mistake.name for mistake in mistakes(reviewers=reviewers)] == [name]
    assert loop(reviewers=review.Consensus(of=3, agree=2)).reviewers is not None


def test_numbers_are_no_matter_of_consensus() -> None:
    found = mistakes(numbers, reviewers=review.Consensus(of=3, agree=2))
    assert [mistake.name for mistake in found] == ["reviewers"]


@pytest.mark.parametrize("partitions", [0, -1, True, 4.0, "4", 10_001])
def test_there_is_a_partition_at_least(partitions: object) -> None:
    assert [mistake.name for mistake in mistakes(partitions=partitions)] == ["partitions"]


def test_a_model_key_is_a_feature_or_a_function_of_them() -> None:
    inputs = Source("t", features={"country": str})
    assert loop(inputs=inputs, model_key="country").model_key == "country"
    assert loop(model_key="anything").model_key == "anything"
    assert loop(model_key=lambda features: str(features["country"])).model_key is not None
    (found,) = mistakes(inputs=inputs, model_key="land")
    assert found == Mistake("model_key", "land", "one of the features: country")
    assert [mistake.name for mistake in mistakes(model_key=str)] == ["model_key"]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "2", True, None])
def test_a_weight_is_a_number_above_zero(weight: object) -> None:
    (found,) = mistakes(weights={"accept": weight})
    assert found.name == "weights['accept']"


def test_only_what_teaches_has_a_weight() -> None:
    found = mistakes(weights={"abstain": 1, "retract": 2, "praise": 1})
    assert [mistake.value for mistake in found] == ["abstain", "retract", "praise"]
    assert [mistake.name for mistake in mistakes(weights=[2])] == ["weights"]


@pytest.mark.parametrize(
    ("make", "model"),
    [
        (loop, forest.ARFClassifier(seed=1)),
        (loop, naive_bayes.GaussianNB()),
        (many, linear_model.SoftmaxRegression()),
    ],
    ids=lambda made: type(made).__name__,
)
def test_a_weight_is_refused_for_a_model_that_is_deaf_to_it(
    make: Callable[..., Loop], model: object
) -> None:
    inputs = Source("t", features={"x": float, "y": float})
    (found,) = mistakes(make, model=model, inputs=inputs, weights={"unanswered": 0.5})
    assert found.name == "weights"
    assert type(model).__name__ in found.expected
    assert make(model=model, inputs=inputs, weights={"unanswered": 1}).weights == {"unanswered": 1}


def test_a_probe_that_the_model_s_own_steps_do_not_like_tells_nothing() -> None:
    """The start-up check probes again, with what was really predicted on."""

    def strict(x: dict[str, Any]) -> dict[str, float]:
        return {"length": float(x["url"].index("://"))}

    model = compose.FuncTransformer(strict) | linear_model.LogisticRegression()
    inputs = Source("t", features={"url": str})
    assert loop(model=model, inputs=inputs, weights={"accept": 2}).weights == {"accept": 2}


def test_without_features_to_probe_with_the_start_up_check_is_waited_for() -> None:
    assert loop(model=forest.ARFClassifier(seed=1), weights={"accept": 2}).weights == {"accept": 2}


def test_a_model_that_does_not_fit_is_not_probed() -> None:
    found = mistakes(many, model=logistic(), weights={"accept": 2})
    assert [mistake.name for mistake in found] == ["model"]


def test_sources_with_mistakes_are_not_probed_with() -> None:
    found = mistakes(inputs=Source("t", features={"x": list}), weights={"accept": 2})
    assert [mistake.name for mistake in found] == ["inputs.features['x']"]


APP = """
from river import linear_model
from streams import Loop
loop = Loop(name="mine", task="binary", model=linear_model.LogisticRegression())
other = 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory of the user's, which leaves no modules behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_a_loop_is_found_in_the_current_directory(folder: Path) -> None:
    (folder / "some_app.py").write_text(APP)
    assert load("some_app:loop").name == "mine"


@pytest.mark.parametrize("name", ["phishing", "digits", "trump"])
def test_a_demo_is_found_by_its_name(name: str) -> None:
    assert load(name).name == name


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("fishing", "there are phishing, digits, trump"),
        ("some_app", "written module:attribute"),
        (":loop", "write module:attribute"),
        ("some_app:", "write module:attribute"),
        ("no_app:loop", "there is no module 'no_app'"),
        ("some_app.deeper:loop", "there is no module 'some_app.deeper'"),
        ("some_app:lop", "some_app has no 'lop'; there is loop"),
        ("empty_app:loop", "it has no loop"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(folder: Path, reference: str, told: str) -> None:
    (folder / "some_app.py").write_text(APP)
    (folder / "empty_app.py").write_text("")
    with pytest.raises(NotFound) as caught:
        load(reference)
    assert told in str(caught.value)


def test_a_module_missing_inside_the_user_s_is_told_as_that(folder: Path) -> None:
    (folder / "needy_app.py").write_text("\nimport not_installed.at_all\n")
    with pytest.raises(NotFound) as caught:
        load("needy_app:loop")
    assert "needy_app cannot be imported: No module named 'not_installed'" in str(caught.value)
    assert "needy_app.py, line 2" in str(caught.value)


def test_mistakes_in_the_user_s_loop_and_errors_in_his_module_are_his(folder: Path) -> None:
    (folder / "wrong_app.py").write_text(APP.replace("binary", "binari"))
    (folder / "broken_app.py").write_text("1 / 0")
    (folder / "some_app.py").write_text(APP)
    with pytest.raises(ConfigError, match="binari"):
        load("wrong_app:loop")
    with pytest.raises(ZeroDivisionError):
        load("broken_app:loop")
    with pytest.raises(ConfigError, match=r"some_app:other = 7: a streams\.Loop"):
        load("some_app:other")


def test_importing_streams_loads_neither_river_nor_faust_nor_a_kafka_client() -> None:
    heavy = "river", "faust", "confluent_kafka", "fastavro", "rocksdict", "numpy"
    code = f"import streams, streams.config, sys; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_streams_offers_five_names_and_no_others() -> None:
    assert streams.__all__ == ["AsyncClient", "Client", "Loop", "Source", "review"]
    assert set(streams.__all__) <= set(dir(streams))
    assert streams.Loop is Loop
    with pytest.raises(AttributeError, match="no attribute 'Lop'"):
        _ = streams.Lop
