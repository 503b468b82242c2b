"""The records that benchmarks feed: real events, under ids of their own, encoded once and in advance.

Phishing's 1,250 websites, over and over: nine numbers each, of which two are whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from typing import Any

from river import datasets

from streams.core.events import (
    AUTO,
    CORRECT,
    Example,
    Features,
    Feedback,
    Input,
    Prediction,
    Source,
)
from streams.core.review import NOBODY_ASKED
from streams.engine.codec import Codec
from tests.benchmarks.lab import Row

CODEC = Codec()


@cache
def events() -> tuple[tuple[Features, bool], ...]:
    """Features and label of each website."""
    return tuple((dict(features), bool(label)) for features, label in datasets.Phishing())


def event_id(number: int) -> str:
    """An id as producers make them: of one length, and in no order that a hash would mind."""
    return f"event-{number:09d}"


def inputs(start: int, many: int) -> Iterator[Row]:
    """Raw inputs."""
    encode = CODEC.encoder(Input, "inputs")
    for number, (features, _) in _numbered(start, many):
        name = event_id(number)
        yield name.encode(), encode(Input(name, features))


def predictions(start: int, many: int) -> Iterator[Row]:
    """Predictions that nobody is asked about, as the predictor writes them.

    One in 1,250 is encoded; the others differ from it by their id, which is of the same length.
    """
    encode = CODEC.encoder(Prediction, "predictions")
    marker = event_id(0).encode()
    templates = [
        encode(_prediction(event_id(0), features)).split(marker) for features, _ in events()
    ]
    for number, (head, tail) in zip(
        range(start, start + many), islice(cycle(templates), many), strict=True
    ):
        key = event_id(number).encode()
        yield key, head + key + tail


def feedback(start: int, many: int) -> Iterator[Row]:
    """A verdict on each of these events: what is true."""
    encode = CODEC.encoder(Feedback, "feedback")
    for number, (_, label) in _numbered(start, many):
        name = event_id(number)
        verdict = Feedback(f"verdict-{number:09d}", name, CORRECT, label, reviewer="ana")
        yield name.encode(), encode(verdict)


def examples(start: int, many: int) -> Iterator[Row]:
    """What the joiner makes of them: one source each, from four partitions."""
    encode = CODEC.encoder(Example, "examples")
    for number, (features, label) in _numbered(start, many):
        name = event_id(number)
        source = Source(
            "feedback", number % 4, number // 4, f"verdict-{number:09d}", "ana", "client"
        )
        answer = _prediction(name, features, likely=0.5 + (number % 97 - 48) / 100)
        yield b"", encode(_example(answer, label, source))


def _numbered(start: int, many: int) -> Iterator[tuple[int, tuple[Features, bool]]]:
    return zip(range(start, start + many), islice(cycle(events()), many), strict=True)


def _prediction(name: str, features: Features, likely: float = 0.75) -> Prediction:
    label = likely > 0.5
    scores = {"False": 1 - likely, "True": likely}
    asked: Any = (AUTO, NOBODY_ASKED, 0.99)
    return Prediction(
        name, label, scores, max(scores.values()), features, None, None, "", 1, *asked
    )


def _example(prediction: Prediction, label: bool, source: Source) -> Example:
    return Example(
        event_id=prediction.event_id,
        model_key="",
        features=prediction.features,
        label=label,
        weight=1.0,
        sources=[source],
        predicted=prediction.label,
        scores=prediction.scores,
        model_version=1,
        route=AUTO,
        reason=NOBODY_ASKED,
        probability=0.99,
        predicted_at=1_700_000_000_000,
        answered_at=1_700_000_060_000,
    )
