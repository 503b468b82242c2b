"""The drawings of the quality page, as measures for SVG: lines over time with the drift in them, calibration, and shares as bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streams.desk.quality import Bin, Cell, Point, Quality, Watch
from streams.desk.views import clock, percent, words

WIDE, HIGH = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 470, 10, 195
TICKS = 4
ALARMS, NAMED = 20, 10
"""The newest alarms are listed, and so many models without one are named."""
NOBODY_WATCHES = (
    "No detector looks for drift: a loop whose review has review.Drifting(...) in it has one."
)
LINES = (("model", ".rolling"), ("frozen", ".frozen"), ("baseline", ".baseline"))


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its kind, what it is called with its last value, and its path."""

    kind: str
    text: str
    path: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over how much was learned.

    Attributes:
        marks: Where drift was told.
        says: The same in words, for those who do not see it.
    """

    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    marks: tuple[Tick, ...]
    says: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm of a drift detector, in words."""

    model: str
    at: str
    version: str
    learned: str
    detector: str
    measured: str


@dataclass(frozen=True, slots=True)
class Drifts:
    """What the drift detectors told: the newest alarms first, and a sentence about the models without one."""

    alarms: tuple[Alarm, ...]
    says: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A bin of the calibration: where it is, and between what."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True, slots=True)
class Confused:
    """A row of the confusion matrix: what the model said, and how often each was true."""

    said: str
    counts: tuple[tuple[int, bool, float], ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Who was taken for whom."""

    truths: tuple[str, ...]
    rows: tuple[Confused, ...]


def over_time(history: Sequence[Point], main: str, watched: Iterable[Watch] = ()) -> Chart | None:
    """A metric of the model of now beside the frozen one and the baseline; None before there is any."""
    points = [
        point for point in history if any(f"{main}{end}" in point.metrics for _, end in LINES)
    ]
    if not points:
        return None
    values = [
        point.metrics[f"{main}{end}"]
        for point in points
        for _, end in LINES
        if f"{main}{end}" in point.metrics
    ]
    most = 1.0 if main == "accuracy" else max([*values, 1e-9])
    first, last = points[0].learned, points[-1].learned
    lines = []
    for kind, end in LINES:
        told = [
            (p.learned, p.metrics[f"{main}{end}"]) for p in points if f"{main}{end}" in p.metrics
        ]
        if told:
            places = [(_across(learned, first, last), _up(value / most)) for learned, value in told]
            lines.append(Line(kind, f"{kind} {_told(told[-1][1], main)}", _path(places)))
    across = tuple(
        Tick(_across(at, first, last), f"{at:,}")
        for at in sorted({first + (last - first) * n // TICKS for n in range(TICKS + 1)})
    )
    up = tuple(Tick(_up(n / TICKS), _told(most * n / TICKS, main)) for n in range(TICKS + 1))
    says = f"{main} after {last:,} lessons: {', '.join(line.text for line in lines)}"
    marks = tuple(
        Tick(_across(drift.learned, first, last), f"drift after {drift.learned:,} lessons")
        for watch in watched
        for drift in watch.drifts or ()
        if first <= drift.learned <= last
    )
    says = "; ".join([says, *(mark.text for mark in marks)])
    return Chart(tuple(lines), across, up, marks, says)


def drifts(watched: Sequence[Watch], main: str) -> Drifts:
    """What was told of drift, model by model."""
    told = [(drift, watch) for watch in watched for drift in watch.drifts or ()]
    newest = sorted(told, key=lambda one: (one[0].at or 0, one[0].model_version), reverse=True)
    alarms = tuple(
        Alarm(
            watch.model_key,
            "–" if drift.at is None else clock(drift.at),
            f"{drift.model_version:,}",
            f"{drift.learned:,}",
            drift.detector,
            f"{percent(drift.error)} wrong"
            if main == "accuracy"
            else f"off by {words(drift.error)}",
        )
        for drift, watch in newest[:ALARMS]
    )
    return Drifts(alarms, _calm(watched))


def _calm(watched: Sequence[Watch]) -> str:
    calm = [watch.model_key for watch in watched if watch.drifts == ()]
    if not watched or all(watch.drifts is None for watch in watched):
        return "" if not watched else NOBODY_WATCHES
    if not any(calm):  # one model, without a name
        return "No drift so far." if calm else ""
    more = f" and {len(calm) - NAMED:,} more" if len(calm) > NAMED else ""
    return f"No drift so far: {', '.join(calm[:NAMED])}{more}."


def calibration(bins: Iterable[Bin]) -> tuple[Dot, ...]:
    """How often the model was right, by how sure it was."""
    return tuple(
        Dot(
            _part(each.confidence),
            _up(each.accuracy.value),
            _up(each.accuracy.low),
            _up(each.accuracy.high),
            f"{percent(each.confidence)} sure: {percent(each.accuracy.value)} right of {each.accuracy.cases:,}",
        )
        for each in bins
    )


def matrix(cells: Sequence[Cell]) -> Matrix | None:
    """The confusion matrix, with shares of each row; None before there is any."""
    if not cells:
        return None
    counts: dict[tuple[str, str], int] = {}
    for cell in cells:
        place = words(cell.label), words(cell.truth)
        counts[place] = counts.get(place, 0) + cell.count
    truths = tuple(sorted({truth for _, truth in counts}))
    rows = []
    for said in sorted({label for label, _ in counts}):
        total = sum(counts.get((said, truth), 0) for truth in truths)
        found = [(counts.get((said, truth), 0), truth) for truth in truths]
        rows.append(
            Confused(said, tuple((count, truth == said, count / total) for count, truth in found))
        )
    return Matrix(truths, tuple(rows))


def main_metric(task: str) -> str:
    """What a loop of that task is judged by."""
    return "mae" if task == "regression" else "accuracy"


def drawn(told: Quality, task: str) -> dict[str, object]:
    """All drawings of the page."""
    main = main_metric(task)
    most = max((age.count for age in told.waiting), default=0) or 1
    of_model = [watch for watch in told.watched if watch.model_key == told.model_key]
    return {
        "history": over_time(told.history, main, of_model),
        "drifts": drifts(told.watched, main),
        "calibration": calibration(told.calibration),
        "matrix": None if task == "regression" else matrix(told.confusion),
        "waiting": [
            (age.up_to, age.count, round(100 * age.count / most, 1)) for age in told.waiting
        ],
    }


def _told(value: float, main: str) -> str:
    return percent(value) if main == "accuracy" else words(value)


def _across(value: float, first: float, last: float) -> float:
    return _part((value - first) / (last - first) if last > first else 1.0)


def _part(part: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * part, 1)


def _up(part: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * part, 1)


def _path(places: Sequence[tuple[float, float]]) -> str:
    (x, y), *others = places
    # A line of one point would not be seen.
    return f"M{x - 1} {y}" + "".join(f"L{x} {y}" for x, y in [(x, y), *others])
