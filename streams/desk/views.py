"""What templates show, made of what the desk reads: words, numbers as text, and the measures of small drawings.

All of it is plain text; the templates escape it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from streams.core.events import Basis, Contribution, Features, Label, Prediction, Review
from streams.core.story import Moment
from streams.desk.work import Item

KEYS = "123456789"
HALF = 50
"""Half the width of a bar: what speaks against goes to the left of it."""
CELL = re.compile(r"(.+)_(\d+)_(\d+)")
GRID = range(4, 65)
"""Rows and columns of a picture."""
SHORT = 200
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True)
class Choice:
    """A label that can be given, and the key that gives it."""

    label: str
    value: str
    key: str


@dataclass(frozen=True, slots=True)
class Row:
    """A feature: its value, and how far it pushed; no ``push`` where that was not told."""

    feature: str
    value: str
    part: str | None
    push: str | None
    x: float
    width: float
    towards: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """A point of a picture: its place, and how dark it is, of 100."""

    x: int
    y: int
    percent: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Features that are the points of a picture."""

    columns: int
    lines: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """An event as a reviewer sees it.

    Attributes:
        seen: The answer as JSON, to be given back with an accept; None if the model gave none.
        why: What the bars mean, in words.
        lease: Of an item of the queue.
        asked: Of one that several people are asked about: how many, and how many have looked at it.
    """

    event_id: str
    text: str | None
    picture: Picture | None
    rows: tuple[Row, ...]
    why: str | None
    label: str | None
    seen: str | None
    confidence: str | None
    scores: tuple[tuple[str, str, float], ...]
    reason: str
    chance: str
    version: str
    deadline: int | None = None
    lease: str | None = None
    until: int | None = None
    waiting: int = 0
    asked: str | None = None


@dataclass(frozen=True, slots=True)
class Happened:
    """A moment on a time line."""

    at: int
    kind: str
    what: str
    says: tuple[tuple[str, str], ...]


def choices(classes: Sequence[Label]) -> tuple[Choice, ...]:
    """The labels with a key each: digits their own, others by their place.

    >>> [(each.label, each.key) for each in choices((False, True))]
    [('false', '1'), ('true', '2')]
    >>> [each.key for each in choices(range(10))] == list("0123456789")
    True
    """
    names = [words(label) for label in classes]
    if all(len(name) == 1 and name.isdigit() for name in names):
        keys = names
    else:
        keys = [*KEYS[: len(names)], *[""] * (len(names) - len(KEYS))]
    return tuple(
        Choice(name, json.dumps(label), key)
        for name, label, key in zip(names, classes, keys, strict=True)
    )


def words(value: Any) -> str:
    """A value as people read it.

    >>> words(True), words(0.123456), words(7), words("a"), words(None)
    ('true', '0.1235', '7', 'a', '–')
    """
    match value:
        case None:
            return "–"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.4g}"
        case str():
            return value
        case _:
            return json.dumps(value, ensure_ascii=False, default=str)


def percent(part: float | None) -> str:
    """A share.

    >>> percent(0.912), percent(None)
    ('91%', '–')
    """
    return "–" if part is None else f"{100 * part:.0f}%"


def span(ms: float) -> str:
    """How long something takes.

    >>> span(90_000), span(86_400_000), span(20)
    ('1 min 30 s', '1 d', '0 s')
    """
    left, told = int(max(ms, 0) // 1000), list[str]()
    for size, unit in UNITS:
        count, left = divmod(left, size)
        if count:
            told.append(f"{count} {unit}")
    return " ".join(told[:2]) or "0 s"


def clock(ms: int) -> str:
    """A time, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def card(said: Prediction | Review, view: Sequence[str] = ()) -> Card:
    """An event, with what was predicted of it and why.

    Args:
        view: The features that are shown beside those that pushed, in this order; all where none is named.
    """
    features = {
        name: said.features[name] for name in view or said.features if name in said.features
    }
    picture = _picture(said.features)
    told = said.explanation or []
    return Card(
        event_id=said.event_id,
        text=said.text,
        picture=picture,
        rows=_rows(features, told, hidden=picture is not None),
        why=None if said.basis is None else _why(said.basis),
        label=None if said.label is None else words(said.label),
        seen=None if said.label is None else json.dumps(said.label),
        confidence=None if said.confidence is None else percent(said.confidence),
        scores=_scores(said.scores),
        reason=said.reason,
        chance=percent(said.probability),
        version=f"{said.model_key or 'model'} {said.model_version:,}",
    )


def item_card(item: Item, view: Sequence[str] = ()) -> Card:
    """An item of the queue."""
    seen = card(item.review, view)
    fields = {name: getattr(seen, name) for name in Card.__dataclass_fields__}
    fields |= {"deadline": item.review.deadline, "lease": item.lease, "until": item.until}
    if item.review.opinions > 1:
        fields["asked"] = f"{item.review.opinions} people; {item.looked} looked at it before you"
    return Card(**fields | {"waiting": item.waiting})


def happened(moment: Moment) -> Happened:
    """A moment in words."""
    says = {name: value for name, value in moment.says.items() if _tells(name, value)}
    told = tuple((name.replace("_", " "), _told(name, value)) for name, value in says.items())
    return Happened(moment.at, moment.kind, _summary(moment), told)


def _summary(moment: Moment) -> str:
    says = moment.says
    match moment.kind:
        case "prediction":
            again = ", again: not counted" if says.get("repeats") else ""
            sure = "" if says["confidence"] is None else f", {percent(says['confidence'])} sure"
            return f"the model said {words(says['label'])}{sure}{again}"
        case "review":
            return f"people were asked: {says['reason']}"
        case "feedback":
            label = "" if says["label"] is None else f" {words(says['label'])}"
            became = f": {says['outcome']}"
            return f"{says['reviewer'] or says['channel']} said {says['verdict']}{label}{became}"
        case "outcome":
            version = says.get("model_version")
            into = "" if version is None else f" into version {version:,}"
            return f"{says['status']}{into}"
        case "dead letter":
            return str(says["reason"])
        case _:
            return moment.kind


def _tells(name: str, value: Any) -> bool:
    return name not in ("explanation", "basis", "features", "told") and value not in (None, [], {})


def _told(name: str, value: Any) -> str:
    if name in ("deadline", "given_at", "occurred_at") and isinstance(value, int):
        return clock(value)
    told = words(dict(value) if isinstance(value, Mapping) else value)
    return told if len(told) <= SHORT else f"{told[:SHORT]}…"


def _rows(features: Features, told: Sequence[Contribution], *, hidden: bool) -> tuple[Row, ...]:
    """First what pushed, the strongest first; then the other features, unless a picture shows them."""
    most = max((abs(each.weight) for each in told), default=0.0) or 1.0
    rows = []
    for each in told:
        width = round(HALF * abs(each.weight) / most, 1)
        x = HALF if each.weight >= 0 else HALF - width
        push = f"{each.weight:+.3g}"
        value = words(features.get(each.feature, each.value))
        rows.append(Row(each.feature, value, each.part, push, x, width, each.weight >= 0))
    if not hidden:
        pushed = {each.feature for each in told}
        rows += [
            Row(name, words(value), None, None, 0, 0, towards=True)
            for name, value in features.items()
            if name not in pushed
        ]
    return tuple(rows)


def _why(basis: Basis) -> str:
    towards = "raises the value" if basis.towards is None else f"speaks for {words(basis.towards)}"
    against = "" if basis.against is None else f" and against {words(basis.against)}"
    rest = f"all others {basis.others:+.3g}, bias {basis.bias:+.3g}"
    return (
        f"To the right: what {towards}{against}. The bars, {rest}, add up to the {basis.unit} "
        f"(method: {basis.method})."
    )


def _scores(scores: Mapping[str, float]) -> tuple[tuple[str, str, float], ...]:
    """The labels that are most likely, with widths of 100."""
    best = sorted(scores.items(), key=lambda each: -each[1])[:5]
    return tuple(
        (name, percent(score), round(100 * min(max(score, 0.0), 1.0), 1)) for name, score in best
    )


def _picture(features: Features) -> Picture | None:
    """The picture that features are, when all are called ``name_row_column`` and none is missing.

    >>> _picture({"a": 1.0})
    >>> made = _picture({f"pixel_{y}_{x}": float(x) for y in range(8) for x in range(8)})
    >>> made.columns, made.lines, made.cells[7]
    (8, 8, Cell(x=7, y=0, percent=100))
    """
    points: dict[tuple[int, int], float] = {}
    for name, value in features.items():
        found = CELL.fullmatch(name)
        if found is None or isinstance(value, bool) or not isinstance(value, int | float):
            return None
        points[int(found[2]), int(found[3])] = float(value)
    lines, columns = (1 + max((place[n] for place in points), default=-1) for n in (0, 1))
    if lines not in GRID or columns not in GRID or len(points) != lines * columns:
        return None
    least, most = min(points.values()), max(points.values())
    if not 0.0 < most - least < float("inf"):
        return None
    return Picture(
        columns,
        lines,
        tuple(
            Cell(x, y, round(100 * (value - least) / (most - least)))
            for (y, x), value in sorted(points.items())
        ),
    )
