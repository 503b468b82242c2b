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
from rich.progress import Progress, TaskID, wrap_file
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from streams.config import SettingField
    from streams.core.events import Snapshot
    from streams.core.topics import TopicSpec
    from streams.operate import Letter, Report, Told, Worker

SHORT = 120
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
        head = [status.role, status.worker, state]
        tail = [
            _versions(status.versions),
            _pending(worker),
            _rate(worker),
            "; ".join(status.notes),
        ]
        lags = [(f"{place.topic}-{place.partition}", f"{place.lag:,}") for place in worker.places]
        for i, (place, lag) in enumerate(lags or [("none", "")]):
            made.add_row(
                *(head if i == 0 else [""] * 3), place, lag, *(tail if i == 0 else [""] * 4)
            )
    return made


def unread(told: Report) -> str:
    """What nobody reads, in one sentence; nothing when all is read."""
    if not told.unread:
        return ""
    names = ", ".join(f"{topic}-{partition}" for topic, partition in told.unread)
    return (
        f"nobody reads {names}: start the roles with `counterpoint up`, or `counterpoint run ROLE`"
    )


def _versions(versions: Mapping[str, int]) -> str:
    if len(versions) <= 3:
        return " ".join(f"{key}:{v}" if key else str(v) for key, v in sorted(versions.items()))
    return f"{len(versions)} models, {min(versions.values())} to {max(versions.values())}"


def _pending(worker: Worker) -> str:
    numbers = worker.status.numbers
    return next((number(numbers[name]) for name in ("pending", "behind") if name in numbers), "")


def _rate(worker: Worker) -> str:
    ends = [name for name in worker.status.numbers if name.endswith("_per_s")]
    return " ".join(f"{name[:-6]} {worker.status.numbers[name]:,.0f}" for name in sorted(ends))


def letters(found: Sequence[Letter]) -> Table:
    """Dead letters, one line each."""
    made = table("id", "failed at", "role", "stage", "from", "event", "reason")
    for each in found:
        letter = each.letter
        reason = letter.reason if each.retried is None else f"[{each.retried}] {letter.reason}"
        made.add_row(
            each.id,
            time_of(letter.failed_at),
            letter.role,
            letter.stage,
            f"{letter.topic}-{letter.partition}-{letter.offset}",
            letter.event_id or "",
            Text(reason),
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
            made.add_row(
                spec.name, str(spec.partitions), spec.config.get("cleanup.policy", ""), kept
            )
        else:
            made.add_row(spec.name, "", "yours", "yours")
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
        made.add_row(
            each.model_key or "(the only one)",
            *counts,
            metrics,
            time_of(each.created_at),
            each.snapshot_id,
        )
    return made


def settings(found: Iterable[SettingField]) -> Table:
    """Settings, one line each."""
    made = table("name", "value", "default", "help")
    for each in found:
        made.add_row(*map(Text, each))
    return made


@contextmanager
def reading(file: BinaryIO) -> Iterator[BinaryIO]:
    """The file, with a progress bar on stderr for as long as it is read; of a pipe nobody knows the length."""
    size = os.fstat(file.fileno()).st_size if file.seekable() else 0
    if not size:
        yield file
        return
    with wrap_file(
        file, size, description="sending", console=Console(stderr=True), transient=True
    ) as watched:
        yield watched


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """A progress bar on stderr; the function given takes what is being done, and the part of it that is, 0 to 1."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, part: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0)
            bar.update(tasks[what], completed=part)

        yield show


def fields(values: Mapping[str, Any]) -> Table:
    """A record, one line a field."""
    made = table("field", "value")
    for name, value in values.items():
        made.add_row(name, Text(text(value)))
    return made


def text(value: Any) -> str:
    """A value on one line."""
    plain = jsonable(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def line(told: Told) -> str:
    """A record on one line; long values are cut."""
    pairs = (f"{name}={_cut(text(value))}" for name, value in told.fields.items())
    where = f"{told.partition}-{told.offset}"
    kind = told.kind.rpartition(".")[2]
    return f"{time_of(told.timestamp)} {where} {told.key or ''} {kind} {' '.join(pairs)}"


def _cut(value: str) -> str:
    return value if len(value) <= SHORT else f"{value[:SHORT]}…"
