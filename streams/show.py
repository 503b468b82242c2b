"""How values look: tables and lines for people, plain values for programs.  It reads nothing and decides nothing."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, wrap_file
from rich.table import Table
from rich.text import Text

from streams.core.failure import pushes
from streams.core.topics import SUFFIXES

if TYPE_CHECKING:
    from streams.config import SettingField
    from streams.core.events import Snapshot
    from streams.core.story import Moment
    from streams.core.topics import TopicSpec
    from streams.corrections import Effect
    from streams.operate import Letter, Place, Report, Told, Worker
    from streams.trace import Story
    from streams.versions import Affected

SHORT = 120
MOST_MODELS = 20
GAUGES = (
    *("awaited", "behind", "copies", "copies_behind", "models", "model_bytes", "parked"),
    *("pending", "pending_reviews", "rebuilding", "skipped", "undelivered", "unsaved"),
)
"""Numbers of a heartbeat that tell how much there is: their change per second says little."""
MOMENT_STYLES = {"prediction": "cyan", "feedback": "bold", "example": "green", "dead letter": "red"}
STATE_STYLES = {"running": "green", "stopped": "dim", "silent": "bold red"}


def jsonable(value: Any) -> Any:
    """A value as JSON can hold it: bytes as text where they are text, else as base64."""
    match value:
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"base64": base64.b64encode(value).decode()}
        case Mapping():
            return {str(name): jsonable(item) for name, item in value.items()}
        case list() | tuple() if hasattr(value, "_asdict"):
            return jsonable(value._asdict())
        case list() | tuple():
            return [jsonable(item) for item in value]
        case str() | int() | float() | bool() | None:
            return value
        case _:  # Avro's logical types: dates, decimals, ids
            return str(value)


def table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table; the columns with numbers are set to the right."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    right = set(numbers)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def row(made: Table, *cells: str | Text) -> None:
    """Adds a row of text as it is: rich would take the brackets in an id or a reason for its markup."""
    made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))


def time_of(ms: int) -> str:
    """A time in milliseconds, as people write it."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def number(value: float) -> str:
    """A number, as short as it can be without losing what matters."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def report(told: Report) -> Table:
    """The workers of a loop, one line a partition."""
    numeric = ("lag", "version", "pending", "per s")
    made = table("role", "worker", "state", "partition", *numeric, "notes", numbers=numeric)
    for worker in told.workers:
        status, state = worker.status, Text(worker.state, STATE_STYLES.get(worker.state, "yellow"))
        if worker.state == "silent":
            state.append(f" for {worker.silent_s:.0f} s")
        head: list[str | Text] = [status.role, status.worker, state]
        tail = [
            _versions(status.versions),
            _pending(worker),
            _rate(worker),
            "; ".join(status.notes),
        ]
        lags = [(f"{place.topic}-{place.partition}", _lag(place)) for place in worker.places]
        for i, (place, lag) in enumerate(lags or [("none", "")]):
            row(made, *(head if i == 0 else [""] * 3), place, lag, *(tail if i == 0 else [""] * 4))
    return made


def _lag(place: Place) -> str:
    since = "" if place.behind_s is None else f" ({duration(place.behind_s)})"
    return f"{place.lag:,}{since}"


def duration(seconds: float) -> str:
    """A time span, as short as it can be."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def models(told: Report) -> Table:
    """The models of a loop, one line each; of very many the ones whose snapshot is the oldest."""
    made = table("model", "version", "snapshot", numbers=["version", "snapshot"])
    oldest_first = sorted(
        told.models, key=lambda each: (each.snapshot_age_s is not None, -(each.snapshot_age_s or 0))
    )
    for each in oldest_first[:MOST_MODELS]:
        age = each.snapshot_age_s
        stored = "none yet" if age is None else f"{duration(age)} old"
        row(made, each.model_key or "(the only one)", f"{each.version:,}", stored)
    if len(oldest_first) > MOST_MODELS:
        row(made, f"and {len(oldest_first) - MOST_MODELS:,} more", "", "")
    return made


def totals(told: Report) -> str:
    """What waits in all, in one sentence."""
    of = told.totals
    oldest = (
        "" if of.oldest_waiting_s is None else f", the oldest for {duration(of.oldest_waiting_s)}"
    )
    rebuilt = f"; {of.rebuilds:,} models rebuilt" if of.rebuilds else ""
    pending = (
        f"{of.pending:,} predictions wait for a verdict, {of.pending_reviews:,} of them asked about"
    )
    return f"{of.lag:,} records to be read; {pending}{oldest}{rebuilt}"


def unread(told: Report) -> str:
    """What nobody reads, in one sentence."""
    names = ", ".join(f"{topic}-{partition}" for topic, partition in told.unread)
    return (
        f"nobody reads {names}: start the roles with `counterpoint up`, or `counterpoint run ROLE`"
    )


def _versions(versions: Mapping[str, int]) -> str:
    if len(versions) <= 3:
        return " ".join(f"{key}:{v}" if key else str(v) for key, v in sorted(versions.items()))
    return f"{len(versions)} models, {min(versions.values())} to {max(versions.values())}"


def _pending(worker: Worker) -> str:
    """A joiner's predictions that wait for a verdict, or the log that a predictor has still to follow."""
    numbers = worker.status.numbers
    if "pending" in numbers:
        return f"{numbers['pending']:,.0f}"
    behind = numbers.get("behind", 0)
    return f"{behind:,.0f} behind" if behind else ""


def _rate(worker: Worker) -> str:
    rates = {
        name.removesuffix("_per_s"): rate
        for name, rate in sorted(worker.status.numbers.items())
        if name.endswith("_per_s") and rate
    }
    return " ".join(f"{name} {number(rate)}" for name, rate in rates.items() if name not in GAUGES)


def letters(found: Sequence[Letter]) -> Table:
    """Dead letters, one line each."""
    made = table("id", "failed at", "role", "stage", "from", "event", "reason")
    for each in found:
        letter = each.letter
        reason = letter.reason if each.retried is None else f"[{each.retried}] {letter.reason}"
        row(
            made,
            each.id,
            time_of(letter.failed_at),
            letter.role,
            letter.stage,
            f"{letter.topic}-{letter.partition}-{letter.offset}",
            letter.event_id or "",
            reason,
        )
    return made


def specs(found: Iterable[TopicSpec]) -> Table:
    """Topics as they are to be."""
    made = table("topic", "partitions", "cleanup", "retention", numbers=["partitions"])
    for spec in found:
        if spec.own:
            retention = spec.config.get("retention.ms", "")
            kept = (
                "unlimited"
                if retention == "-1"
                else f"{int(retention) / 86_400_000:g} days"
                if retention
                else ""
            )
            row(made, spec.name, str(spec.partitions), spec.config.get("cleanup.policy", ""), kept)
        else:
            row(made, spec.name, "", "yours", "yours")
    return made


def snapshots(found: Iterable[Snapshot]) -> Table:
    """Stored models, one line each."""
    numeric = ("version", "learned", "bytes")
    made = table("model", *numeric, "metrics", "stored at", "snapshot", numbers=numeric)
    for each in found:
        metrics = " ".join(
            f"{name} {number(value)}"
            for name, value in sorted(each.metrics.items())
            if "." not in name
        )
        counts = [f"{count:,}" for count in (each.version, each.learned, each.size)]
        row(
            made,
            each.model_key or "(the only one)",
            *counts,
            metrics,
            time_of(each.created_at),
            each.snapshot_id,
        )
    return made


def effects(found: Iterable[Effect]) -> Table:
    """What a change does to each model, one line each: before, and after it."""
    made = table("model", "sources", "learned", "metrics", numbers=["sources"])
    for each in found:
        (was, becomes), (before, after) = each.learned, each.metrics
        metrics = " ".join(
            f"{name} {number(before[name])} → {number(after[name])}"
            for name in sorted(before.keys() & after.keys())
            if "." not in name
        )
        learned = f"{was:,} → {becomes:,}"
        row(made, each.model_key or "(the only one)", f"{each.sources:,}", learned, metrics)
    return made


def affected(found: Iterable[Affected]) -> Table:
    """Predictions, one line each."""
    made = table("event", "version", "label", "confidence", "at", "verdict", numbers=["version"])
    for each in found:
        said = each.prediction
        confidence = "" if said.confidence is None else number(said.confidence)
        row(
            made,
            said.event_id,
            f"{said.model_version:,}",
            text(said.label),
            confidence,
            time_of(each.predicted_at),
            "still counts" if each.is_open else "comes too late",
        )
    return made


def settings(found: Iterable[SettingField]) -> Table:
    """Settings, one line each."""
    made = table("name", "value", "default", "help")
    for each in found:
        row(made, *each)
    return made


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr while something takes its time, if anybody can see it; the function given changes its words."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda words: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(what, total=None)
        (task,) = bar.tasks

        def say(words: str) -> None:
            task.description = words  # drawn ten times a second, however often it changes

        yield say


@contextmanager
def reading(file: BinaryIO) -> Iterator[tuple[BinaryIO, Callable[[int], None]]]:
    """The file, with a progress bar on stderr for as long as it is read; the function given takes the events so far.

    They are only shown for a pipe, of which nobody knows the length.
    """
    console = Console(stderr=True)
    if file.isatty() or not console.is_terminal:  # who types does not need to be told
        yield file, lambda count: None
    elif file.seekable() and (size := os.fstat(file.fileno()).st_size):
        with wrap_file(file, size, description="sending", console=console, transient=True) as bar:
            yield bar, lambda count: None
    else:
        with waiting("sending") as say:
            yield file, lambda count: say(f"sending: {count:,} events")


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """A progress bar on stderr, if anybody can see it; the function given takes what is done, and the part of it, 0 to 1."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, part: None
        return
    with Progress(console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, part: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0)
            bar.update(tasks[what], completed=part)

        yield show


def story(told: Story) -> Table:
    """An event's story, one line a moment."""
    made = table("time", "what", "where", "", numbers=())
    for each in told.moments:
        what = Text(each.kind, MOMENT_STYLES.get(each.kind, ""))
        own = each.topic.removeprefix(f"{told.loop}.")
        topic = own if own in SUFFIXES else each.topic
        where = f"{topic}-{each.partition}-{each.offset}"
        row(made, f"{time_of(each.at)}.{each.at % 1000:03}", what, where, _says(each))
    row(made, "today", Text("the model"), "", pairs(told.today))
    row(made, "", Text("explanation"), "", explanation(told.explanation))
    if told.failure is not None:
        row(made, "", Text("why it failed", "red"), "", "; ".join(told.failure.words()))
    return made


def explanation(told: Mapping[str, Any]) -> str:
    """Why a model said something, on one line."""
    if "why" in told:
        return pairs(told)
    speaks = "" if told["towards"] is None else f" towards {text(told['towards'])}"
    against = "" if told["against"] is None else f" against {text(told['against'])}"
    terms = [pushes(each) for each in told["contributions"]]
    rest = [f"{name} {told[name]:+.3g}" for name in ("others", "bias")]
    sum_up = f"{told['unit']} {told['total']:.3g}{speaks}{against}"
    return f"{told['method']}, by the {told['by']}: {sum_up} = {', '.join([*terms, *rest])}"


def _says(moment: Moment) -> str:
    says = {name: value for name, value in moment.says.items() if value is not None and value != []}
    # Why the prediction was made has a line of its own.
    for name in ("told", "explanation", "basis"):
        says.pop(name, None)
    for name in ("deadline", "given_at", "occurred_at", "predicted_at", "answered_at"):
        if name in says:
            says[name] = time_of(says[name])
    if says.pop("repeats", False):
        return f"again, and not counted: {pairs(says)}"
    return pairs(says)


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values on one line."""
    return " ".join(f"{name}={_cut(text(value))}" for name, value in values.items())


def fields(values: Mapping[str, Any]) -> Table:
    """A record, one line a field."""
    made = table("field", "value")
    for name, value in values.items():
        row(made, name, text(value))
    return made


def text(value: Any) -> str:
    """A value on one line."""
    plain = jsonable(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def line(told: Told) -> str:
    """A record on one line; long values are cut."""
    where = f"{told.partition}-{told.offset}"
    kind = told.kind.rpartition(".")[2]
    return f"{time_of(told.timestamp)} {where} {told.key or ''} {kind} {pairs(told.fields)}"


def _cut(value: str) -> str:
    return value if len(value) <= SHORT else f"{value[:SHORT]}…"
