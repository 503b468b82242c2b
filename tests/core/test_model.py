"""A River model as Counterpoint uses it."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
from typing import Any

import pytest
from river import (
    compose,
    datasets,
    ensemble,
    forest,
    linear_model,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    tree,
)

from streams.core import model as asked
from streams.core.model import Answer, answerer, describe, learner
from tests.core.logs import BINARY, logistic, phishing

MODELS = {
    "logistic": logistic(),
    "bayes": naive_bayes.GaussianNB(),
    "tree": tree.HoeffdingTreeClassifier(),
    "forest": forest.ARFClassifier(n_models=3, seed=1),
    "neighbours": preprocessing.StandardScaler() | neighbors.KNNClassifier(),
    "voting": ensemble.VotingClassifier(
        [linear_model.LogisticRegression(), tree.HoeffdingTreeClassifier()]
    ),
    "drawing": linear_model.LogisticRegression(initializer=optim.initializers.Normal(seed=1)),
}


def squared(features: dict[str, Any]) -> dict[str, Any]:
    """A user's own step."""
    return {name: value * value for name, value in features.items()}


def plus(amount: float, features: dict[str, Any]) -> dict[str, Any]:
    """Another one."""
    return {name: value + amount for name, value in features.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_label_is_what_river_predicts(name: str) -> None:
    taught = copy.deepcopy(MODELS[name])
    answer = answerer("binary", taught, BINARY)
    for features, label in phishing()[:200]:
        said = answer(features)
        assert said.label == taught.predict_one(features)
        taught.learn_one(features, label)


@pytest.mark.parametrize("name", MODELS)
def test_answering_changes_nothing(name: str) -> None:
    lessons = phishing()[:200]
    seeded, _ = asked.seeded(MODELS[name], "loop")
    quiet = asked.replayed(seeded, "binary", lessons)
    assert asked.replayed(seeded, "binary", lessons, predicting=True) == quiet


def test_scores_are_told_by_the_text_of_the_class() -> None:
    said = answerer("binary", logistic(), BINARY)({"a": 1.0})
    assert said == Answer(False, {"False": 0.5, "True": 0.5}, 0.5)


def test_a_model_that_has_learned_nothing_abstains() -> None:
    assert answerer("binary", naive_bayes.GaussianNB(), BINARY)({"a": 1.0}) == asked.NOTHING


def test_a_model_without_probabilities_gives_its_bare_label() -> None:
    assert answerer("binary", copy.deepcopy(MODELS["voting"]), BINARY)({"a": 1.0}).scores == {}


def test_a_wrapper_whose_model_has_no_probabilities_gives_its_bare_label() -> None:
    class Wrapper(tree.HoeffdingTreeClassifier):
        def predict_proba_one(self, x: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

        def predict_one(self, x: Any, **kwargs: Any) -> Any:
            return x["answer"]

    answer = answerer("multiclass", Wrapper(), ("a", "b"))
    assert answer({"answer": "b"}) == Answer("b", {}, None)
    assert answer({"answer": None}) == asked.NOTHING


def test_a_model_that_chooses_otherwise_than_by_the_largest_probability_is_asked_for_its_choice() -> (
    None
):
    class Careful(linear_model.Perceptron):
        def predict_proba_one(self, x: Any, **kwargs: Any) -> Any:
            return {False: 0.6, True: 0.4}

        def predict_one(self, x: Any, **kwargs: Any) -> bool:
            return True

    expected = Answer(True, {"False": 0.6, "True": 0.4}, 0.4)
    assert answerer("binary", Careful(), BINARY)({}) == expected


def test_a_regression_answers_a_float_and_no_scores() -> None:
    answer = answerer(
        "regression", preprocessing.StandardScaler() | linear_model.LinearRegression()
    )
    features, _ = next(iter(datasets.TrumpApproval()))
    assert answer(features) == Answer(0.0, {}, None)


def test_a_regression_without_a_number_abstains() -> None:
    class Silent(linear_model.LinearRegression):
        def predict_one(self, x: Any) -> Any:
            return None

    assert answerer("regression", Silent())({}) == asked.NOTHING


def test_the_weight_is_told_only_when_it_is_not_one() -> None:
    refuses = naive_bayes.GaussianNB()
    learn = learner(refuses)
    learn({"a": 1.0}, True, 1.0)
    with pytest.raises(TypeError):
        learn({"a": 1.0}, True, 2.0)


@pytest.mark.parametrize(
    ("name", "deaf"), [("logistic", False), ("tree", False), ("forest", True), ("bayes", True)]
)
def test_a_model_is_deaf_to_weights_if_it_ignores_or_refuses_them(name: str, deaf: bool) -> None:
    before = describe(MODELS[name])
    assert asked.is_deaf_to_weights(MODELS[name], "binary", phishing()[:300]) is deaf
    assert describe(MODELS[name]) == before


def test_equal_models_are_described_alike_and_other_parameters_otherwise() -> None:
    assert describe(logistic()) == describe(logistic())
    other = preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=0.1)
    assert describe(other) != describe(logistic())


def test_learning_does_not_change_the_description_of_a_plain_model() -> None:
    taught = logistic()
    for features, label in phishing()[:20]:
        taught.learn_one(features, label)
    assert describe(taught) == describe(logistic())


def test_functions_are_described_by_what_they_do() -> None:
    assert describe(lambda x: {"a": 1}) == describe(lambda x: {"a": 1})
    assert describe(lambda x: {"a": 1}) != describe(lambda x: {"a": 2})
    assert "squared#" in describe(compose.FuncTransformer(squared))
    assert "amount" not in describe(compose.FuncTransformer(functools.partial(plus, 2.0)))
    assert describe(functools.partial(plus, 2.0)) != describe(functools.partial(plus, 3.0))


def enclosing(amount: float) -> Any:
    """Make a function that holds a value."""
    return lambda features: {"a": amount}


def test_what_a_function_encloses_is_a_part_of_it() -> None:
    assert describe(enclosing(1.0)) == describe(enclosing(1.0)) != describe(enclosing(2.0))


def test_descriptions_hold_no_addresses() -> None:
    union = compose.Select("a") | preprocessing.StandardScaler()
    told = describe(
        union + compose.FuncTransformer(squared)
        | linear_model.LogisticRegression(optimizer=optim.Adam(), loss=optim.losses.Hinge())
    )
    assert " at 0x" not in told
    assert "Hinge" in told
    assert "Adam" in told
    assert "StandardScaler" in told


def test_values_of_all_kinds_can_be_described() -> None:
    class Odd:
        def __init__(self) -> None:
            self.me = self
            self.parts = {"b": {2, 1}, "a": (len, str, [1.5], b"x", None)}

        def method(self) -> None: ...

    assert describe(Odd()) == describe(Odd())
    assert describe(Odd().method) == describe(Odd().method)
    assert describe(range(3)) != describe(range(4))
    assert describe([]) == "[]"


def test_the_description_is_the_same_in_every_process() -> None:
    program = (
        "from tests.core.test_model import MODELS\nfrom streams.core.model import describe\n"
        "print(''.join(describe(MODELS[name]) for name in sorted(MODELS)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)},
    ).stdout
    assert told.strip() == "".join(describe(MODELS[name]) for name in sorted(MODELS))


def test_a_definition_changes_with_everything_that_changes_the_model() -> None:
    features = {"amount": float, "country": "string"}
    mine = asked.definition_of(logistic(), "binary", classes=BINARY, features=features)
    assert mine == asked.definition_of(logistic(), "binary", classes=BINARY, features=features)
    others = [
        asked.definition_of(logistic(), "binary", classes=BINARY, features={"amount": int}),
        asked.definition_of(logistic(), "binary", classes=BINARY, features=features, seeds=["1"]),
        asked.definition_of(MODELS["tree"], "binary", classes=BINARY, features=features),
        asked.definition_of(logistic(), "multiclass", classes=("a",), features=features),
    ]
    assert len({mine.hash, *(other.hash for other in others)}) == 5
    assert "river: 0." in mine.description
    assert "country: string" in mine.description


def test_every_unset_seed_is_set_from_the_name_of_the_loop() -> None:
    unset = preprocessing.FeatureHasher() | ensemble.BaggingClassifier(
        linear_model.LogisticRegression(initializer=optim.initializers.Normal()), n_models=3
    )
    once, told = asked.seeded(unset, "payments")
    again, _ = asked.seeded(unset, "payments")
    other, _ = asked.seeded(unset, "cards")
    assert [line.split(" = ")[0] for line in told] == [
        "model.FeatureHasher.seed",
        "model.BaggingClassifier.model.initializer.seed",
        "model.BaggingClassifier.seed",
    ]
    assert describe(once) == describe(again) != describe(other)
    assert "seed=None" in describe(unset)
    assert "seed=None" not in describe(once)


def test_seeds_in_lists_and_unions_are_found_and_set_seeds_are_left() -> None:
    unset = ensemble.VotingClassifier([forest.AMFClassifier(), forest.AMFClassifier(seed=3)])
    once, told = asked.seeded(unset, "loop")
    assert [line.split(" = ")[0] for line in told] == ["model.models[0].seed"]
    assert "seed=3" in describe(once)


def test_a_model_without_unset_seeds_is_left_as_it_is() -> None:
    model = logistic()
    assert asked.seeded(model, "loop") == (model, [])


def test_a_model_with_a_lambda_cannot_be_stored() -> None:
    told = asked.unpicklable(compose.FuncTransformer(lambda x: x) | linear_model.Perceptron())
    assert told is not None
    assert "functions of a module" in told
    assert asked.unpicklable(logistic()) is None


@pytest.mark.parametrize("name", [name for name in MODELS if name != "neighbours"])
def test_a_model_replays_from_a_pickle_halfway(name: str) -> None:
    lessons = phishing()[:200]
    whole = asked.replayed(MODELS[name], "binary", lessons)
    assert asked.replayed(MODELS[name], "binary", lessons, pickled_after=100) == whole


def test_a_model_that_draws_without_a_seed_does_not_replay() -> None:
    unset, lessons = forest.ARFClassifier(n_models=3), phishing()[:200]
    assert asked.replayed(unset.clone(), "binary", lessons) != asked.replayed(
        unset.clone(), "binary", lessons
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_generator_without_a_seed_is_found_wherever_it_hides(name: str) -> None:
    """The neighbours' index makes one that no parameter reaches, and whose draws seldom change an answer."""
    assert asked.draws_unseeded(MODELS[name]) == (name == "neighbours")


def test_specimens_have_the_right_types_and_are_always_the_same() -> None:
    kinds = {"a": float, "b": int, "c": str, "d": bool, "e": "double"}
    lessons = asked.specimens("multiclass", kinds, ("x", "y"))
    assert lessons == asked.specimens("multiclass", kinds, ("x", "y"))
    assert {tuple(type(v) for v in features.values()) for features, _ in lessons} == {
        (float, int, str, bool, float)
    }
    assert {label for _, label in lessons} == {"x", "y"}
    assert isinstance(asked.specimens("regression", kinds)[0][1], float)


def test_the_digest_tells_the_last_bit() -> None:
    def says(number: float) -> asked.Answerer:
        return lambda features: Answer(number, {}, None)

    assert asked.digest(says(0.3), [{}]) != asked.digest(says(0.1 + 0.2), [{}])
    assert asked.digest(says(0.3), [{}]) == asked.digest(says(0.3), [{}])


def test_answers_survive_a_pickle() -> None:
    answer = answerer("binary", logistic(), BINARY)({"a": 1.0})
    assert pickle.loads(pickle.dumps(answer)) == answer
