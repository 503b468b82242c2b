"""Explanations are true: they add up to what the model said, and nothing changes by being explained."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import (
    base,
    compose,
    datasets,
    ensemble,
    feature_extraction,
    forest,
    linear_model,
    multiclass,
    naive_bayes,
    optim,
    preprocessing,
    tree,
)

from streams.core import explain
from streams.core.events import Features, Label
from streams.core.explain import LEFT_OUT, LIKELIHOOD, LINEAR, MOST, PATH, Explanation, explainer
from streams.core.fold import Fold
from streams.core.model import Answer, answerer
from streams.core.usual import Usual
from tests.core.logs import BINARY, binary_fold, example, lockstep, logistic, phishing
from tests.core.test_model import MODELS

NEAR = 1e-9
NAMES = tuple(f"f{n:02}" for n in range(12))
CLASSES = ("a", "b", "c")
NUMBER = st.floats(-3, 3).map(lambda number: round(number, 3))
EVENT = st.fixed_dictionaries(dict.fromkeys(NAMES, NUMBER))
COUNTS = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 4), min_size=1)


def shout(features: Features) -> dict[str, Any]:
    """A user's own step: one feature of two."""
    return {"loud": float(features["f00"]) + float(features["f01"])}  # type: ignore[arg-type]


LINEAR_PARTS: dict[str, Callable[[], Any]] = {
    "bare": lambda: None,
    "scaled": preprocessing.StandardScaler,
    "polynomial": lambda: preprocessing.MinMaxScaler() | feature_extraction.PolynomialExtender(),
    "united": lambda: (
        compose.Select("f00", "f01", "f02") | preprocessing.StandardScaler()
    )
    + (compose.Discard("f00", "f01", "f02") | preprocessing.Binarizer())
    + compose.FuncTransformer(shout),
    "hashed": lambda: preprocessing.FeatureHasher(n_features=5, seed=1),
    "encoded": lambda: (compose.Select("f00") | preprocessing.OneHotEncoder())
    + compose.Select("f03", "f04"),
    "nested": lambda: compose.Pipeline(preprocessing.StandardScaler(), compose.Suffixer("_s")),
}  # fmt: skip


def taught(model: Any, lessons: Sequence[tuple[Any, Any]]) -> Any:
    for features, label in lessons:
        model.learn_one(dict(features), label)
    return model


def pipeline(part: str, last: Any) -> Any:
    first = LINEAR_PARTS[part]()
    return last if first is None else first | last


def why(
    task: str,
    model: Any,
    event: Features,
    classes: Sequence[Label] = (),
    usual: Usual | None = None,
    against: Label | None = None,
) -> Explanation:
    answer = answerer(task, model, classes)(event)
    found = explainer(task, model, classes, usual)(event, answer, against)
    assert found is not None
    assert len(found.contributions) <= MOST
    return found


# Linear models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", LINEAR_PARTS)
@given(lessons=st.lists(st.tuples(EVENT, st.booleans()), min_size=2, max_size=12), event=EVENT)
@settings(max_examples=15, deadline=None)
def test_the_contributions_and_the_bias_are_the_logit(
    part: str, lessons: list[tuple[Any, bool]], event: dict[str, float]
) -> None:
    model = taught(pipeline(part, linear_model.LogisticRegression(l2=0.01)), lessons)
    found = why("binary", model, event, BINARY)
    last = model if part == "bare" else model._last_step
    seen = event if part == "bare" else model.transform_one(dict(event))
    logit = sum(last.weights.get(name, 0.0) * x for name, x in seen.items()) + last.intercept
    assert found.basis[:4] == (LINEAR, explain.LOGIT, True, False)
    assert found.basis.bias == last.intercept
    assert found.total() == pytest.approx(logit, abs=NEAR)
    likely = model.predict_proba_one(event)[True]
    assert 1 / (1 + math.exp(-found.total())) == pytest.approx(likely, abs=NEAR)


BINARY_MODELS = {
    "perceptron": linear_model.Perceptron(),
    "passive aggressive": linear_model.PAClassifier(),
    "large margin": linear_model.ALMAClassifier(),
    "hinge": linear_model.LogisticRegression(loss=optim.losses.Hinge(), optimizer=optim.Adam()),
}


@pytest.mark.parametrize("name", BINARY_MODELS)
def test_other_linear_classifiers_add_up_to_their_logit(name: str) -> None:
    model = preprocessing.StandardScaler() | copy.deepcopy(BINARY_MODELS[name])
    for event, label in phishing()[:200]:
        likely = model.predict_proba_one(event)[True]
        found = why("binary", model, event, BINARY)
        assert 1 / (1 + math.exp(-found.total())) == pytest.approx(likely, abs=NEAR)
        model.learn_one(event, label)
    assert found.basis.method == LINEAR


REGRESSIONS = {
    "linear": linear_model.LinearRegression(),
    "passive aggressive": linear_model.PARegressor(),
    "bayesian": linear_model.BayesianLinearRegression(),
    "standardised": preprocessing.TargetStandardScaler(linear_model.LinearRegression()),
    "in a range": preprocessing.TargetMinMaxScaler(
        preprocessing.StandardScaler() | linear_model.LinearRegression()  # type: ignore[arg-type]  # it is one
    ),
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_linear_regression_adds_up_to_its_number(name: str) -> None:
    model = preprocessing.StandardScaler() | copy.deepcopy(REGRESSIONS[name])
    for event, label in list(datasets.TrumpApproval())[:150]:
        found = why("regression", model, event)
        assert found.total() == pytest.approx(model.predict_one(event), rel=NEAR, abs=NEAR)
        model.learn_one(event, label)
    assert found.basis[:4] == (LINEAR, explain.VALUE, None, None)


def test_of_counts_the_logarithm_adds_up() -> None:
    model = linear_model.LinearRegression(loss=optim.losses.Poisson())
    taught(model, [({"a": n / 10, "b": 1 - n / 10}, n) for n in range(10)])
    found = why("regression", model, {"a": 0.4, "b": 0.2})
    assert found.basis.unit == explain.LOG_VALUE
    assert math.exp(found.total()) == pytest.approx(model.predict_one({"a": 0.4, "b": 0.2}))


@given(lessons=st.lists(st.tuples(EVENT, st.sampled_from(CLASSES)), min_size=6), event=EVENT)
@settings(max_examples=25, deadline=None)
def test_of_many_classes_the_answer_is_explained_against_the_runner_up(
    lessons: list[tuple[Any, str]], event: dict[str, float]
) -> None:
    model = preprocessing.StandardScaler() | linear_model.SoftmaxRegression()
    taught(model, [*lessons, (event, "a"), (event, "b")])
    likely = model.predict_proba_one(event)
    found = why("multiclass", model, event, CLASSES)
    first, second, *_ = sorted(likely, key=lambda label: -likely[label])
    assert likely[found.basis.towards] == likely[first]
    assert likely[found.basis.against] == likely[second]
    odds = math.log(likely[found.basis.towards]) - math.log(likely[found.basis.against])
    assert found.total() == pytest.approx(odds, abs=NEAR)


@pytest.mark.parametrize(
    "one",
    [
        linear_model.LogisticRegression(),
        preprocessing.StandardScaler() | linear_model.PAClassifier(),
        naive_bayes.GaussianNB(),
    ],
)
def test_one_against_the_rest_is_the_difference_of_two_logits(one: Any) -> None:
    model = preprocessing.StandardScaler() | multiclass.OneVsRestClassifier(one)
    lessons = list(datasets.ImageSegments())[:300]
    classes = sorted({label for _, label in lessons})
    taught(model, lessons)
    for event, _ in lessons[:40]:
        found = why("multiclass", model, event, classes)
        seen = model.transform_one(event)
        of = {
            label: each.predict_proba_one(seen)[True]
            for label, each in model._last_step.classifiers.items()
        }
        this, that = of[found.basis.towards], of[found.basis.against]
        if min(this, that) > 1e-6 and max(this, that) < 1 - 1e-6:  # else a logit is lost in p
            logits = [math.log(p / (1 - p)) for p in (this, that)]
            assert found.total() == pytest.approx(logits[0] - logits[1], abs=1e-6)
        assert found.basis.unit == explain.MARGIN


def test_an_answer_can_be_explained_against_another_label() -> None:
    lessons = list(datasets.ImageSegments())[:300]
    classes = sorted({label for _, label in lessons})
    model = taught(preprocessing.StandardScaler() | linear_model.SoftmaxRegression(), lessons)
    event = lessons[-1][0]
    likely = model.predict_proba_one(event)
    for label in set(classes) - {model.predict_one(event)}:
        found = why("multiclass", model, event, classes, against=label)
        assert found.basis.against == label
        odds = math.log(likely[found.basis.towards]) - math.log(likely[label])
        assert found.total() == pytest.approx(odds, abs=NEAR)


# Naive Bayes ---------------------------------------------------------------------------------------------------------


@given(lessons=st.lists(st.tuples(EVENT, st.booleans()), max_size=12), event=EVENT)
@settings(max_examples=40, deadline=None)
def test_a_gaussian_adds_up_to_the_log_odds(
    lessons: list[tuple[Any, bool]], event: dict[str, float]
) -> None:
    spread = [(dict.fromkeys(NAMES, n / 3), n % 2 == 0) for n in range(6)]
    model = taught(naive_bayes.GaussianNB(), [*spread, *lessons])
    found = why("binary", model, event, BINARY)
    these, those = (model.joint_log_likelihood({})[label] for label in (True, False))
    assert found.basis.bias == pytest.approx(these - those, abs=NEAR)
    for each in found.contributions:
        alone = model.joint_log_likelihood({each.feature: each.value})
        ratio = alone[True] - alone[False] - found.basis.bias
        assert each.weight == pytest.approx(ratio, abs=NEAR)
    whole = model.joint_log_likelihood(event)
    assert found.total() == pytest.approx(whole[True] - whole[False], abs=NEAR)
    assert found.basis.method == LIKELIHOOD


@pytest.mark.parametrize(
    "make", [naive_bayes.MultinomialNB, naive_bayes.BernoulliNB, naive_bayes.ComplementNB]
)
@given(lessons=st.lists(st.tuples(COUNTS, st.sampled_from(CLASSES)), min_size=3), event=COUNTS)
@settings(max_examples=30, deadline=None)
def test_counted_words_add_up_to_the_log_odds_of_the_probabilities(
    make: Any, lessons: list[tuple[Any, str]], event: dict[str, int]
) -> None:
    model = taught(make(), [*lessons, ({"f00": 1}, "a"), ({"f01": 1}, "b")])
    found = why("multiclass", model, event, CLASSES)
    likely = model.predict_proba_one(event)
    odds = math.log(likely[found.basis.towards]) - math.log(likely[found.basis.against])
    assert found.total() == pytest.approx(odds, abs=NEAR)
    assert found.basis[:2] == (LIKELIHOOD, explain.LOG_ODDS)


def test_a_word_that_is_missing_speaks_too() -> None:
    model = naive_bayes.BernoulliNB()
    taught(model, [({"cheap": 1}, True), ({"cheap": 1}, True), ({"hello": 1}, False)])
    found = why("binary", model, {"hello": 1}, BINARY)
    by_name = {each.feature: each for each in found.contributions}
    assert by_name["cheap"].value is None
    assert by_name["cheap"].weight < 0


# Trees ---------------------------------------------------------------------------------------------------------------

SPLITS: dict[str, Any] = {"grace_period": 20, "delta": 0.5, "tau": 0.5}


@cache
def grown(kind: str) -> Any:
    """A tree that has split."""
    trees = {
        "classifier": tree.HoeffdingTreeClassifier(**SPLITS),
        "eager": tree.ExtremelyFastDecisionTreeClassifier(**SPLITS),
        "adaptive": tree.HoeffdingAdaptiveTreeClassifier(**SPLITS, seed=1),
        "regressor": tree.HoeffdingTreeRegressor(**SPLITS),
    }
    model = preprocessing.StandardScaler() | trees[kind]
    return taught(model, phishing() if kind != "regressor" else list(datasets.TrumpApproval()))


@pytest.mark.parametrize("kind", ["classifier", "eager", "adaptive"])
def test_the_path_leads_to_the_leaf_that_predicts(kind: str) -> None:
    model, steps = grown(kind), 0
    for event, _ in phishing()[::20]:
        found = why("binary", model, event, BINARY)
        seen = model.transform_one(event)
        node = model._last_step._root
        for each in found.contributions:
            asked, relation, threshold = str(each.part).split()
            assert asked == each.feature
            assert each.value == seen[asked]
            assert (seen[asked] <= float(threshold)) == (relation == "≤")
            while node.feature != asked or node.threshold != float(threshold):
                node = node.children[node.branch_no(seen)]  # a test that changed nothing
            node, steps = node.children[relation == ">"], steps + 1
        reached = model._last_step._root.traverse(seen)
        while hasattr(node, "children"):
            node = node.children[node.branch_no(seen)]
        assert node is (reached[0] if isinstance(reached, list) else reached)
        assert found.basis[:2] == (PATH, explain.PROBABILITY)
        assert found.total() == pytest.approx(model.predict_proba_one(event)[True], abs=NEAR)
    assert steps > 20


def test_a_tree_that_asks_two_leaves_is_asked_without_each_feature() -> None:
    """An adaptive tree grows another branch beside one that it doubts, and asks both."""
    fold, asked = binary_fold(tree.HoeffdingAdaptiveTreeClassifier(**SPLITS, seed=1)), 0
    for number, (event, label) in enumerate(phishing() * 2):
        said = not label if number > 700 else label
        fold.apply(number + 1, example(number, event, said))
        root = fold.model._root
        if hasattr(root, "children") and len(root.traverse(event)) > 1:
            found = fold.explain(event, fold.answer(event))
            assert found is not None
            assert found.basis.method == LEFT_OUT
            asked += 1
            if asked > 5:
                break
    assert asked


def test_a_tree_of_numbers_starts_from_the_mean_of_its_root() -> None:
    model = grown("regressor")
    event, _ = list(datasets.TrumpApproval())[500]
    found = why("regression", model, event)
    assert found.basis.bias == model._last_step._root.stats.mean.get()
    assert found.total() == pytest.approx(model.predict_one(event), abs=NEAR)
    assert found.contributions


def test_a_missing_feature_takes_the_commonest_way_and_has_no_value() -> None:
    model = taught(tree.HoeffdingTreeClassifier(**SPLITS), phishing())
    event = phishing()[0][0]
    less = {name: x for name, x in event.items() if name != model._root.feature}
    found = why("binary", model, less, BINARY)
    assert found.contributions[0].value is None
    assert found.total() == pytest.approx(model.predict_proba_one(less)[True], abs=NEAR)


def test_a_tree_that_has_not_split_is_asked_without_each_feature() -> None:
    fold = binary_fold(tree.HoeffdingTreeClassifier())
    lockstep(fold, phishing()[:60])
    event = phishing()[100][0]
    found = fold.explain(event, fold.answer(event))
    assert found is not None
    assert found.basis.method == LEFT_OUT
    assert found.contributions


# Anything else -------------------------------------------------------------------------------------------------------

OTHERS = {
    "forest": forest.ARFClassifier(n_models=3, seed=1),
    "bagging": ensemble.BaggingClassifier(logistic(), n_models=3, seed=1),
    "neighbours": copy.deepcopy(MODELS["neighbours"]),
    "voting": copy.deepcopy(MODELS["voting"]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_feature_is_left_out_by_its_running_mean(name: str) -> None:
    fold, lessons = binary_fold(OTHERS[name]), phishing()[:150]
    lockstep(fold, lessons)
    event = phishing()[200][0]
    answer = fold.answer(event)
    found = fold.explain(event, answer)
    assert found is not None

    def says(features: Features) -> float:
        said = fold.answer(features)
        return said.scores["True"] if said.scores else float(said.label is True)

    means: dict[str, float] = {}
    for name_of in event:
        values = [features[name_of] for features, _ in lessons]
        mean = math.fsum(values) / len(values)
        means[name_of] = round(mean) if isinstance(event[name_of], int) else mean
    weights = {each.feature: each.weight for each in found.contributions}
    for feature, mean in means.items():
        expected = says(event) - says({**event, feature: mean})
        assert weights.get(feature, 0.0) == pytest.approx(expected, abs=NEAR)
    assert found.basis.bias == pytest.approx(says(means), abs=NEAR)
    assert found.total() == pytest.approx(says(event), abs=NEAR)
    assert found.basis.method == LEFT_OUT


def test_a_regression_forest_is_told_in_its_own_unit() -> None:
    fold = Fold(forest.ARFRegressor(n_models=2, seed=1), "regression")
    lessons = list(datasets.TrumpApproval())[:100]
    lockstep(fold, lessons)
    event = lessons[-1][0]
    found = fold.explain(event, fold.answer(event))
    assert found is not None
    assert found.basis[:2] == (LEFT_OUT, explain.VALUE)
    assert found.total() == pytest.approx(fold.answer(event).label, abs=NEAR)


class Careful(linear_model.LogisticRegression):
    """A user's model that inherits from River's, and says something else."""

    def predict_proba_one(self, x: Any, **kwargs: Any) -> Any:
        return {False: 0.75, True: 0.25}


def test_who_inherits_from_a_linear_model_is_not_taken_for_one() -> None:
    assert explain.is_exact(linear_model.LogisticRegression())
    assert not explain.is_exact(Careful())
    fold = binary_fold(Careful())
    lockstep(fold, phishing()[:10])
    event = phishing()[20][0]
    found = fold.explain(event, fold.answer(event))
    assert found is not None
    assert (found.contributions, found.total()) == ([], 0.25)


# Always --------------------------------------------------------------------------------------------------------------

ALL = {
    **MODELS,
    **BINARY_MODELS,
    "bernoulli": naive_bayes.BernoulliNB(),
    "adaptive": tree.HoeffdingAdaptiveTreeClassifier(**SPLITS, seed=1),
    "eager": tree.ExtremelyFastDecisionTreeClassifier(**SPLITS),
    "trees of a kind": forest.AMFClassifier(n_estimators=3, seed=1),
    "boosted": ensemble.AdaBoostClassifier(naive_bayes.GaussianNB(), n_models=3, seed=1),
    "grouped": preprocessing.StandardScaler() * "is_popular" | linear_model.LogisticRegression(),
}


@pytest.mark.parametrize("name", ALL)
def test_explaining_changes_nothing_that_the_model_says_or_learns(name: str) -> None:
    """Two folds of one log, of which one explains each of its answers."""
    quiet, asked = binary_fold(ALL[name]), binary_fold(ALL[name])
    log = lockstep(quiet, phishing()[:150])
    for offset, lesson in enumerate(log):
        asked.explain(lesson.features, asked.answer(lesson.features))
        before = asked.digest()
        asked.explain(lesson.features, asked.answer(lesson.features))
        assert asked.digest() == before
        asked.apply(offset + 1, lesson)
    if name != "neighbours":  # its index draws, explained or not
        assert asked.digest() == quiet.digest()


@pytest.mark.parametrize("name", [name for name in ALL if name != "neighbours"])
def test_a_version_is_explained_alike_by_whoever_has_it(name: str) -> None:
    live, again = binary_fold(ALL[name]), binary_fold(ALL[name], scored=False)
    log = lockstep(live, phishing()[:120])
    for offset, lesson in enumerate(log[:60]):
        again.apply(offset + 1, lesson)
    stored = again.dump()
    again = binary_fold(ALL[name], scored=False)
    again.load(stored)
    for offset, lesson in enumerate(log[60:], 60):
        again.apply(offset + 1, lesson)
    for event, _ in phishing()[200:210]:
        told = [fold.explain(event, fold.answer(event)) for fold in (live, again)]
        assert told[0] == told[1]


def test_a_state_of_an_earlier_release_has_no_means_and_begins_to_keep_them() -> None:
    fold = binary_fold(OTHERS["forest"])
    lockstep(fold, phishing()[:20])
    state = pickle.loads(fold.dump())
    del state["usual"]
    fold.load(pickle.dumps(state))
    event = phishing()[30][0]
    found = fold.explain(event, fold.answer(event))
    assert found is not None
    assert found.contributions == []


def test_there_is_nothing_to_explain_without_an_answer_or_with_one_label_known() -> None:
    model = naive_bayes.GaussianNB()
    explains = explainer("binary", model, BINARY)
    assert explains({"a": 1.0}, Answer(None, {}, None)) is None
    model.learn_one({"a": 1.0}, True)
    assert explains({"a": 1.0}, answerer("binary", model, BINARY)({"a": 1.0})) is None
    softmax = taught(linear_model.SoftmaxRegression(), [({"a": 1.0}, "b")])
    answer = answerer("multiclass", softmax, CLASSES)({"a": 1.0})
    assert explainer("multiclass", softmax, CLASSES)({"a": 1.0}, answer) is None


def test_an_unlearned_linear_model_has_an_explanation_with_nothing_in_it() -> None:
    found = why("binary", logistic(), {"a": 1.0}, BINARY)
    assert (found.contributions, found.total()) == ([], 0.0)


def test_only_the_strongest_are_told_and_the_others_in_one_number() -> None:
    lessons = [({f"{n:02}": float(n * k % 7) for n in range(30)}, k % 3 == 0) for k in range(60)]
    model = taught(logistic(), lessons)
    found = why("binary", model, lessons[-1][0], BINARY)
    weights = [abs(each.weight) for each in found.contributions]
    assert len(weights) == MOST
    assert weights == sorted(weights, reverse=True)
    assert found.basis.others != 0


def test_an_explanation_that_does_not_add_up_is_none() -> None:
    """Whatever a release of River, or a user's loss, makes of a sum that is known here."""
    explains = explainer("binary", logistic(), BINARY)
    with pytest.raises(ArithmeticError, match=r"come to 0\.5, and the answer is 0\.9"):
        explains({"a": 1.0}, Answer(True, {"False": 0.1, "True": 0.9}, 0.9))
    explains = explainer("regression", linear_model.LinearRegression())
    with pytest.raises(ArithmeticError, match=r"come to 0\.0, and the answer is 1"):
        explains({"a": 1.0}, Answer(3.0, {}, None))


def test_what_comes_to_no_number_is_no_explanation() -> None:
    class Endless(base.Regressor):
        def learn_one(self, x: Any, y: Any) -> None: ...

        def predict_one(self, x: Any) -> float:
            return math.inf

    with pytest.raises(ArithmeticError, match="add up to inf"):
        why("regression", Endless(), {"a": 1.0}, usual=Usual())


# How it is told ------------------------------------------------------------------------------------------------------

PAYMENTS = [
    ({"amount": float(n % 5), "country": "SE" if n % 3 else "NO", "note": "cheap cheap watch"}, n % 2 == 0)
    for n in range(30)
]  # fmt: skip


def test_what_was_made_of_a_feature_is_told_under_its_name() -> None:
    words = compose.Select("note") | feature_extraction.BagOfWords(on="note")
    country = compose.Select("country") | preprocessing.OneHotEncoder()
    model = words + country + (compose.Select("amount") | preprocessing.StandardScaler())
    model = taught(model | linear_model.LogisticRegression(), PAYMENTS)
    event: Features = {"amount": 4.0, "country": "NO", "note": "cheap watch"}
    found = why("binary", model, event, BINARY)
    told = {(each.feature, each.part): each.value for each in found.contributions}
    assert told == {
        ("note", "cheap"): 1,
        ("note", "watch"): 1,
        ("country", None): "NO",  # of the two that it was made into, the other is 0
        ("amount", None): 4.0,
    }


def test_a_long_text_is_cut_and_an_odd_value_is_told_as_text() -> None:
    class Wordy(base.Classifier):
        def learn_one(self, x: Any, y: Any) -> None: ...

        def predict_proba_one(self, x: Any, **kwargs: Any) -> Any:
            return {True: 0.9, False: 0.1} if len(x["note"]) > 5 else {True: 0.2, False: 0.8}

    usual = Usual()
    usual.learn({"note": "short"})
    found = why("binary", Wordy(), {"note": "long \ud800" * 100}, BINARY, usual)
    (told,) = found.contributions
    assert told.value == ("long ?" * 100)[: explain.MOST_TEXT] + "…"
    assert told.weight == pytest.approx(0.7)
    assert explain._plain(2**70) == float(2**70)
    assert explain._plain((1, 2)) == "(1, 2)"
