"""The fold: the log alone makes the model, each source once."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import (
    datasets,
    evaluate,
    forest,
    linear_model,
    metrics,
    naive_bayes,
    preprocessing,
    stream,
    tree,
)

from streams.core.errors import Conflict
from streams.core.events import Check, Define, Example
from streams.core.fold import CHECK_EVERY, CHECKS, PROBES, Fold
from streams.core.scores import Scores
from tests.core.logs import binary_fold, example, lockstep, logistic, phishing, source

EXACT = [
    (logistic(), "0.892800"),
    (naive_bayes.GaussianNB(), "0.884708"),
    (tree.HoeffdingTreeClassifier(), "0.879904"),
]


@pytest.mark.parametrize(("model", "accuracy"), EXACT)
def test_in_lockstep_the_accuracy_is_rivers_progressive_accuracy(model: Any, accuracy: str) -> None:
    fold = binary_fold(model)
    lockstep(fold, phishing())
    assert fold.scores is not None
    values = fold.scores.values()
    river = evaluate.progressive_val_score(datasets.Phishing(), model.clone(), metrics.Accuracy())
    assert f"{values['accuracy']:.6f}" == accuracy
    assert values["accuracy"] == river.get()


def test_in_lockstep_the_log_loss_is_rivers() -> None:
    fold = binary_fold(logistic())
    lockstep(fold, phishing())
    river = evaluate.progressive_val_score(datasets.Phishing(), logistic(), metrics.LogLoss())
    assert fold.scores is not None
    assert fold.scores.values()["log_loss"] == pytest.approx(river.get(), abs=1e-12)


def test_a_regression_gives_rivers_error() -> None:
    model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    fold = Fold(model, "regression", scores=Scores("regression"))
    lockstep(fold, datasets.TrumpApproval())
    river = evaluate.progressive_val_score(datasets.TrumpApproval(), model.clone(), metrics.MAE())
    assert fold.scores is not None
    assert fold.scores.values()["mae"] == pytest.approx(river.get(), abs=1e-12)


def test_multiclass_gives_rivers_accuracy() -> None:
    model = preprocessing.StandardScaler() | naive_bayes.GaussianNB()
    lessons = list(datasets.ImageSegments())[:500]
    classes = sorted({label for _, label in lessons})
    fold = Fold(model, "multiclass", classes, scores=Scores("multiclass"))
    lockstep(fold, lessons)
    river = evaluate.progressive_val_score(lessons, model.clone(), metrics.Accuracy())
    assert fold.scores is not None
    assert fold.scores.values()["accuracy"] == river.get()


@pytest.mark.parametrize(
    "delay", [(1, ".892800"), (10, ".885600"), (100, ".859200"), (500, ".766400")]
)
def test_with_late_labels_the_accuracy_is_the_delayed_one(delay: tuple[int, str]) -> None:
    wait, accuracy = delay
    fold, asked, version = binary_fold(logistic()), {}, 0
    for number, features, label in stream.simulate_qa(datasets.Phishing(), None, wait, copy=True):
        if label is None:
            asked[number] = fold.answer(features)
        else:
            version += 1
            fold.apply(version, example(version, features, label, asked.pop(number)))
    assert fold.scores is not None
    assert f"{fold.scores.values()['accuracy']:.6f}" == f"0{accuracy}"


MODELS = [
    *(model for model, _ in EXACT),
    forest.ARFClassifier(n_models=3, seed=1),
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scored", [True, False])
def test_a_fold_that_was_stored_halfway_is_equal_to_the_last_bit(model: Any, scored: bool) -> None:
    whole = binary_fold(model)
    log = lockstep(whole, phishing()[:600])
    first, second = binary_fold(model), binary_fold(model, scored=scored)
    for offset, each in enumerate(log[:300]):
        first.apply(offset + 1, each)
    second.load(first.dump())
    for offset, each in enumerate(log[300:], 300):
        second.apply(offset + 1, each)
    assert second.digest() == whole.digest()
    assert list(second.checks) == list(whole.checks)
    assert (second.version, second.learned, second.seen) == (
        whole.version,
        whole.learned,
        whole.seen,
    )
    if scored:
        assert second.scores is not None
        assert whole.scores is not None
        assert second.scores.values() == whole.scores.values()
    answers = [(whole.answer(x), second.answer(x)) for x, _ in phishing()[600:]]
    assert all(one == other for one, other in answers)


def test_a_replica_does_not_even_unpickle_the_scores() -> None:
    whole = binary_fold(logistic())
    lockstep(whole, phishing()[:200])
    read: list[bytes] = []

    def unpickle(data: bytes) -> Any:
        read.append(data)
        return pickle.loads(data)

    binary_fold(logistic(), scored=False).load(whole.dump(), unpickle)
    assert len(read) == 2


def test_a_fold_that_keeps_scores_loads_a_state_without_any() -> None:
    bare, fold = binary_fold(logistic(), scored=False), binary_fold(logistic())
    lockstep(bare, phishing()[:50])
    fold.load(bare.dump())
    assert fold.digest() == bare.digest()
    assert fold.scores is not None
    assert fold.scores.values() == {}


def test_a_state_of_another_format_is_refused() -> None:
    with pytest.raises(Conflict, match="format 99"):
        binary_fold(logistic()).load(pickle.dumps({"format": 99}))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_duplicates_in_any_order_are_never_learned_twice(data: st.DataObject) -> None:
    lessons = [example(n, x, y) for n, (x, y) in enumerate(phishing()[:30])]
    again = data.draw(st.lists(st.sampled_from(range(30)), max_size=40))
    where = data.draw(st.lists(st.integers(0, 29), min_size=len(again), max_size=len(again)))
    log: list[Example] = []
    for offset, lesson in enumerate(lessons):
        log.append(lesson)
        log += [lessons[n] for n, at in zip(again, where, strict=True) if at == offset and n <= at]
    once, often = binary_fold(logistic()), binary_fold(logistic())
    for offset, each in enumerate(lessons):
        assert once.apply(offset + 1, each).fresh == tuple(each.sources)
    known: set[str] = set()
    for offset, each in enumerate(log):
        fresh = often.apply(offset + 1, each).fresh
        assert bool(fresh) is (each.event_id not in known)
        known.add(each.event_id)
    assert often.learned == once.learned == 30
    assert [often.answer(x) for x, _ in phishing()] == [once.answer(x) for x, _ in phishing()]


def test_an_example_with_one_new_source_is_learned_and_tells_that_source() -> None:
    features, label = phishing()[0]
    fold = binary_fold(logistic())
    fold.apply(1, example(1, features, label, sources=[source(1)]))
    both = example(2, features, label, sources=[source(1), source(1, partition=1)])
    assert fold.apply(2, both).fresh == (source(1, partition=1),)
    assert fold.learned == 2
    assert fold.apply(3, both) == ((), None)
    assert (fold.version, fold.learned) == (3, 2)


def test_a_source_named_twice_in_one_example_is_fresh_once() -> None:
    features, label = phishing()[0]
    twice = example(1, features, label, sources=[source(1), source(1)])
    assert binary_fold(logistic()).apply(1, twice).fresh == (source(1),)


def test_marking_sees_the_sources_and_learns_nothing() -> None:
    features, label = phishing()[0]
    fold = binary_fold(logistic())
    assert fold.mark(5, example(1, features, label)) == (source(1),)
    assert fold.apply(6, example(1, features, label)).fresh == ()
    assert (fold.version, fold.learned) == (6, 0)
    assert fold.answer(features).confidence == 0.5


def test_a_version_that_was_folded_before_changes_nothing() -> None:
    features, label = phishing()[0]
    fold = binary_fold(logistic())
    fold.apply(7, example(1, features, label))
    assert fold.apply(6, example(2, features, label)).fresh == ()
    assert (fold.version, fold.learned) == (7, 1)
    assert source(2).offset not in fold.seen["f", 0]


def test_advancing_passes_records_that_change_nothing() -> None:
    fold = binary_fold(logistic())
    fold.advance(3)
    fold.advance(2)
    assert fold.version == 3


class Moody(linear_model.LogisticRegression):
    """A user's model that cannot stand some examples."""

    def learn_one(self, x: Any, y: Any, w: float = 1.0) -> None:
        """Raise for what it does not like."""
        if x.get("poison"):
            raise MemoryError if x["poison"] == "memory" else ValueError("not that one")
        super().learn_one(x, y, w)

    def predict_one(self, x: Any, **kwargs: Any) -> Any:
        """Raise for it as well."""
        if x.get("poison"):
            raise ValueError("not that one")
        return super().predict_one(x, **kwargs)


def test_an_example_that_makes_the_model_raise_is_told_and_seen_and_the_fold_goes_on() -> None:
    fold = binary_fold(Moody())
    bad = example(1, {"poison": True}, True)
    assert fold.apply(1, bad) == ((source(1),), "ValueError: not that one")
    assert fold.apply(2, bad) == ((), None)
    assert fold.apply(3, example(2, {"a": 1.0}, True)).error is None
    assert (fold.version, fold.learned) == (3, 1)


def test_a_machine_without_memory_is_not_the_example_s_fault() -> None:
    with pytest.raises(MemoryError):
        binary_fold(Moody()).apply(1, example(1, {"poison": "memory"}, True))


def test_a_frozen_model_that_raises_does_not_keep_the_fold_from_learning() -> None:
    fold = binary_fold(Moody())
    for number in range(100):
        fold.apply(number + 1, example(number, {"a": float(number % 7)}, number % 2 == 0))
    fold.apply(101, example(101, {"poison": ""}, True))
    fold.model.learn_one = None
    assert fold.apply(102, example(102, {"poison": True}, True)).error is not None
    assert fold.scores is not None


def test_the_weight_reaches_the_model() -> None:
    (features, label), fold, other = phishing()[0], binary_fold(logistic()), binary_fold(logistic())
    fold.apply(1, example(1, features, label))
    other.apply(1, example(1, features, label, weight=5.0))
    fold.apply(2, example(2, phishing()[1][0], phishing()[1][1]))
    other.apply(2, example(2, phishing()[1][0], phishing()[1][1]))
    assert fold.answer(features) != other.answer(features)


def test_a_record_of_an_unknown_kind_stops_the_fold() -> None:
    define = Define("l", "d", "", "fresh", None, True, False, "0.26.1", "3.11", "me", "")
    with pytest.raises(Conflict, match="Record 4 of the examples is a Define"):
        binary_fold(logistic()).apply(5, define)  # type: ignore[arg-type]  # that is the test


def test_the_fold_leaves_the_model_that_it_was_given_alone() -> None:
    model = logistic()
    lockstep(binary_fold(model), phishing()[:100])
    assert model.predict_proba_one(phishing()[0][0]) == {False: 0.5, True: 0.5}


def test_the_probe_set_is_the_first_distinct_events_that_were_learned() -> None:
    fold = binary_fold(logistic())
    lessons = [phishing()[0], *phishing()[:100]]
    lockstep(fold, lessons)
    distinct: list[Any] = []
    for features, _ in lessons:
        if features not in distinct:
            distinct.append(features)
    assert list(fold.probe) == distinct[:PROBES]


def test_the_last_checks_are_kept() -> None:
    fold = binary_fold(logistic())
    lockstep(fold, phishing() * 4)
    versions = [check.version for check in fold.checks]
    assert len(versions) == CHECKS
    assert versions[-1] == 5000 // CHECK_EVERY * CHECK_EVERY
    assert versions == sorted(versions)


def test_checks_in_common_tell_whether_two_models_differ() -> None:
    fold = binary_fold(logistic())
    lockstep(fold, phishing()[:600])
    one, two = fold.checks
    assert fold.differs([one, two]) is False
    assert fold.differs([one, Check(two.version, "other")]) is True
    assert fold.differs([Check(7, "other")]) is None
    assert fold.differs([]) is None


def test_the_frozen_model_is_the_model_after_its_first_hundred_lessons() -> None:
    fold, frozen = binary_fold(logistic()), binary_fold(logistic(), scored=False)
    log = lockstep(fold, phishing())
    for offset, each in enumerate(log[:100]):
        frozen.apply(offset + 1, each)
    right = [each.predicted == each.label for each in log[:100]]
    right += [frozen.answer(each.features).label == each.label for each in log[100:]]
    assert fold.scores is not None
    assert fold.scores.values()["accuracy.frozen"] == sum(right) / len(right)


def test_the_size_of_a_model_key_is_that_of_its_state() -> None:
    fold, replica = binary_fold(logistic()), binary_fold(logistic(), scored=False)
    assert fold.size == 0
    data = fold.dump()
    replica.load(data)
    assert fold.size == replica.size == len(data)


PROGRAM = """
from river import forest, linear_model, naive_bayes, tree
from tests.core.logs import binary_fold, lockstep, logistic, phishing
for model in (logistic(), naive_bayes.GaussianNB(), tree.HoeffdingAdaptiveTreeClassifier(seed=1),
              forest.ARFClassifier(n_models=3, seed=1)):
    fold = binary_fold(model)
    lockstep(fold, phishing()[:600])
    print(*fold.checks)
"""


def folded_elsewhere(**environment: str) -> list[str]:
    """The checks of four models, folded in another process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "0", **environment},
    )
    return done.stdout.splitlines()


def test_two_processes_make_equal_models_and_one_that_rounds_otherwise_is_noticed() -> None:
    here = folded_elsewhere()
    assert folded_elsewhere() == here
    flags = Path("/proc/cpuinfo").read_text()
    elsewhere = folded_elsewhere(GLIBC_TUNABLES="glibc.cpu.hwcaps=-FMA,-AVX2")
    # Only a CPU that has these instructions can be told to do without them.
    can = " fma " in flags and os.uname().machine == "x86_64"
    assert [one != other for one, other in zip(here, elsewhere, strict=True)] == [can] * 4


def test_a_state_loads_alike_when_the_cycle_collector_is_off() -> None:
    fold, other = binary_fold(logistic()), binary_fold(logistic())
    lockstep(fold, phishing()[:50])
    gc.disable()
    try:
        other.load(fold.dump())
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert other.digest() == fold.digest()
