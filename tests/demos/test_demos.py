from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from streams import demos
from streams.loop import load

COUNTS = {"phishing": 1250, "digits": 1797, "trump": 1001}


@pytest.fixture(params=demos.NAMES)
def demo(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"streams.demos.{request.param}")


def test_a_demo_is_a_loop_of_its_name(demo: ModuleType) -> None:
    assert load(demo.loop.name).name == demo.__name__.rpartition(".")[2]


def test_a_demo_streams_the_whole_data_set_and_says_so(demo: ModuleType) -> None:
    events = list(demo.stream())
    assert len(events) == COUNTS[demo.loop.name]
    assert f"{len(events):,}" in (demo.__doc__ or "")


def test_event_ids_are_unique_and_the_same_in_every_run(demo: ModuleType) -> None:
    ids = [event_id for event_id, _, _ in demo.stream()]
    assert len(set(ids)) == len(ids)
    assert ids == [event_id for event_id, _, _ in demo.stream()]


def test_all_events_have_the_same_features_as_plain_values(demo: ModuleType) -> None:
    first, *rest = (features for _, features, _ in demo.stream())
    assert all(features.keys() == first.keys() for features in rest)
    assert {type(value) for features in [first, *rest] for value in features.values()} <= {
        int,
        float,
    }


def test_truths_are_labels_of_the_task(demo: ModuleType) -> None:
    truths = {truth for _, _, truth in demo.stream()}
    if demo.loop.task == "regression":
        assert all(type(truth) is float for truth in truths)
    else:
        assert truths == set(demo.loop.classes)
        assert {type(truth) for truth in truths} == {type(each) for each in demo.loop.classes}


def test_a_model_learns_something_from_it(demo: ModuleType) -> None:
    model = demo.loop.model.clone()
    right = []
    for _, features, truth in demo.stream():
        answer = model.predict_one(features)
        right.append(abs(answer - truth) < 1 if demo.loop.task == "regression" else answer == truth)
        model.learn_one(features, truth)
    assert sum(right[-500:]) > 0.85 * 500
