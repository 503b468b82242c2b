"""What the API takes and gives, as its OpenAPI document tells it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from streams.core.events import Prediction, Review
from streams.core.failure import Failure
from streams.desk.outbox import MAX_COMMENT, Confirmed
from streams.desk.reads import Opinion, Page, Seen, Story, Trouble, Waiting
from streams.desk.work import MOST, Held, Item

LONG = 2**63
# Databases hold no zero characters, and Unicode no halves of surrogate pairs.
TEXT = r"^[^\x00]*$"
PRINTABLE = r"^[ -~]+$"

EventId = Annotated[str, Field(min_length=1, max_length=512, pattern=TEXT, examples=["site-0001"])]
Lease = Annotated[
    str, Field(pattern=r"^[0-9a-f]{32}$", examples=["3f1c2a9be0d94c0c8a5d5b1d2f6a7e11"])
]
Label = (
    StrictBool
    | Annotated[StrictInt, Field(ge=-LONG, lt=LONG)]
    | Annotated[StrictFloat, Field(allow_inf_nan=False)]
    | Annotated[StrictStr, Field(max_length=512, pattern=TEXT)]
)
Value = bool | int | float | str | None


class Given(BaseModel):
    """Something sent; a field that does not exist is refused, since it may be a misspelled one."""

    model_config = ConfigDict(extra="forbid")


class Wanted(Given):
    """Which items to hold."""

    count: int = Field(1, ge=1, le=MOST, description="How many, most urgent first.")
    event_id: EventId | None = Field(None, description="This one, and no other.")


class Say(Given):
    """A verdict on an event."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "event_id": "site-0001",
                    "verdict": "correct",
                    "label": False,
                    "feedback_id": "0b54e9a0-6b3e-4b44-9a55-0d7f3d9c9a11",
                    "comment": "a known shop",
                }
            ]
        },
    )
    event_id: EventId
    verdict: Literal["accept", "correct", "reject", "abstain", "retract"] = Field(
        description="accept and reject: the model is right, or wrong; correct: the label is given; "
        "abstain: nobody can tell; retract: what this reviewer said before is taken back."
    )
    label: Label | None = Field(
        None, description="With correct: the true label. With accept: the label that was seen."
    )
    feedback_id: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        pattern=PRINTABLE,
        description="Its identity: sent again with the same, it is one verdict. Made here if missing.",
    )
    lease: Lease | None = Field(None, description="Of the item, if it came from the queue.")
    comment: str | None = Field(None, max_length=MAX_COMMENT, pattern=TEXT)


class LeaseOut(BaseModel):
    """Who holds an item."""

    event_id: str
    reviewer: str
    lease: str
    until: int = Field(description="Milliseconds since the epoch.", examples=[1764151200000])

    @classmethod
    def of(cls, held: Held) -> LeaseOut:
        """Of a lease."""
        return cls(**_fields(held))


class WaitingOut(BaseModel):
    """An item that waits for somebody."""

    event_id: str
    label: Value
    priority: float
    requested_at: int
    deadline: int
    held_by: str | None

    @classmethod
    def of(cls, waiting: Waiting) -> WaitingOut:
        """Of an item."""
        return cls(**_fields(waiting))


class ItemOut(BaseModel):
    """An item that is held by the caller."""

    event_id: str
    lease: str = Field(description="To be given back with the verdict.")
    until: int = Field(description="When the lease ends, in milliseconds since the epoch.")
    label: Value = Field(description="The model's answer; null when it had none.")
    confidence: float | None
    scores: dict[str, float]
    features: dict[str, Value]
    text: str | None
    model_version: int
    reason: str = Field(description="Why a person is asked.")
    probability: float
    deadline: int
    explanation: list[dict[str, Any]] | None
    basis: dict[str, Any] | None
    opinions: int = Field(description="How many people are asked.", examples=[1])
    looked: int = Field(description="How many have looked at it, where several are asked.")

    @classmethod
    def of(cls, item: Item) -> ItemOut:
        """Of an item."""
        said = _said(item.review)
        return cls(lease=item.lease, until=item.until, looked=item.looked, **said)


class SeenOut(BaseModel):
    """A prediction, with the verdict that stands."""

    event_id: str
    at: int
    label: Value
    confidence: float | None
    model_key: str
    model_version: int
    route: str
    text: str | None
    verdict: str | None
    truth: Value
    reviewer: str | None
    channel: str | None
    answered_at: int | None

    @classmethod
    def of(cls, seen: Seen) -> SeenOut:
        """Of a row."""
        return cls(**_fields(seen))


class PageOut(BaseModel):
    """Some predictions, newest first."""

    rows: list[SeenOut]
    after: str | None = Field(description="Asks for the next ones; null at the end.")

    @classmethod
    def of(cls, page: Page) -> PageOut:
        """Of a page."""
        return cls(rows=[SeenOut.of(row) for row in page.rows], after=page.after)


class OpinionOut(BaseModel):
    """A verdict, and what became of it."""

    feedback_id: str
    verdict: str
    label: Value
    reviewer: str | None
    channel: str
    comment: str | None
    at: int
    status: str | None = Field(description="learned, expired, …; null while it is under way.")
    detail: str | None
    model_version: int | None

    @classmethod
    def of(cls, opinion: Opinion) -> OpinionOut:
        """Of an opinion."""
        said = opinion.feedback
        return cls(
            feedback_id=said.feedback_id,
            verdict=said.verdict,
            label=said.label,
            reviewer=said.reviewer,
            channel=said.channel,
            comment=said.comment,
            at=opinion.at,
            status=opinion.status,
            detail=opinion.detail,
            model_version=opinion.model_version,
        )


class NowOut(BaseModel):
    """What a model says to an event by now."""

    model_version: int
    label: Label | None
    confidence: float | None


class FailureOut(BaseModel):
    """Why a model was wrong."""

    alike: int | None = Field(description="How many verdicts said this where the model said that.")
    now: NowOut | None = Field(description="Null while the model cannot be asked.")
    has_learned: bool | None
    words: list[str] = Field(description="All of it, with what pushed the wrong way, as sentences.")

    @classmethod
    def of(cls, failed: Failure) -> FailureOut:
        """Of a failure."""
        now = None
        if failed.now is not None:
            version, answer = failed.now
            now = NowOut(model_version=version, label=answer.label, confidence=answer.confidence)
        return cls(
            alike=failed.alike, now=now, has_learned=failed.has_learned, words=failed.words()
        )


class StoryOut(BaseModel):
    """All that the desk knows of one event."""

    event_id: str
    seen: SeenOut | None
    prediction: dict[str, Any] | None
    opinions: list[OpinionOut]
    moments: list[dict[str, Any]]
    failure: FailureOut | None = Field(description="Null if the model was not shown to be wrong.")

    @classmethod
    def of(cls, story: Story, failed: Failure | None) -> StoryOut:
        """Of a story, and why the model was wrong, if it was."""
        return cls(
            event_id=story.event_id,
            seen=None if story.seen is None else SeenOut.of(story.seen),
            prediction=None if story.prediction is None else _said(story.prediction),
            opinions=[OpinionOut.of(opinion) for opinion in story.opinions],
            moments=[
                {"at": each.at, "kind": each.kind, "says": plain(each.says)}
                for each in story.moments
            ],
            failure=None if failed is None else FailureOut.of(failed),
        )


class ConfirmedOut(BaseModel):
    """A verdict that is stored, and will be learned."""

    feedback_id: str
    event_id: str
    confirmed_at: int
    delivered_at: int | None = Field(description="When Kafka had it; null while it is under way.")
    repeated: bool = Field(description="It was stored before, under the same feedback id.")

    @classmethod
    def of(cls, confirmed: Confirmed) -> ConfirmedOut:
        """Of a confirmed verdict."""
        return cls(**_fields(confirmed))


class TroubleOut(BaseModel):
    """What somebody should look at."""

    letters: list[dict[str, Any]]
    lost: list[dict[str, Any]]
    disputes: list[dict[str, Any]]

    @classmethod
    def of(cls, trouble: Trouble) -> TroubleOut:
        """Of the trouble there is."""
        return cls(**{name: plain(value) for name, value in _fields(trouble).items()})


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _said(record: Prediction | Review) -> dict[str, Any]:
    return {name: plain(value) for name, value in record._asdict().items()}


def plain(value: Any) -> Any:
    """A value as JSON has it: records and dataclasses as objects, bytes as hexadecimal digits."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(inner) for name, inner in _fields(value).items()}
    if hasattr(value, "_asdict"):
        return {name: plain(inner) for name, inner in value._asdict().items()}
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value.hex() if isinstance(value, bytes) else value
