"""The records of a loop, one class per schema in ``schemas/``, field for field.

Named tuples and not frozen dataclasses: they are made several times per event on the hot paths, and a tuple
costs a fifth of a frozen dataclass.  They hold what the wire holds; the decisions about them live elsewhere.
Times are the broker's or a person's clock in milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

Value: TypeAlias = bool | int | float | str | None
"""A feature's value."""
Label: TypeAlias = bool | int | float | str
"""What a model is taught: a class, or the number of a regression."""
Features: TypeAlias = Mapping[str, Value]

AUTO, REVIEW = "auto", "review"
ACCEPT, CORRECT, REJECT, ABSTAIN, RETRACT = "accept", "correct", "reject", "abstain", "retract"
VERDICTS = (ACCEPT, CORRECT, REJECT, ABSTAIN, RETRACT)

LEARNED, RETRACTED = "learned", "retracted"
ABSTAINED, NOTED, DUPLICATE = "abstained", "noted", "duplicate"
SUPERSEDED, EXPIRED, ORPHANED = "superseded", "expired", "orphaned"
OUTVOTED, NO_CONSENSUS = "outvoted", "no-consensus"

FRESH, REFOLD, CONTINUE = "fresh", "refold", "continue"
EXCLUDE, INCLUDE = "exclude", "include"


class Input(NamedTuple):
    """A raw event, to be predicted."""

    event_id: str
    features: Features
    text: str | None = None
    occurred_at: int | None = None


class Contribution(NamedTuple):
    """How far one feature pushed a prediction; ``part`` names what was made of it, or asked about it in a tree."""

    feature: str
    value: Value
    weight: float
    part: str | None = None


class Basis(NamedTuple):
    """What the contributions to a prediction stand on: ``bias``, all of them and ``others`` add up to what was said.

    See ``explain`` for the methods, units and what positive weights speak for.
    """

    method: str
    unit: str
    towards: Label | None
    against: Label | None
    bias: float
    others: float


class Prediction(NamedTuple):
    """The answer of one model version to one event, with everything that it rests on."""

    event_id: str
    label: Label | None
    scores: Mapping[str, float]
    confidence: float | None
    features: Features
    text: str | None
    occurred_at: int | None
    model_key: str
    model_version: int
    route: str
    reason: str
    probability: float
    explanation: list[Contribution] | None = None
    basis: Basis | None = None


class Review(NamedTuple):
    """A request for a person's verdict on the first prediction of an event.

    It is for as many people as ``opinions`` tells; or, where those disagree, for one ``senior``.
    """

    event_id: str
    label: Label | None
    scores: Mapping[str, float]
    confidence: float | None
    features: Features
    text: str | None
    occurred_at: int | None
    model_key: str
    model_version: int
    reason: str
    probability: float
    explanation: list[Contribution] | None
    priority: float
    requested_at: int
    deadline: int
    basis: Basis | None = None
    opinions: int = 1
    senior: bool = False


class Feedback(NamedTuple):
    """A verdict on an event: of a person, or of a label topic; a ``senior``'s decides where others disagree."""

    feedback_id: str
    event_id: str
    verdict: str
    label: Label | None = None
    text: str | None = None
    reviewer: str | None = None
    channel: str = "client"
    origin: str | None = None
    comment: str | None = None
    given_at: int | None = None
    senior: bool = False


class Source(NamedTuple):
    """What an example rests on, by position: a feedback, a prediction left unanswered, a line of history."""

    topic: str
    partition: int
    offset: int
    feedback_id: str
    reviewer: str | None
    channel: str


class Corrected(NamedTuple):
    """An earlier source, by position, that is not to count any more."""

    topic: str
    partition: int
    offset: int


class Example(NamedTuple):
    """A labelled event, to be learned once: the features as predicted on, and the original answer beside the true one.

    Without a label it teaches nothing, and takes back what it ``corrects``.
    """

    event_id: str
    model_key: str
    features: Features
    label: Label | None
    weight: float
    sources: list[Source]
    predicted: Label | None
    scores: Mapping[str, float]
    model_version: int
    route: str
    reason: str
    probability: float
    predicted_at: int | None
    answered_at: int | None
    corrects: Sequence[Corrected] = ()


class Excluded(NamedTuple):
    """Sources of one partition; ``offsets`` is a serialized 64-bit roaring bitmap."""

    topic: str
    partition: int
    offsets: bytes


class Exclusion(NamedTuple):
    """Takes sources out of what a model has learned (``exclude``), or puts them back (``include``)."""

    exclusion_id: str
    kind: str
    model_key: str
    sources: list[Excluded]
    rule: str
    who: str
    why: str
    asked_at: int


class Define(NamedTuple):
    """Starts a lineage in the log: from here on, this definition of the model makes its versions."""

    loop: str
    definition: str
    description: str
    mode: str
    base: str | None
    replays: bool
    deaf: bool
    river: str
    python: str
    who: str
    why: str


class Outcome(NamedTuple):
    """What became of one feedback."""

    event_id: str
    feedback_id: str
    status: str
    detail: str | None
    partition: int
    offset: int
    model_key: str | None
    model_version: int | None


class Check(NamedTuple):
    """The model's answers on the probe set at a version, as a digest: equal or not, to the last bit."""

    version: int
    digest: str


class Snapshot(NamedTuple):
    """The manifest of a stored model state; written after its chunks."""

    snapshot_id: str
    loop: str
    model_key: str
    version: int
    definition: str
    defined_at: int
    floor: int
    topic_id: str
    partition: int
    chunks: int
    size: int
    signature: bytes
    learned: int
    metrics: Mapping[str, float]
    checks: list[Check]
    parent: str | None
    river: str
    created_at: int


class Chunk(NamedTuple):
    """One piece of a stored model state."""

    snapshot_id: str
    index: int  # type: ignore[assignment]  # the field is the wire's; tuple.index is not missed
    data: bytes


class Drift(NamedTuple):
    """An alarm of a drift detector: ``error`` is the mean of the newest original answers'.

    ``at`` is when the verdict was given that raised it.
    """

    detector: str
    model_version: int
    learned: int
    error: float
    at: int | None


class Score(NamedTuple):
    """Progressive metrics of a model key: each example was scored by its original prediction before it was learned.

    ``drifts`` are the newest alarms, oldest first; None where no detector watches.
    """

    model_key: str
    model_version: int
    learned: int
    metrics: Mapping[str, float]
    scored_at: int
    drifts: Sequence[Drift] | None = None


class Position(NamedTuple):
    """How far a worker has read a partition."""

    topic: str
    partition: int
    position: int
    end: int
    committed: int = 0
    topic_id: str = ""


class Status(NamedTuple):
    """A worker's heartbeat."""

    loop: str
    role: str
    worker: str
    host: str
    pid: int
    state: str
    versions: Mapping[str, int]
    positions: list[Position]
    numbers: Mapping[str, float]
    notes: list[str]
    started_at: int
    at: int


class Header(NamedTuple):
    """A header of a Kafka record."""

    name: str
    value: bytes | None


class DeadLetter(NamedTuple):
    """A record that could not be used, as it was, with where it came from and why."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]
    role: str
    stage: str
    reason: str
    event_id: str | None
    feedback_id: str | None
    failed_at: int
