"""What happened to one event, as moments in order of time.

It is told from the records about it, whoever found them; nothing is read or decided here that a role would decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pyroaring import BitMap64

from streams.core.events import (
    DeadLetter,
    Example,
    Feedback,
    Input,
    Label,
    Outcome,
    Prediction,
    Review,
)

INPUT, PREDICTED, ASKED, ANSWERED = "input", "prediction", "review", "feedback"
TAUGHT, OUTCOME, BURIED = "example", "outcome", "dead letter"
WAITS = "waits"
"""Outcome of a feedback of which nothing became yet."""
_IN_ORDER = (INPUT, PREDICTED, ASKED, ANSWERED, TAUGHT, OUTCOME, BURIED)
"""What comes first of things that happened in the same millisecond: causes before what they cause."""
_SEEN_ALREADY = ("features", "scores", "model_version", "route", "reason", "probability")
"""Of an example: what it has from the prediction."""


class Found(NamedTuple):
    """A record about the event, where it stands, and the broker's time of it.

    Attributes:
        record: One of ours, or the fields of a control record.
    """

    topic: str
    partition: int
    offset: int
    at: int
    record: Any


class Moment(NamedTuple):
    """Something that happened to the event.

    Attributes:
        at: The broker's time, in milliseconds.
        kind: ``input``, ``prediction``, ``review``, ``feedback``, ``example``, ``outcome``, ``exclude``,
            ``include`` or ``dead letter``.
        says: What there is to know.
    """

    at: int
    kind: str
    topic: str
    partition: int
    offset: int
    says: Mapping[str, Any]


def moments(
    found: Iterable[Found], controls: Iterable[Found], window_ms: int
) -> tuple[Moment, ...]:
    """The moments of an event, in order of time.

    Args:
        found: Records about it.
        controls: Control records of the log, as fields; those that exclude or include a source of the event are told.
        window_ms: The loop's window: a prediction that comes within two of them after the one that counts is a repeat.
    """
    records = sorted(found, key=lambda each: (each.at, each.topic, each.partition, each.offset))
    of: dict[type, list[Found]] = {}
    for each in records:
        of.setdefault(type(each.record), []).append(each)
    told = [_moment(INPUT, each, _fields(each)) for each in of.get(Input, ())]
    told += _predictions(of.get(Prediction, ()), window_ms)
    told += [_moment(ASKED, each, _review(each.record)) for each in of.get(Review, ())]
    outcomes = _once(of.get(Outcome, ()))
    letters = of.get(DeadLetter, ())
    told += [
        _moment(ANSWERED, each, _fields(each) | _became(each, outcomes, letters))
        for each in of.get(Feedback, ())
    ]
    told += _examples(of.get(Example, ()), outcomes)
    told += [_moment(OUTCOME, each, _fields(each)) for each in outcomes]
    told += [_moment(BURIED, each, _letter(each.record)) for each in letters]
    sources = {
        (source.topic, source.partition, source.offset)
        for each in of.get(Example, ())
        for source in each.record.sources
    }
    told += _exclusions(controls, sources)
    return tuple(sorted(told, key=_order))


def given(found: Iterable[Found]) -> Label | None:
    """The label that the verdicts on the event come to: the last that was not taken back; None if there is none."""
    lessons = sorted(
        (each for each in found if type(each.record) is Example), key=lambda e: e.offset
    )
    corrected = {tuple(each) for lesson in lessons for each in lesson.record.corrects}
    said = None
    for each in lessons:
        lesson: Example = each.record
        stands = any((s.topic, s.partition, s.offset) not in corrected for s in lesson.sources)
        if stands and lesson.label is not None:
            said = lesson.label
    return said


def _order(moment: Moment) -> tuple[int, int, int]:
    known = moment.kind in _IN_ORDER
    rank = _IN_ORDER.index(moment.kind) if known else len(_IN_ORDER)
    return moment.at, rank, moment.offset


def _moment(kind: str, found: Found, says: Mapping[str, Any]) -> Moment:
    return Moment(found.at, kind, found.topic, found.partition, found.offset, says)


def _fields(found: Found) -> dict[str, Any]:
    fields: dict[str, Any] = found.record._asdict()
    del fields["event_id"]
    return fields


def _predictions(found: Sequence[Found], window_ms: int) -> list[Moment]:
    """The first of an event counts, and the next one only when the first is forgotten: as the joiner has it."""
    told: list[Moment] = []
    counts: int | None = None
    for each in found:
        repeats = counts is not None and each.at <= counts + 2 * window_ms
        counts = counts if repeats else each.at
        told.append(_moment(PREDICTED, each, _fields(each) | {"repeats": repeats}))
    return told


def _review(review: Review) -> dict[str, Any]:
    return {
        "reason": review.reason,
        "probability": review.probability,
        "priority": review.priority,
        "deadline": review.deadline,
    }


def _once(outcomes: Iterable[Found]) -> list[Found]:
    """Outcomes may be written twice, with the same content."""
    first: dict[Outcome, Found] = {}
    for each in outcomes:
        first.setdefault(each.record, each)
    return list(first.values())


def _became(feedback: Found, outcomes: Iterable[Found], letters: Iterable[Found]) -> dict[str, Any]:
    place = feedback.partition, feedback.offset
    for each in outcomes:
        outcome: Outcome = each.record
        if (outcome.partition, outcome.offset) == place:
            said = {"outcome": outcome.status, "detail": outcome.detail}
            return said | {"learned_as": outcome.model_version}
    for each in letters:
        letter: DeadLetter = each.record
        if (letter.topic, letter.partition, letter.offset) == (feedback.topic, *place):
            return {"outcome": BURIED, "detail": letter.reason, "learned_as": None}
    return {"outcome": WAITS, "detail": None, "learned_as": None}


def _examples(found: Iterable[Found], outcomes: Iterable[Found]) -> list[Moment]:
    """An example makes the version that is its place in the log, plus one, if its sources were not seen before."""
    versions = {each.record.model_version for each in outcomes}
    told, seen = [], set[tuple[str, int, int]]()
    for each in found:
        example: Example = each.record
        sources = {(source.topic, source.partition, source.offset) for source in example.sources}
        says = {name: value for name, value in _fields(each).items() if name not in _SEEN_ALREADY}
        says["version"] = version = each.offset + 1
        says |= {"repeats": bool(sources) and sources <= seen, "told": version in versions}
        seen |= sources
        told.append(_moment(TAUGHT, each, says))
    return told


def _letter(letter: DeadLetter) -> dict[str, Any]:
    fields = ("role", "stage", "reason", "feedback_id")
    where = {"of": f"{letter.topic}-{letter.partition}-{letter.offset}"}
    return {name: getattr(letter, name) for name in fields} | where


def _exclusions(controls: Iterable[Found], sources: set[tuple[str, int, int]]) -> list[Moment]:
    told = []
    for each in controls:
        fields: Mapping[str, Any] = each.record
        meant = [
            {"topic": topic, "partition": partition, "offset": offset}
            for topic, partition, offset in sorted(sources)
            if any(_takes(excluded, topic, partition, offset) for excluded in fields["sources"])
        ]
        if meant:
            says = {name: fields[name] for name in ("rule", "who", "why")}
            version = {"version": each.offset + 1}
            told.append(_moment(str(fields["kind"]), each, version | says | {"sources": meant}))
    return told


def _takes(excluded: Mapping[str, Any], topic: str, partition: int, offset: int) -> bool:
    if (excluded["topic"], excluded["partition"]) != (topic, partition):
        return False
    return offset in BitMap64.deserialize(excluded["offsets"])
