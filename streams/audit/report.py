"""What an audit is given, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple, TypeAlias

Fields: TypeAlias = Mapping[str, Any]
NAMED = 5
"""So many offending ids a finding names."""

CHECKS = (
    (1, "inputs without a prediction or a dead letter"),
    (1, "unreadable inputs without a dead letter"),
    (1, "predictions of inputs that are not there"),
    (1, "feedback without an outcome or a dead letter"),
    (1, "feedback with several outcomes"),
    (1, "outcomes of feedback that is not there"),
    (1, "events that were reviewed twice"),
    (2, "feedback learned more than once"),
    (2, "feedback learned without an example"),
    (2, "feedback with another outcome than its example's"),
    (2, "feedback learned at another version than its example's"),
    (2, "feedback in examples from several places"),
    (2, "examples whose feedback was never learned"),
    (2, "examples that rest on feedback that is not there"),
    (2, "sources that a stored model and its log do not share"),
    (3, "stored models that answer otherwise than their log"),
    (3, "stored models of versions that are not in the log"),
    (3, "models whose snapshots cannot be used"),
    (5, "predictions that their version does not give again"),
    (5, "predictions by versions that are not in the log"),
)
"""What is looked for, with the promise that it would break; besides, records of each topic that nobody can read."""


class Stored(NamedTuple):
    """The newest stored model of a key.

    Attributes:
        version: Its version.
        sources: What it has learned from: by topic, without the loop's name, and partition, the offsets.
        model: The River model.
    """

    version: int
    sources: Mapping[tuple[str, int], Iterable[int]]
    model: Any


class Finding(NamedTuple):
    """Something that is off.

    Attributes:
        promise: Which of the five promises it breaks.
        what: What is off, in words.
        times: How often.
        examples: The first few offenders.
    """

    promise: int
    what: str
    times: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        named = ", ".join(self.examples)
        return f"promise {self.promise}: {self.times} {self.what} ({named}{', …' * (self.times > len(self.examples))})"


@dataclass(frozen=True, slots=True)
class Report:
    """What was counted, and what is off."""

    counts: Mapping[str, int]
    findings: Sequence[Finding]
    notes: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Nothing is off."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        found = [finding._asdict() for finding in self.findings]
        return {"ok": self.ok, **self.counts, "findings": found, "notes": list(self.notes)}

    def __str__(self) -> str:
        width = max(map(len, self.counts), default=0)
        lines = [f"{name:<{width}}  {count:>12,}" for name, count in self.counts.items()]
        lines += ["", *self._table(), ""]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"OFF: {finding}" for finding in self.findings] or [
            "ok: nothing lost, each verdict learned once"
        ]
        return "\n".join(lines)

    def _table(self) -> list[str]:
        off = {(finding.promise, finding.what): finding.times for finding in self.findings}
        looked_for = list(dict.fromkeys([*CHECKS, *off]))
        width = max(len(what) for _, what in looked_for)
        lines = [f"promise  {'looked for':<{width}}  {'found':>12}"]
        for promise, what in sorted(looked_for, key=lambda check: check[0]):
            lines.append(f"{promise:>7}  {what:<{width}}  {off.get((promise, what), 0):>12,}")
        return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is audited, and how its bytes are read.

    Attributes:
        kafka: Connection settings, in librdkafka's names.
        topics: Suffix (inputs, predictions, ...) to full name.
        decode: A record's bytes to (schema name, fields); raises ``unreadable``.
        read_input: (key, value) of an input to its event id; raises ``unreadable``.
        unreadable: What those raise for bytes that are no record.
        unlearned: Makes the model that a lineage starts from; given the id of its base, if it has one.
        stored: By model key, the newest stored model.
        unusable: By model key, why its stored model cannot be used.
        replays: Whether folding the log gives the stored model, to the last bit.
        rounds_alike: Whether this machine rounds as those that stored models; if not, the last bits tell nothing.
        known_ms: For so long after a feedback its id is known; a copy that comes later is another feedback.
        waits_ms: For so long a feedback may wait for others to agree, though nothing is under way; None: none does.
    """

    kafka: Mapping[str, Any]
    topics: Mapping[str, str]
    decode: Callable[[bytes], tuple[str, Fields]]
    read_input: Callable[[bytes | None, bytes | None], str]
    unreadable: type[Exception]
    unlearned: Callable[[str | None], Any]
    stored: Mapping[str, Stored]
    unusable: Mapping[str, str] = field(default_factory=dict)
    replays: bool = True
    rounds_alike: bool = True
    known_ms: float = inf
    waits_ms: int | None = None
