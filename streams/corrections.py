"""What an operator does about verdicts that should not count: takes them out, or puts them back.

What is written names each source by its place: the log alone says what a model is.  Who reads the log here reads all of
it, outside of any consumer group.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any, NamedTuple
from uuid import uuid4

from confluent_kafka import Message, TopicPartition

from streams import bootstrap, operate
from streams.config import Settings
from streams.core import exclusions
from streams.core.errors import BadRecord, Conflict, NotFound, Unavailable
from streams.core.events import (
    EXCLUDE,
    Example,
    Exclusion,
    Snapshot,
    Source,
)
from streams.core.exclusions import NOWHERE, Places
from streams.core.lineage import Start
from streams.core.topics import EXAMPLES, MODELS
from streams.engine import reader, snapshots
from streams.engine.log import CONTROLS, Log, control_kind
from streams.engine.rebuild import Rebuilder, Target
from streams.loop import Loop

PUBLISHED_S = 300.0
"""How long a rebuilt model is waited for."""
Say = Callable[[str], None]


class Choice(NamedTuple):
    """Which sources: those for which all holds that is not None.

    Attributes:
        reviewer: Who gave the verdict.
        channel: How it came.
        between: When it came, by the broker's clock, in milliseconds: from, and up to.
        feedback: Its id.
        after: The version after which it was learned.
        model_key: The model that learned it.
    """

    reviewer: str | None = None
    channel: str | None = None
    between: tuple[int, int] | None = None
    feedback: str | None = None
    after: int | None = None
    model_key: str | None = None

    def holds(self, source: Source, example: Example, version: int, time_ms: int) -> bool:
        """Whether a source that an example was learned from is one of them."""
        given_at = time_ms if example.answered_at is None else example.answered_at
        return (
            self.reviewer in (None, source.reviewer)
            and self.channel in (None, source.channel)
            and self.feedback in (None, source.feedback_id)
            and self.model_key in (None, example.model_key)
            and (self.after is None or version > self.after)
            and (self.between is None or self.between[0] <= given_at <= self.between[1])
        )

    def __str__(self) -> str:
        words = self._asdict()
        if self.between is not None:
            words["between"] = " and ".join(map(words_of, self.between))
        return ", ".join(f"{name}={value}" for name, value in words.items() if value is not None)


def words_of(time_ms: int) -> str:
    """A time as people write it."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


def time_of(text: str) -> int:
    """Milliseconds since the epoch, of a time in ISO 8601; UTC where it names no zone.

    >>> time_of("1970-01-01T00:00:01")
    1000

    Raises:
        NotFound: It is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{text!r} is no time: write one such as 2026-11-24T17:00:00"
        raise NotFound(message) from error
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


class Change(NamedTuple):
    """What is to change in one model.

    Attributes:
        partition: Its partition of the log.
        sources: What goes out, or comes back.
        before: What is out now.
        after: What is out then.
        end: The end of the log, as it was read.
    """

    partition: int
    sources: Places
    before: Places
    after: Places
    end: int


class Effect(NamedTuple):
    """What a change does to one model: the lessons it rests on, and its metrics on the answers that count."""

    model_key: str
    sources: int
    learned: tuple[int, int]
    metrics: tuple[Mapping[str, float], Mapping[str, float]]

    def as_json(self) -> dict[str, Any]:
        """The effect in plain values."""
        before, after = self.metrics
        return {
            "model_key": self.model_key,
            "sources": self.sources,
            "learned": {"before": self.learned[0], "after": self.learned[1]},
            "metrics": {"before": dict(before), "after": dict(after)},
        }


class Opened(NamedTuple):
    """The log of a loop, opened."""

    parts: bootstrap.Parts
    log: Log
    lineage: Mapping[int, Start]
    fixed: Mapping[str, Places]


def open_log(loop: Loop, settings: Settings) -> Opened:
    """Opens the log of a loop, to be read.

    Raises:
        NotFound: The loop's topics are not there.
        Conflict: The log's newest definition is not that of this code.
        Unavailable: The broker does not answer.
    """
    operate.require(loop, settings, EXAMPLES, MODELS)
    parts = bootstrap.Parts(loop, settings)
    opened = parts.log(parts.define())
    opening = opened.open(scores=False)
    fixed = {key: fold.head.fixed for key, fold in opening.folds.items()}
    whole = {partition: opened.lineage_of(partition) for partition in opening.lineage}
    return Opened(parts, opened, whole, fixed)


def _changes(opened: Opened, kind: str, choice: Choice) -> dict[str, Change]:
    """By model key, what would change.

    Raises:
        NotFound: No source of this choice was ever learned, or all of them are out (in) already.
        Conflict: They came with a model that was continued.
    """
    if choice.after is not None:
        key_of(opened.parts.loop, choice.model_key)
    chosen: dict[str, list[tuple[str, int, int]]] = {}
    seen: set[tuple[str, str, int, int]] = set()
    partitions: dict[str, int] = {}
    ends: dict[int, int] = {}
    out: dict[str, Places] = {}
    for message, record in records(opened):
        key, version = record.model_key, (message.offset() or 0) + 1
        partitions[key], ends[message.partition() or 0] = message.partition() or 0, version
        if isinstance(record, Exclusion):
            fixed = opened.fixed.get(key, NOWHERE)
            out[key] = exclusions.after(out.get(key, NOWHERE), record, fixed)
            continue
        begun = opened.lineage[partitions[key]]
        for source in record.sources:
            place = source.topic, source.partition, source.offset
            is_new, is_lesson = (key, *place) not in seen, record.label is not None
            seen.add((key, *place))
            holds = choice.holds(source, record, version, message.timestamp()[1])
            is_ours = version > begun.learn_from or begun.needs_snapshot
            if is_new and is_lesson and holds and is_ours:
                chosen.setdefault(key, []).append(place)
    if not chosen:
        message_ = f"no model has learned anything of {choice}: nothing was recorded"
        raise NotFound(message_)
    changes: dict[str, Change] = {}
    for key, found in chosen.items():
        before, fixed = out.get(key, NOWHERE), opened.fixed.get(key, NOWHERE)
        narrow = exclusions.minus if kind == EXCLUDE else exclusions.common
        named = exclusions.minus(narrow(exclusions.places(found), before), fixed)
        if named:
            change = exclusions.union if kind == EXCLUDE else exclusions.minus
            partition = partitions[key]
            after = change(before, named)
            changes[key] = Change(partition, named, before, after, ends[partition])
    if not changes:
        raise _nothing(kind, choice, chosen, opened)
    return changes


def _nothing(
    kind: str, choice: Choice, chosen: Mapping[str, list[tuple[str, int, int]]], opened: Opened
) -> Exception:
    for key, found in chosen.items():
        if exclusions.common(exclusions.places(found), opened.fixed.get(key, NOWHERE)):
            return Conflict(
                f"what was learned of {choice} came with a model that was continued, and cannot be taken out of it: "
                "adopt with --refold first"
            )
    state = "out already" if kind == EXCLUDE else "not out"
    return NotFound(f"all that was learned of {choice} is {state}: nothing was recorded")


def key_of(loop: Loop, model_key: str | None) -> str:
    """The model that versions are about.

    Raises:
        NotFound: The loop has several models and none is named.
    """
    if loop.model_key is not None and model_key is None:
        message = f"{loop.name} has several models, each with versions of its own: say --model-key"
        raise NotFound(message)
    return model_key or ""


def records(opened: Opened) -> Iterator[tuple[Message, Example | Exclusion]]:
    """Everything in the log that a model is made of."""
    the_log = opened.log
    for message in reader.to_end(the_log.kafka, the_log.examples):
        kind = control_kind(message.headers())
        try:
            if kind is None:
                yield message, the_log.decode_as(Example, message.value())
            elif kind in CONTROLS:
                yield message, the_log.decode_as(Exclusion, message.value())
        except BadRecord:  # the learner has buried it
            continue


def preview(loop: Loop, settings: Settings, kind: str, choice: Choice) -> list[Effect]:
    """What a change would do, by folding the log both ways; nothing is recorded."""
    opened = open_log(loop, settings)
    effects = []
    for key, change in _changes(opened, kind, choice).items():
        maker = Rebuilder(opened.log, key, change.partition, opened.lineage[change.partition])
        now, then = (
            maker.rebuild(Target(change.end, out)).fold for out in (change.before, change.after)
        )
        metrics = tuple(f.scores.values() if f.scores is not None else {} for f in (now, then))
        count = exclusions.count(change.sources)
        effects.append(Effect(key, count, (now.learned, then.learned), (metrics[0], metrics[1])))
    return effects


class Recorded(NamedTuple):
    """What was recorded for one model, and the version whose model is the first without (or with) it."""

    model_key: str
    sources: int
    version: int
    published: bool

    def as_json(self) -> dict[str, Any]:
        """In plain values."""
        return self._asdict()


def record(
    loop: Loop,
    settings: Settings,
    kind: str,
    choice: Choice,
    *,
    who: str | None = None,
    why: str = "",
    say: Say = lambda words: None,
) -> list[Recorded]:
    """Takes sources out, or puts them back; waits for the models if a learner is there to make them.

    Raises:
        NotFound: There is nothing to change; nothing was recorded.
        Unavailable: The learner has not published the models in time.
    """
    opened = open_log(loop, settings)
    changes = _changes(opened, kind, choice)
    the_log, outputs = opened.log, opened.parts.outputs
    begin = operate.ends(the_log.kafka, [the_log.models])
    versions: dict[str, int] = {}
    for key, change in changes.items():
        made = Exclusion(
            exclusion_id=uuid4().hex,
            kind=kind,
            model_key=key,
            sources=exclusions.written(change.sources),
            rule=str(choice),
            who=who or getpass.getuser(),
            why=why,
            asked_at=int(time() * 1000),
        )
        versions[key] = the_log.exclude(made, change.partition, outputs) + 1
    is_live = any(
        worker.status.role == "learner" and worker.state not in ("stopped", "silent")
        for worker in operate.status(loop, settings).workers
    )
    if is_live:
        say(f"waiting for the learner to rebuild {_models(versions)}")
        _await_published(the_log, begin, versions)
    return [
        Recorded(key, exclusions.count(change.sources), versions[key], is_live)
        for key, change in changes.items()
    ]


def _models(keys: Iterable[str]) -> str:
    names = sorted(keys)
    return "the model" if names == [""] else ", ".join(f"model {name!r}" for name in names)


def _await_published(
    the_log: Log, begin: Mapping[tuple[str, int], int], versions: Mapping[str, int]
) -> None:
    """Waits until a snapshot of each of these versions, or a later one, is there."""
    missing, deadline = dict(versions), monotonic() + PUBLISHED_S
    consumer = reader.group_less(the_log.kafka)
    try:
        consumer.assign([TopicPartition(*where, offset) for where, offset in begin.items()])
        while missing:
            message = consumer.poll(0.2)
            if monotonic() > deadline:
                words = (
                    f"it is recorded, and {_models(missing)} is not rebuilt within {PUBLISHED_S:g} s: "
                    "see the learner with `counterpoint status`"
                )
                raise Unavailable(words)
            if message is None or message.error() is not None or message.value() is None:
                continue
            where = snapshots.parse_key(message.key() or b"")
            if where.chunk is None and where.model_key in missing:
                manifest = the_log.decode_as(Snapshot, message.value())
                if manifest.version >= missing[where.model_key]:
                    del missing[where.model_key]
    finally:
        consumer.close()
