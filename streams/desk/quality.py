"""How good the loop is, and how it is kept so, read from the desk's tables; it changes nothing.

Counted are the newest verdicts on predictions that people were asked about: those volunteered have no probability of
having been chosen, and are not counted where one is needed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from streams.core.estimates import Estimate, alpha, share, weighted_share
from streams.core.events import LEARNED, REJECT, REVIEW, Drift, Label
from streams.desk.rows import check_text, label_of
from streams.desk.store import Store
from streams.desk.tables import (
    EXPIRED,
    UNANSWERED,
    outcomes,
    predictions,
    reviews,
    scores,
    verdicts,
    watches,
)

COUNTED, POINTS, BINS = 20_000, 300, 10
AGES_S = ((60, "1 min"), (600, "10 min"), (3_600, "1 h"), (86_400, "1 day"))
OLDER = "older"


@dataclass(frozen=True, slots=True)
class Cell:
    """How often the model said one label and people another."""

    label: Label | None
    truth: Label
    count: int


@dataclass(frozen=True, slots=True)
class Group:
    """Verdicts of one reviewer, or by one channel; ``agrees`` is how often they were what the model said."""

    name: str
    count: int
    agrees: Estimate | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of about the same confidence: how sure the model was, and how often it was right."""

    low: float
    high: float
    confidence: float
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class Times:
    """Half of the cases took no longer than the one, nine of ten than the other, in seconds."""

    median: float
    ninth: float


@dataclass(frozen=True, slots=True)
class Age:
    """How many items wait, by how long; ``up_to`` in words."""

    up_to: str
    count: int


@dataclass(frozen=True, slots=True)
class Point:
    """The metrics at one version of the model: see ``core/scores`` for what there is."""

    at: int
    model_key: str
    model_version: int
    learned: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Watch:
    """The newest alarms of a model's drift detectors, oldest first; None where none watches it."""

    model_key: str
    drifts: tuple[Drift, ...] | None


@dataclass(frozen=True, slots=True)
class Quality:
    """What there is to know.

    Attributes:
        raw: Share of right answers among those that people were asked about.
        weighted: The same for all events, by the probabilities with which people were asked.
        asked: Predictions that people were asked about.
        unanswered: Those of them whose deadline passed without a verdict.
        unanswered_share: Of all that do not wait any more; of these events ``weighted`` knows nothing.
        agreement: Krippendorff's alpha, where several people looked at the same; None where none did.
        to_verdict: From the prediction to the verdict.
        to_model: From the verdict to the model that has learned it.
        models: The keys of all models that have learned something, in order.
        model_key: Whose ``history`` this is, oldest point first; None before any model has learned.
    """

    raw: Estimate | None
    weighted: Estimate | None
    asked: int
    answered: int
    unanswered: int
    unanswered_share: float | None
    confusion: tuple[Cell, ...]
    calibration: tuple[Bin, ...]
    reviewers: tuple[Group, ...]
    channels: tuple[Group, ...]
    agreement: float | None
    to_verdict: Times | None
    to_model: Times | None
    waiting: tuple[Age, ...]
    models: tuple[str, ...]
    model_key: str | None
    history: tuple[Point, ...]
    watched: tuple[Watch, ...]


def quality(store: Store, now: int, model_key: str | None = None) -> Quality:
    """How good the loop is now.

    Args:
        model_key: Whose history is wanted; by default, and if nothing is known of it, that of whoever learned last.

    Raises:
        BadRecord: It is no model's key.
    """
    check_text("model", model_key or "")
    with store.reading() as connection:
        shown, watched = _shown(connection, model_key), _watched(connection)
        judged = _judged(connection)
        routed = _judged(connection, predictions.c.route == REVIEW)
        asked, answered, unanswered = _asked(connection)
        return Quality(
            raw=share(sum(map(_right, routed)), len(routed)),
            weighted=weighted_share((_right(row), row.probability) for row in routed),
            asked=asked,
            answered=answered,
            unanswered=unanswered,
            unanswered_share=unanswered / over if (over := answered + unanswered) else None,
            confusion=_confusion(judged),
            calibration=_calibration(judged),
            reviewers=_groups(judged, "reviewer"),
            channels=_groups(judged, "channel"),
            agreement=alpha(_units(connection)),
            to_verdict=_times((row.answered_at - row.at) / 1000 for row in routed),
            to_model=_times(_lags(connection)),
            waiting=_waiting(connection, now),
            models=tuple(each.model_key for each in watched),
            model_key=shown,
            history=() if shown is None else _history(connection, shown),
            watched=watched,
        )


def _judged(connection: Connection, *of: ColumnElement[bool]) -> Sequence[Any]:
    """The newest predictions of which it is known whether they were right: a reject tells so without the truth."""
    p = predictions.c
    wanted = (
        select(p.label, p.truth, p.confidence, p.probability, p.route, p.reviewer, p.channel)
        .add_columns(p.at, p.answered_at)
        .where(p.answered_at.is_not(None), p.truth.is_not(None) | (p.verdict == REJECT), *of)
        .order_by(p.answered_at.desc())
        .limit(COUNTED)
    )
    return connection.execute(wanted).all()


def _right(row: Any) -> bool:
    return bool(row.label == row.truth)


def _asked(connection: Connection) -> tuple[int, int, int]:
    by_state = select(reviews.c.state, func.count()).group_by(reviews.c.state)
    counts = {row[0]: row[1] for row in connection.execute(by_state)}
    total, expired = sum(counts.values()), counts.get(EXPIRED, 0)
    waiting = sum(counts.get(state, 0) for state in UNANSWERED)
    return total, total - expired - waiting, expired


def _confusion(judged: Sequence[Any]) -> tuple[Cell, ...]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for row in judged:
        if row.truth is not None:
            counts[row.label, row.truth] += 1
    return tuple(
        Cell(label_of(label), label_of(truth), count)  # type: ignore[arg-type]  # a truth is a label
        for (label, truth), count in sorted(counts.items())
    )


def _calibration(judged: Sequence[Any]) -> tuple[Bin, ...]:
    bins: dict[int, list[Any]] = defaultdict(list)
    for row in judged:
        if row.confidence is not None:
            bins[min(int(row.confidence * BINS), BINS - 1)].append(row)
    made = []
    for number, rows in sorted(bins.items()):
        right = share(sum(map(_right, rows)), len(rows))
        if right is not None:
            sure = sum(row.confidence for row in rows) / len(rows)
            made.append(Bin(number / BINS, (number + 1) / BINS, sure, right))
    return tuple(made)


def _groups(judged: Sequence[Any], by: str) -> tuple[Group, ...]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in judged:
        groups[getattr(row, by) or "(nobody)"].append(row)
    return tuple(
        Group(
            name,
            len(rows),
            share(sum(map(_right, rows)), len(rows)),
            median((row.answered_at - row.at) / 1000 for row in rows),
        )
        for name, rows in sorted(groups.items(), key=lambda item: -len(item[1]))
    )


def _units(connection: Connection) -> Iterable[list[Label]]:
    """Of the newest events that several people looked at, the last label of each."""
    v = verdicts.c
    several = (
        select(v.event_id)
        .where(v.says.is_not(None))
        .group_by(v.event_id)
        .having(func.count() > 1)
        .order_by(func.max(v.at).desc())
        .limit(COUNTED)
    )
    said = select(v.event_id, v.says).where(v.event_id.in_(several), v.says.is_not(None))
    by_event: dict[str, list[Label]] = defaultdict(list)
    for event_id, says in connection.execute(said):
        by_event[event_id].append(json.loads(says))
    return by_event.values()


def _lags(connection: Connection) -> Iterable[float]:
    o, v = outcomes.c, verdicts.c
    learned = (
        select(o.at - v.at)
        .join_from(outcomes, verdicts, (o.partition == v.partition) & (o.offset == v.offset))
        .where(o.status == LEARNED)
        .order_by(o.at.desc())
        .limit(COUNTED // 10)
    )
    return [max(lag, 0) / 1000 for lag in connection.execute(learned).scalars()]


def _times(seconds: Iterable[float]) -> Times | None:
    found = [each for each in seconds if each >= 0]
    if not found:
        return None
    ninth = quantiles(found, n=10)[8] if len(found) > 1 else found[0]
    return Times(median(found), ninth)


def _waiting(connection: Connection, now: int) -> tuple[Age, ...]:
    wait = select(reviews.c.requested_at).where(reviews.c.state.in_(UNANSWERED))
    counts = dict.fromkeys([*(words for _, words in AGES_S), OLDER], 0)
    for at in connection.execute(wait).scalars():
        age_s = (now - at) / 1000
        counts[next((words for limit_s, words in AGES_S if age_s <= limit_s), OLDER)] += 1
    return tuple(Age(words, count) for words, count in counts.items())


def _shown(connection: Connection, model_key: str | None) -> str | None:
    newest = select(scores.c.model_key).order_by(scores.c.at.desc(), scores.c.offset.desc())
    found = None
    if model_key is not None:
        found = connection.scalar(newest.where(scores.c.model_key == model_key).limit(1))
    return connection.scalar(newest.limit(1)) if found is None else found


def _history(connection: Connection, model_key: str) -> tuple[Point, ...]:
    of_model = select(scores).where(scores.c.model_key == model_key)
    newest = of_model.order_by(scores.c.at.desc(), scores.c.offset.desc()).limit(POINTS)
    rows = reversed(connection.execute(newest).all())
    return tuple(
        Point(row.at, row.model_key, row.model_version, row.learned, json.loads(row.metrics))
        for row in rows
    )


def _watched(connection: Connection) -> tuple[Watch, ...]:
    rows = connection.execute(select(watches).order_by(watches.c.model_key))
    return tuple(
        Watch(
            row.model_key,
            None if row.drifts is None else tuple(Drift(**each) for each in json.loads(row.drifts)),
        )
        for row in rows
    )
