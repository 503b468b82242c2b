"""A desk whose topics are lists: what a test says has come, has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from streams.core.events import (
    AUTO,
    REVIEW,
    Features,
    Feedback,
    Label,
    Outcome,
    Prediction,
    Review,
)
from streams.core.failure import Now
from streams.core.verdicts import Rules
from streams.desk.board import About, Board, Health
from streams.desk.folding import Came, Folding, Read
from streams.desk.live import Pulse
from streams.desk.outbox import Outbox, Verdict
from streams.desk.reads import Reads
from streams.desk.store import Store
from streams.desk.work import Item, Work
from streams.engine.codec import Codec, Record

CODEC = Codec()
HOUR_MS = 3_600_000
RULES = Rules(task="binary", classes=(False, True), window_ms=HOUR_MS, early_ms=0)


class Desk:
    """The parts of a desk, and the records that have come."""

    def __init__(self, store: Store, rules: Rules = RULES, lease_s: float = 60.0) -> None:
        self.store, self.rules, self.now, self.keep = store, rules, 1_000, 100_000
        self.model_of_now: Now | None = None
        self.offsets: dict[str, int] = {}
        self.came: list[Came] = []
        self.folding = self.new_folding()
        self.pulse = Pulse()
        self.work = Work(store, CODEC.decode, lease_s, several=rules.reviewers is not None)
        self.outbox = Outbox(store, rules, CODEC.decode, CODEC.encoder(Feedback, ""))
        self.reads = Reads(store, CODEC.decode, rules.window_ms)

    def new_folding(self) -> Folding:
        """As a new process has it."""
        return Folding(self.rules, CODEC.decode, is_sqlite=self.store.is_sqlite)

    def board(self, retry: Callable[[int, int], str] = lambda partition, offset: "sent") -> Board:
        """What pages ask."""
        about = About("tests", self.rules.task, self.rules.classes, self.rules.window_ms)
        health = Health(ready=True, behind=0, skipped=0, undelivered=0, trouble=None)
        return Board(
            about=about,
            store=self.store,
            work=self.work,
            outbox=self.outbox,
            reads=self.reads,
            pulse=self.pulse,
            health=lambda: health,
            retry=retry,
            again=lambda partition, offset: self.reads.again(partition, offset).feedback_id,
            now=lambda model_key, features: self.model_of_now,
            clock=lambda: self.now,
        )

    def take(self, *records: Record, at: int | None = None) -> None:
        """These records come, in this order, each to the end of its topic."""
        came = [self._came(record, self.now if at is None else at) for record in records]
        self.came += came
        self.fold(came)

    def fold(self, came: Sequence[Came], folding: Folding | None = None) -> None:
        """What has come is taken in, in one batch."""
        positions = {(each.topic, each.partition): each.offset + 1 for each in came}
        read = [
            Read(*place, at, at - self.keep if place[0] == Prediction.__name__ else 0)
            for place, at in positions.items()
        ]
        with self.store.projecting() as connection:
            (folding or self.folding).take(connection, came, read)

    def _came(self, record: Record, at: int) -> Came:
        topic = type(record).__name__
        offset = self.offsets.get(topic, 0)
        self.offsets[topic] = offset + 1
        key = str(getattr(record, "event_id", "")).encode()
        return Came(topic, 0, offset, at, key, CODEC.encode(topic, record))

    def ask(self, *event_ids: str, priority: float = 0.0, **more: Any) -> None:
        """People are asked about these events."""
        for event_id in event_ids:
            said = prediction(event_id, route=REVIEW, **more)
            self.take(said, review(said, self.now, self.now + self.rules.window_ms, priority))

    def next(self, reviewer: str = "ann", count: int = 1) -> list[Item]:
        """What the queue gives."""
        return self.work.next(reviewer, self.now, count)

    def say(self, reviewer: str, event_id: str, kind: str, label: Label | None = None) -> str:
        """A verdict is confirmed; its feedback id."""
        verdict = Verdict(event_id=event_id, kind=kind, label=label)
        return self.outbox.confirm(reviewer, verdict, self.now).feedback_id

    def answered(self, items: Iterable[Item]) -> list[str]:
        """The events of items."""
        return [item.review.event_id for item in items]


def prediction(
    event_id: str,
    label: Label | None = True,
    confidence: float | None = 0.7,
    route: str = AUTO,
    text: str | None = None,
    version: int = 3,
    probability: float = 0.5,
    features: Features = {"a": 1.0},  # noqa: B006  never changed
) -> Prediction:
    """What a model says."""
    return Prediction(
        event_id=event_id,
        label=label,
        scores={"True": 0.7, "False": 0.3},
        confidence=confidence,
        features=features,
        text=text,
        occurred_at=None,
        model_key="",
        model_version=version,
        route=route,
        reason="the test wants it",
        probability=probability,
    )


def review(said: Prediction, requested_at: int, deadline: int, priority: float = 0.0) -> Review:
    """What a person is asked about it."""
    common = {name: getattr(said, name) for name in Review._fields if hasattr(said, name)}
    return Review(**common, priority=priority, requested_at=requested_at, deadline=deadline)


def feedback(
    event_id: str,
    kind: str = "accept",
    label: Label | None = None,
    reviewer: str | None = "ann",
    feedback_id: str = "",
    channel: str = "desk",
) -> Feedback:
    """What a person says, on Kafka."""
    made = feedback_id or f"f-{event_id}-{reviewer}-{kind}-{label}"
    return Feedback(made, event_id, kind, label, reviewer=reviewer, channel=channel)


def outcome(
    said: Feedback, offset: int, status: str = "learned", version: int | None = 4
) -> Outcome:
    """What became of it."""
    return Outcome(said.event_id, said.feedback_id, status, None, 0, offset, "", version)
