"""Looks back: the model of any version, what is out of a stored one, and what versions have predicted."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import time
from typing import Any, NamedTuple

from streams import bootstrap, operate
from streams.config import Settings
from streams.core import exclusions
from streams.core.errors import BadRecord, NotFound
from streams.core.events import Exclusion, Features, Prediction, Review, Snapshot
from streams.core.exclusions import NOWHERE
from streams.core.join import request
from streams.core.topics import PREDICTIONS, REVIEWS, partition_of
from streams.corrections import Opened, key_of, open_log, records, words_of
from streams.engine import reader
from streams.engine.rebuild import Rebuilder, Rebuilt
from streams.loop import Loop


class Version(NamedTuple):
    """A model as it was at a version."""

    model_key: str
    version: int
    learned: int
    excluded: int
    metrics: Mapping[str, float]
    start: int
    answer: Mapping[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """In plain values."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def at(
    loop: Loop,
    settings: Settings,
    version: int,
    *,
    model_key: str | None = None,
    features: Features | None = None,
    out: Path | None = None,
) -> Version:
    """The model at a version, made again: what it had learned, its metrics, and what it says to an event.

    Args:
        out: A file that the pickled River model is written to.

    Raises:
        NotFound: There is no such version, or the loop has several models and none is named.
        Conflict: The lineage continues from a state that is gone.
    """
    opened, key = open_log(loop, settings), key_of(loop, model_key)
    made = made_again(opened, key, version)
    fold = made.fold
    if out is not None:
        out.write_bytes(pickle.dumps(fold.model))
    answer = None if features is None else fold.answer(features)._asdict()
    metrics = fold.scores.values() if fold.scores is not None else {}
    count = exclusions.count(fold.excluded)
    return Version(key, version, fold.learned, count, metrics, made.start, answer)


def made_again(opened: Opened, key: str, version: int | None = None) -> Rebuilt:
    """A version of a model, made again; the newest if none is named.

    Raises:
        NotFound: There is no such version.
        Conflict: The lineage continues from a state that is gone.
    """
    bounds = operate.bounds(opened.log.kafka, [opened.log.examples])
    partition = partition_of(key.encode(), len(bounds))
    _, end = bounds[opened.log.examples, partition]
    version = end if version is None else version
    if not 0 <= version <= end:
        message = f"model {key!r} has versions 0 to {end}, and no version {version}"
        raise NotFound(message)
    maker = Rebuilder(opened.log, key, partition, opened.lineage[partition])
    return maker.rebuild(maker.at(version))


def features_of(text: str) -> Features:
    """The features that were typed, as a JSON object.

    Raises:
        NotFound: They are none.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        message = f"the features are no JSON: {error}"
        raise NotFound(message) from error
    if not isinstance(found, dict):
        message = 'the features are a JSON object, such as {"amount": 12.5}'
        raise NotFound(message)
    return found


def told(loop: Loop, settings: Settings, snapshot: Snapshot) -> dict[str, Any]:
    """What is out of a stored model, and who had it so."""
    the_log = open_log(loop, settings)
    out, last = NOWHERE, None
    for message, each in records(the_log):
        is_mine = each.model_key == snapshot.model_key
        if is_mine and isinstance(each, Exclusion) and (message.offset() or 0) < snapshot.version:
            fixed = the_log.fixed.get(snapshot.model_key, NOWHERE)
            out, last = exclusions.after(out, each, fixed), each
    if last is None:
        return {"excluded": 0}
    return {
        "excluded": exclusions.count(out),
        "last_exclusion": {
            "kind": last.kind,
            "rule": last.rule,
            "who": last.who,
            "why": last.why,
            "asked_at": words_of(last.asked_at),
        },
    }


class Affected(NamedTuple):
    """A prediction by one of the versions asked for; whether a verdict on it would still count."""

    prediction: Prediction
    predicted_at: int
    is_open: bool

    def as_json(self) -> dict[str, Any]:
        """In plain values."""
        told = self.prediction
        return {
            "event_id": told.event_id,
            "model_key": told.model_key,
            "model_version": told.model_version,
            "label": told.label,
            "confidence": told.confidence,
            "predicted_at": self.predicted_at,
            "open": self.is_open,
        }


def affected(
    loop: Loop, settings: Settings, first: int, last: int, *, model_key: str | None = None
) -> list[Affected]:
    """The predictions that count, made by the versions after ``first`` up to ``last``.

    Raises:
        NotFound: The loop has several models and none is named.
    """
    key = key_of(loop, model_key)
    operate.require(loop, settings, PREDICTIONS)
    parts = bootstrap.Parts(loop, settings)
    now, known, found = int(time() * 1000), set[str](), list[Affected]()
    for message in reader.to_end(parts.kafka, parts.topic(PREDICTIONS)):
        try:
            prediction = parts.codec.decode_as(Prediction, message.value())
        except BadRecord:
            continue
        is_first = prediction.event_id not in known
        known.add(prediction.event_id)
        is_of_key = prediction.model_key == key
        if is_first and is_of_key and first < prediction.model_version <= last:
            at_ms = message.timestamp()[1]
            found.append(Affected(prediction, at_ms, now <= at_ms + loop.window_ms))
    return found


def review_again(loop: Loop, settings: Settings, found: Iterable[Affected]) -> int:
    """Asks people once more about those on which a verdict still counts; gives how many."""
    operate.require(loop, settings, REVIEWS)
    parts, count = bootstrap.Parts(loop, settings), 0
    topic = parts.topic(REVIEWS)
    encode = parts.codec.encoder(Review, topic)
    for each in found:
        if each.is_open:
            asked = request(each.prediction, each.predicted_at, loop.window_ms, loop.reviewers)
            parts.outputs.send(topic, encode(asked), asked.event_id.encode())
            count += 1
    parts.outputs.flush()
    return count
