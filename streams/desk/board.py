"""What pages and the API ask: the parts of a running desk, together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import time

from streams.core.events import Features, Label
from streams.core.explain import Explanation
from streams.core.failure import Failure, Now, failure
from streams.core.model import Answer
from streams.desk.live import Pulse
from streams.desk.outbox import Outbox
from streams.desk.reads import Reads, Story
from streams.desk.store import Store
from streams.desk.work import Work


@dataclass(frozen=True, slots=True)
class About:
    """What there is to know of the loop.

    Attributes:
        view: The features that reviewers see, in this order; all where none is named.
    """

    name: str
    task: str
    classes: Sequence[Label]
    window_ms: int
    view: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """How far the projection is.

    Attributes:
        ready: It has been where the topics ended when the desk was started.
        behind: Records that are not yet read.
        skipped: Predictions that nobody is asked about, left out because there was no time for them.
        undelivered: Verdicts that wait for Kafka.
        trouble: What is wrong, in words; None if nothing is.
    """

    ready: bool
    behind: int
    skipped: int
    undelivered: int
    trouble: str | None


def now_ms() -> int:
    """The time, in milliseconds since the epoch."""
    return int(time() * 1000)


@dataclass(frozen=True)
class Board:
    """The parts of a desk.

    Attributes:
        retry: Sends a dead letter to where it came from, by its place among the dead letters; says what it did.
        again: Says an orphaned verdict once more, by its place on the loop's feedback; says what it did.
        now: What a model says to an event's features now, by its key; None if it cannot be asked.
        clock: The time, in milliseconds since the epoch.
    """

    about: About
    store: Store
    work: Work
    outbox: Outbox
    reads: Reads
    pulse: Pulse
    health: Callable[[], Health]
    retry: Callable[[int, int], str]
    again: Callable[[int, int], str]
    now: Callable[[str, Features], Now | None]
    clock: Callable[[], int] = now_ms

    def failure(self, story: Story) -> Failure | None:
        """Why the model was wrong about an event; None if it was not, or nobody has told the truth."""
        said = story.prediction or story.review
        truth = None if story.seen is None else story.seen.truth
        if said is None or truth is None or said.label in (None, truth):
            return None
        told = said.explanation
        explanation = None if said.basis is None or told is None else Explanation(told, said.basis)
        answer = Answer(said.label, said.scores, said.confidence)
        alike = self.reads.alike(said.model_key, said.label, truth)
        return failure(answer, truth, explanation, alike, self.now(said.model_key, said.features))
