"""What is looked at when a run has come to rest, beside the audit: sampled predictions are made again by a fold of its own."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from typing import Any, NamedTuple

from streams.core.events import Example, Prediction
from streams.engine.log import control_kind
from streams.engine.reader import to_end
from tests.e2e.system import System

SAMPLE = 500


class Rebuilt(NamedTuple):
    """What came of it.

    Attributes:
        compared: So many predictions were made again.
        different: Those that came out otherwise, or whose version is not in the log.
    """

    compared: int
    different: list[str]


def sampled(predictions: Iterable[Prediction], size: int, seed: int) -> list[Prediction]:
    """A fair sample, in the order in which the log is folded."""
    draw, held = random.Random(seed), list[Prediction]()
    for count, prediction in enumerate(predictions):
        if count < size:
            held.append(prediction)
        elif (at := draw.randrange(count + 1)) < size:
            held[at] = prediction
    return sorted(held, key=lambda each: each.model_version)


def rebuilt(system: System, model: Any, seed: int) -> Rebuilt:
    """Makes sampled predictions again: folds the log once, in order, and stops at each version that one of them names.

    Args:
        system: The loop.
        model: Its model before it has learned anything.
        seed: Of the sample.
    """
    codec = system.codec
    predictions = (
        codec.decode_as(Prediction, message.value() or b"")
        for message in to_end(system.kafka, system.topic("predictions"))
    )
    asked: dict[str, list[Prediction]] = {}
    for prediction in sampled(predictions, SAMPLE, seed):
        asked.setdefault(prediction.model_key, []).append(prediction)
    models = {key: copy.deepcopy(model) for key in asked}
    versions = dict.fromkeys(asked, 0)
    taught: set[str] = set()
    different: list[str] = []

    def answer(key: str, below: int) -> None:
        waiting = asked[key]
        while waiting and waiting[0].model_version < below:
            prediction = waiting.pop(0)
            likely = models[key].predict_proba_one(dict(prediction.features))
            scores = {str(label): p for label, p in likely.items()}
            if (prediction.model_version, scores) != (versions[key], dict(prediction.scores)):
                different.append(f"{prediction.event_id} at {key} {prediction.model_version}")

    count = sum(map(len, asked.values()))
    for message in to_end(system.kafka, system.topic("examples")):
        if control_kind(message.headers()) is not None:
            continue
        example = codec.decode_as(Example, message.value() or b"")
        key, version = example.model_key, (message.offset() or 0) + 1
        if key not in asked:
            continue
        answer(key, version)
        versions[key] = version
        identities = {source.feedback_id for source in example.sources}
        if not identities <= taught:
            models[key].learn_one(dict(example.features), example.label)
        taught |= identities
    for key in asked:
        answer(key, 1 << 62)
    return Rebuilt(count, different)
