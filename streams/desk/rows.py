"""Records of the loop as rows of the projection, and back: what is searched is a column, the rest stays as it was.

It does not read bytes: those come with the record that they hold.
"""

from __future__ import annotations

import json
from functools import lru_cache
from math import isfinite
from typing import Any

from streams.core.errors import BadRecord
from streams.core.events import (
    REVIEW,
    DeadLetter,
    Feedback,
    Label,
    Outcome,
    Prediction,
    Review,
    Score,
)
from streams.desk.tables import WAITING

Fields = dict[str, Any]


@lru_cache(1_000, typed=True)
def text_of(label: Label | None) -> str:
    """A label as it is stored: JSON, so that its type comes back.

    >>> text_of(True), text_of("true"), text_of(1.0)
    ('true', '"true"', '1.0')
    """
    return json.dumps(label, ensure_ascii=False)


def label_of(stored: str | None) -> Label | None:
    """A stored label."""
    return None if stored is None else json.loads(stored)


def storable(text: str) -> str:
    """Text without the zero characters that PostgreSQL cannot hold; the stored bytes have them still."""
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def check_text(name: str, value: str) -> None:
    """Refuses what is no text that every database holds: BadRecord."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"{name} is not valid Unicode: half of a surrogate pair") from error
    if "\x00" in value:
        raise BadRecord(f"{name} holds a zero character, which cannot be kept")


def _number(value: float) -> float:
    """A number that a database takes and sorts; SQLite makes nothing of what is none."""
    return value if isfinite(value) else 0.0


def _place(partition: int, offset: int, at: int) -> Fields:
    return {"partition": partition, "offset": offset, "at": at}


def prediction_row(record: Prediction, partition: int, offset: int, at: int) -> Fields:
    """Of a prediction, what it is filtered by."""
    return {
        "event_id": storable(record.event_id),
        "partition": partition,
        "offset": offset,
        "at": at,
        "label": storable(text_of(record.label)),
        "confidence": record.confidence,
        "probability": _number(record.probability),
        "model_key": storable(record.model_key),
        "model_version": record.model_version,
        "route": record.route,
        "text": None if record.text is None else storable(record.text),
    }


def review_row(record: Review, partition: int, offset: int, at: int, value: bytes) -> Fields:
    """Of a review, what the queue is ordered by."""
    return _place(partition, offset, at) | {
        "event_id": storable(record.event_id),
        "label": storable(text_of(record.label)),
        "priority": _number(record.priority),
        "requested_at": record.requested_at,
        "deadline": record.deadline,
        "state": WAITING,
        "value": value,
    }


def verdict_row(record: Feedback, partition: int, offset: int, at: int, value: bytes) -> Fields:
    """Of a feedback, what quality is counted by."""
    return _place(partition, offset, at) | {
        "feedback_id": storable(record.feedback_id),
        "event_id": storable(record.event_id),
        "verdict": storable(record.verdict),
        "label": storable(text_of(record.label)),
        "reviewer": None if record.reviewer is None else storable(record.reviewer),
        "channel": storable(record.channel),
        "value": value,
    }


def outcome_row(record: Outcome, at: int) -> Fields:
    """Of an outcome, all; its place is that of the feedback."""
    return _place(record.partition, record.offset, at) | {
        "feedback_id": storable(record.feedback_id),
        "event_id": storable(record.event_id),
        "status": record.status,
        "detail": None if record.detail is None else storable(record.detail),
        "model_version": record.model_version,
    }


def outcome_of(row: Any) -> Outcome:
    """The outcome of a row, but for its model key."""
    return Outcome(
        event_id=row.event_id,
        feedback_id=row.feedback_id,
        status=row.status,
        detail=row.detail,
        partition=row.partition,
        offset=row.offset,
        model_key=None,
        model_version=row.model_version,
    )


def score_row(record: Score, partition: int, offset: int, at: int) -> Fields:
    """Of a score, all."""
    return _place(partition, offset, at) | {
        "model_key": storable(record.model_key),
        "model_version": record.model_version,
        "learned": record.learned,
        "metrics": json.dumps(dict(record.metrics)),
    }


def watch_row(record: Score) -> Fields:
    """Of a score, what the model's drift detectors told."""
    drifts = record.drifts
    return {
        "model_key": storable(record.model_key),
        "drifts": None if drifts is None else json.dumps([drift._asdict() for drift in drifts]),
    }


def letter_row(record: DeadLetter, partition: int, offset: int, at: int, value: bytes) -> Fields:
    """Of a dead letter, what it is found by."""
    return _place(partition, offset, at) | {
        "topic": record.topic,
        "of_partition": record.partition,
        "of_offset": record.offset,
        "role": record.role,
        "stage": record.stage,
        "reason": storable(record.reason),
        "event_id": None if record.event_id is None else storable(record.event_id),
        "feedback_id": None if record.feedback_id is None else storable(record.feedback_id),
        "value": value,
    }


def as_prediction(record: Prediction | Review) -> Prediction:
    """What a verdict is about, whether the prediction itself is at hand or the review that asks about it."""
    if isinstance(record, Prediction):
        return record
    common = {name: getattr(record, name) for name in Prediction._fields if name != "route"}
    return Prediction(route=REVIEW, **common)
