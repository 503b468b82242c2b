"""Who is asked: policies that decide, event by event, whether a person should look, and with what probability.

It does not know models, time or topics. A policy is a value, and policies compose with ``|`` (any of them asks):

>>> policy = Uncertain(share=0.05) | Audit(share=0.01)
>>> decide = policy.router()
>>> decide("event-1", None, {}, None)
Decision(route='review', reason='no answer', probability=1.0, priority=1.0)

Every choice is a draw, keyed by the event's id and salted per policy: the same event meets the same luck after a
crash, the draws of two policies are independent, and the probability of a composition is exact.  What a policy has to
remember (here: recent confidences) belongs to one router, and a router to one input partition.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil, inf
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from streams.core.errors import Mistake
from streams.core.events import AUTO, REVIEW, Label

RECENT = 512
"""So many confidences an uncertain event is compared with."""
FEW = 30
"""Before a router has seen so many, nobody knows what is uncertain: all are asked."""
FLOOR = 0.1
"""This part of an Uncertain's share is drawn whatever the confidence, so that no event is beyond being asked."""

NOBODY_ASKED = "nobody asked"


class Decision(NamedTuple):
    """Whether a person is asked.

    Attributes:
        route: ``auto`` or ``review``.
        reason: Who asked, in words.
        probability: With which this route was taken: of asking for ``review``, of not asking for ``auto``.
        priority: The higher, the sooner a person should look: how unsure the answer is, 0 to 1.
    """

    route: str
    reason: str
    probability: float
    priority: float


class Asked(NamedTuple):
    """What one policy says to one event: whether it asks, why, and how probable it was that it would."""

    asks: bool
    reason: str
    probability: float


Scores: TypeAlias = Mapping[str, float]
Asker: TypeAlias = Callable[[str, Label | None, Scores, float | None], Asked]
"""(event id, label, scores, confidence) to what a policy says; remembers what the policy has to."""
Router: TypeAlias = Callable[[str, Label | None, Scores, float | None], Decision]
"""(event id, label, scores, confidence) to the decision; one per input partition, called once per event, in order."""


@runtime_checkable
class Policy(Protocol):
    """Decides who is asked.  A value: what it remembers is in the askers and routers that it makes."""

    def asker(self, salt: str) -> Asker:
        """Make what decides for one partition; different salts draw independently."""

    def router(self) -> Router:
        """Make what routes the events of one partition."""

    def mistakes(self) -> list[Mistake]:
        """What is wrong with it."""

    def __or__(self, other: Policy) -> Policy:
        """Ask if any of the two asks."""


class _Composable:
    """What all policies share: to be compiled, and to be joined."""

    __slots__ = ()

    def router(self: Policy) -> Router:
        ask = self.asker("")
        new = tuple.__new__  # a third cheaper than the class's own; once for each event

        def route(
            event_id: str, label: Label | None, scores: Scores, confidence: float | None
        ) -> Decision:
            asks, reason, probability = ask(event_id, label, scores, confidence)
            # As priority_of, without the call.
            sure = 0.0 if label is None else 0.5 if confidence is None else confidence
            if asks:
                return new(Decision, (REVIEW, reason, probability, 1.0 - sure))
            return new(Decision, (AUTO, NOBODY_ASKED, 1.0 - probability, 1.0 - sure))

        return route

    def mistakes(self) -> list[Mistake]:
        return []

    def __or__(self: Policy, other: Policy) -> Policy:
        if not isinstance(other, Policy):
            return NotImplemented
        return AnyOf((*_parts(self), *_parts(other)))


@dataclass(frozen=True, slots=True)
class Everything(_Composable):
    """Ask about every event."""

    def asker(self, salt: str) -> Asker:
        always = Asked(True, "everything", 1.0)
        return lambda event_id, label, scores, confidence: always


@dataclass(frozen=True, slots=True)
class Audit(_Composable):
    """Ask about a random share of the events, whatever the model says."""

    share: float

    def asker(self, salt: str) -> Asker:
        share = float(self.share)
        wins = lot(f"{salt}audit", share)
        yes, no = Asked(True, "audit", share), Asked(False, "audit", share)
        return lambda event_id, label, scores, confidence: yes if wins(event_id) else no

    def mistakes(self) -> list[Mistake]:
        return _share_mistakes("review.Audit(share)", self.share)


@dataclass(frozen=True, slots=True)
class Uncertain(_Composable):
    """Ask about the share of the events that the model is least sure of.

    An event is ranked among the recent confidences of its partition.  Of any stream whose confidences come in no
    particular order it asks ``share``, exactly in expectation, ties included; when confidences drift it follows
    within ``RECENT`` events.  A tenth of the share is drawn from all events, so no event's probability is 0.
    Without an answer it asks; an answer without a confidence (a regression) is audited with the same share.
    """

    share: float

    def asker(self, salt: str) -> Asker:
        share, draw = float(self.share), drawer(f"{salt}uncertain")
        floor = share * FLOOR
        lowest = Lowest((share - floor) / (1.0 - floor))  # with the floor it makes the share
        null, first = Asked(True, "no answer", 1.0), Asked(True, "cold start", 1.0)
        surely, unlikely = Asked(True, "uncertain", 1.0), Asked(False, "uncertain", floor)
        holds, new = lowest.holds, tuple.__new__

        def ask(
            event_id: str, label: Label | None, scores: Scores, confidence: float | None
        ) -> Asked:
            if label is None or confidence != confidence:  # NaN is no answer either
                return null
            if confidence is None:
                probability = share
            else:
                cold = lowest.is_cold
                part = holds(confidence)
                if cold:
                    return first
                if part >= 1.0:
                    return surely
                probability = floor + (1.0 - floor) * part
            if draw(event_id) < probability:
                return new(Asked, (True, "uncertain", probability))
            return unlikely if probability == floor else Asked(False, "uncertain", probability)

        return ask

    def mistakes(self) -> list[Mistake]:
        return _share_mistakes("review.Uncertain(share)", self.share)


@dataclass(frozen=True, slots=True)
class AnyOf(_Composable):
    """Ask if any of several policies asks; the reason names all that did."""

    policies: tuple[Policy, ...]

    def asker(self, salt: str) -> Asker:
        askers = [policy.asker(f"{salt}{n}/") for n, policy in enumerate(self.policies)]

        def ask(
            event_id: str, label: Label | None, scores: Scores, confidence: float | None
        ) -> Asked:
            reasons, nobody = [], 1.0
            for asker in askers:  # all of them: each has to see every event
                asks, reason, probability = asker(event_id, label, scores, confidence)
                nobody *= 1.0 - probability
                if asks:
                    reasons.append(reason)
            return Asked(bool(reasons), " + ".join(dict.fromkeys(reasons)), 1.0 - nobody)

        return ask

    def mistakes(self) -> list[Mistake]:
        return [mistake for policy in self.policies for mistake in policy.mistakes()]


def _parts(policy: Policy) -> tuple[Policy, ...]:
    return policy.policies if isinstance(policy, AnyOf) else (policy,)


def _share_mistakes(name: str, share: object) -> list[Mistake]:
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if number and 0 < share <= 1:  # type: ignore[operator]
        return []
    return [Mistake(name, share, "a share above 0 and at most 1, such as 0.05")]


def priority_of(confidence: float | None) -> float:
    """How soon a person should look at an answer, 0 to 1: the less sure, the sooner; the middle if nobody knows.

    >>> priority_of(0.75), priority_of(None)
    (0.25, 0.5)
    """
    return 0.5 if confidence is None else 1.0 - confidence


def drawer(salt: str) -> Callable[[str], float]:
    """Make a keyed draw: the same number in [0, 1) for an event id, always; another salt draws independently."""
    salted = blake2b(salt.encode(), digest_size=8, person=b"counterpoint")
    copy, number = salted.copy, int.from_bytes

    def draw(event_id: str) -> float:
        hashed = copy()
        hashed.update(event_id.encode())
        return (number(hashed.digest(), "big") >> 11) * 2.0**-53

    return draw


def lot(salt: str, share: float) -> Callable[[str], bool]:
    """Make what tells whether the draw of an event id is below ``share``: the same as comparing it, for less.

    >>> draw, wins = drawer("audit"), lot("audit", 0.3)
    >>> all(wins(name) == (draw(name) < 0.3) for name in map(str, range(1000)))
    True
    """
    if share >= 1.0:
        return lambda event_id: True
    copy = blake2b(salt.encode(), digest_size=8, person=b"counterpoint").copy
    # The number drawn is whole in 53 bits, and big-endian bytes sort as the numbers do.
    edge = (ceil(share * 2.0**53) << 11).to_bytes(8, "big")

    def wins(event_id: str) -> bool:
        hashed = copy()
        hashed.update(event_id.encode())
        return hashed.digest() < edge

    return wins


class Lowest:
    """The lowest share of the recent confidences, and how far another one belongs to it.

    They are sorted anew every few events and not at each: what an event is compared with ends a little earlier, which
    biases nothing, and the sorting costs a tenth of keeping them in order.
    """

    __slots__ = (
        "_clear",
        "_left",
        "_ranked",
        "_recent",
        "_remember",
        "_share",
        "_wanted",
        "is_cold",
    )

    def __init__(self, share: float) -> None:
        self._share = share
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._remember = self._recent.append
        self._left = 1
        self._rank()

    def _rank(self) -> None:
        self._ranked = ranked = sorted(self._recent)
        self._left = 64 if len(ranked) > FEW else 1
        self.is_cold = len(ranked) < FEW
        # A new one has a rank of its own among them: one more place than there are.
        self._wanted = self._share * (len(ranked) + 1)
        edge = ceil(self._wanted)
        self._clear = ranked[edge] if edge < len(ranked) else inf  # above it: not in the share

    def holds(self, confidence: float) -> float:
        """How much of it is in the share: 1 or 0, and between them at the edge; then remember it."""
        part = 0.0
        if confidence <= self._clear:
            below = bisect_left(self._ranked, confidence)
            ties = bisect_right(self._ranked, confidence, below) - below
            # Uniformly among those that tie with it, it has `below` to `below + ties` before it.
            part = (self._wanted - below) / (ties + 1)
            part = 0.0 if part < 0.0 else part if part < 1.0 else 1.0
        self._remember(confidence)
        self._left -= 1
        if not self._left:
            self._rank()
        return part
