"""What is looked at when a run has come to rest, beside the audit: answers are made again, and verdicts judged again."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import Message
from pyroaring import BitMap64

from streams.core.events import (
    DUPLICATE,
    EXCLUDE,
    EXPIRED,
    LEARNED,
    ORPHANED,
    Example,
    Exclusion,
    Feedback,
    Outcome,
    Prediction,
)
from streams.core.topics import partition_of
from streams.engine.log import control_kind
from streams.engine.reader import to_end
from tests.e2e.system import System
from tests.faults.traffic import EARLY_S, PARTITIONS, WINDOW_S

SAMPLE = 500
WINDOW_MS, EARLY_MS = int(WINDOW_S * 1000), int(EARLY_S * 1000)


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
    naive = {key: Naive(model) for key in asked}
    different: list[str] = []

    def answer(key: str, below: int) -> None:
        waiting = asked[key]
        while waiting and waiting[0].model_version < below:
            prediction = waiting.pop(0)
            likely = naive[key].model().predict_proba_one(dict(prediction.features))
            scores = {str(label): p for label, p in likely.items()}
            if (prediction.model_version, scores) != (naive[key].version, dict(prediction.scores)):
                different.append(f"{prediction.event_id} at {key} {prediction.model_version}")

    count = sum(map(len, asked.values()))
    for message in to_end(system.kafka, system.topic("examples")):
        if control_kind(message.headers()) == "define":
            continue
        record, version = codec.decode(message.value() or b""), (message.offset() or 0) + 1
        assert isinstance(record, Example | Exclusion)
        if record.model_key in asked:
            answer(record.model_key, version)
            naive[record.model_key].take(record, version)
    for key in asked:
        answer(key, 1 << 62)
    return Rebuilt(count, different)


class Naive:
    """A model key's lessons, learned as plainly as can be: from the beginning, whenever some of them go or come back."""

    def __init__(self, unlearned: Any) -> None:
        self._unlearned, self._model = unlearned, copy.deepcopy(unlearned)
        self._lessons: list[Example] = []
        self._met: set[str] = set()
        self._out: set[tuple[str, int, int]] = set()
        self.version = 0

    def take(self, record: Example | Exclusion, version: int) -> None:
        """Takes the next record of the log."""
        self.version = version
        if isinstance(record, Exclusion):
            change = self._out.update if record.kind == EXCLUDE else self._out.difference_update
            change(
                (each.topic, each.partition, offset)
                for each in record.sources
                for offset in BitMap64.deserialize(each.offsets)
            )
            self._model = None
            return
        identities = {source.feedback_id for source in record.sources}
        if identities <= self._met:
            return
        self._met |= identities
        self._lessons.append(record)
        if self._model is not None:
            self._learn(record)

    def _learn(self, example: Example) -> None:
        if any(
            (each.topic, each.partition, each.offset) not in self._out for each in example.sources
        ):
            self._model.learn_one(dict(example.features), example.label)

    def model(self) -> Any:
        """The model as it is now."""
        if self._model is None:
            self._model = copy.deepcopy(self._unlearned)
            for lesson in self._lessons:
                self._learn(lesson)
        return self._model


def misjudged(system: System) -> list[str]:
    """Verdicts with another outcome than the broker's times of the two records alone call for.

    A state that has lost predictions makes orphans of their verdicts, which the audit, knowing no times, must believe.
    """
    codec, judged = system.codec, dict[tuple[int, int], str]()
    predicted: dict[str, list[int]] = {}
    for message in to_end(system.kafka, system.topic("predictions")):
        counted, t = predicted.setdefault((message.key() or b"").decode(), []), _time(message)
        if not counted or t > counted[-1] + 2 * WINDOW_MS:
            counted.append(t)
    for message in to_end(system.kafka, system.topic("outcomes")):
        outcome = codec.decode_as(Outcome, message.value() or b"")
        judged[outcome.partition, outcome.offset] = outcome.status
    wrong, given = [], dict[str, int]()
    for message in to_end(system.kafka, system.topic("feedback")):
        verdict = codec.decode_as(Feedback, message.value() or b"")
        where, t = (message.partition() or 0, message.offset() or 0), _time(message)
        if partition_of(verdict.event_id.encode(), PARTITIONS) != where[0]:
            continue  # misrouted: sent on, and judged there
        before = given.get(verdict.feedback_id, -1)
        if before >= 0 and t <= before + 2 * WINDOW_MS + EARLY_MS:
            expected = DUPLICATE
        else:
            given[verdict.feedback_id] = t
            expected = _judged(t, predicted.get(verdict.event_id, []))
        if judged.get(where) != expected:
            told = f"{verdict.feedback_id} at {where}: {judged.get(where)}, and not {expected}"
            wrong.append(told)
    return wrong


def _judged(t: int, predicted: list[int]) -> str:
    for p in predicted:
        if p - EARLY_MS <= t <= p + 2 * WINDOW_MS:
            return LEARNED if t <= p + WINDOW_MS else EXPIRED
    return ORPHANED


def _time(message: Message) -> int:
    return int(message.timestamp()[1])
