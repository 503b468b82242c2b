"""What a policy is, how policies compose, and what becomes of an event."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from streams.core.errors import Mistake
from streams.core.events import AUTO, REVIEW, Features, Label
from streams.core.experience import NOTHING, Detector, Experience
from streams.core.review.budget import Budget
from streams.core.review.memory import Memory, Seat

NOBODY_ASKED = "nobody asked"
SPENT = "nobody asked: the budget is spent"
_NEW = tuple.__new__  # a third cheaper than a named tuple's own; once for each event


class Decision(NamedTuple):
    """Whether a person is asked; how soon follows from the answer, see :func:`priority_of`.

    Attributes:
        route: ``auto`` or ``review``.
        reason: Who asked, in words.
        probability: With which this route was taken: of asking for ``review``, of not asking for ``auto``.
    """

    route: str
    reason: str
    probability: float


class Asked(NamedTuple):
    """What one policy says to one event: whether it asks, why (or why not), and how probable it was that it would."""

    asks: bool
    reason: str
    probability: float


Scores: TypeAlias = Mapping[str, float]
Asker: TypeAlias = Callable[[str, Label | None, Scores, float | None, Features, Experience], Asked]
"""(event id, label, scores, confidence, features, what the fold knows) to what a policy says; remembers what the
policy has to."""

NO_FEATURES: Features = {}


class Router(Protocol):
    """Decides about the events of one input partition; called once per event, in order."""

    def __call__(
        self,
        event_id: str,
        label: Label | None,
        scores: Scores,
        confidence: float | None,
        features: Features = NO_FEATURES,
        knows: Experience = NOTHING,
    ) -> Decision:
        """What becomes of the event."""


@runtime_checkable
class Policy(Protocol):
    """Decides who is asked.  A value: what it remembers is in the askers and routers that it makes."""

    def asker(self, seat: Seat) -> Asker:
        """Make what decides for one partition; different salts draw independently."""

    def router(self, memory: Memory | None = None) -> Router:
        """Make what routes the events of one partition, with the partition's memory; None: with one of its own."""

    def detectors(self) -> Iterator[Detector]:
        """What the folds have to watch for it."""

    def mistakes(self) -> list[Mistake]:
        """What is wrong with it."""

    def __or__(self, other: Policy) -> Policy:
        """Ask if any of the two asks."""

    def __and__(self, other: Policy) -> Policy:
        """Ask if both ask."""

    def limit(self, budget: Budget) -> Policy:
        """Ask as long as the budget has something left."""


class Composable:
    """What all policies share: to be compiled, to be joined, and to be limited."""

    __slots__ = ()

    def router(self: Policy, memory: Memory | None = None) -> Router:
        ask = self.asker(Seat("", memory or Memory()))
        last, decision = Asked(False, "", 0.0), Decision(AUTO, NOBODY_ASKED, 1.0)

        def route(
            event_id: str,
            label: Label | None,
            scores: Scores,
            confidence: float | None,
            features: Features = NO_FEATURES,
            knows: Experience = NOTHING,
        ) -> Decision:
            nonlocal last, decision
            said = ask(event_id, label, scores, confidence, features, knows)
            if said is not last:  # most policies say the very same most of the time
                last, decision = said, _decided(said)
            return decision

        return route

    def detectors(self) -> Iterator[Detector]:
        return iter(())

    def mistakes(self) -> list[Mistake]:
        return []

    def __or__(self: Policy, other: Policy) -> Policy:
        if not isinstance(other, Policy):
            return NotImplemented
        return AnyOf((*_parts(AnyOf, self), *_parts(AnyOf, other)))

    def __and__(self: Policy, other: Policy) -> Policy:
        if not isinstance(other, Policy):
            return NotImplemented
        return AllOf((*_parts(AllOf, self), *_parts(AllOf, other)))

    def limit(self: Policy, budget: Budget) -> Policy:
        return Limited(self, budget)


def _decided(said: Asked) -> Decision:
    asks, reason, probability = said
    if asks:
        return _NEW(Decision, (REVIEW, reason, probability))
    why = SPENT if reason is SPENT else NOBODY_ASKED
    return _NEW(Decision, (AUTO, why, 1.0 - probability))


@dataclass(frozen=True, slots=True)
class _Several(Composable):
    policies: tuple[Policy, ...]

    def detectors(self) -> Iterator[Detector]:
        return (detector for policy in self.policies for detector in policy.detectors())

    def mistakes(self) -> list[Mistake]:
        return [mistake for policy in self.policies for mistake in policy.mistakes()]

    def _askers(self, seat: Seat) -> list[Asker]:
        return [policy.asker(seat.part(n)) for n, policy in enumerate(self.policies)]


@dataclass(frozen=True, slots=True)
class AnyOf(_Several):
    """Ask if any of several policies asks; the reason names all that did."""

    def asker(self, seat: Seat) -> Asker:
        askers = self._askers(seat)

        def ask(
            event_id: str,
            label: Label | None,
            scores: Scores,
            confidence: float | None,
            features: Features,
            knows: Experience,
        ) -> Asked:
            why = why_not = ""
            nobody = 1.0
            for asker in askers:  # all of them: each has to see every event
                asks, reason, probability = asker(
                    event_id, label, scores, confidence, features, knows
                )
                nobody *= 1.0 - probability
                if asks:
                    why = _with(why, reason)
                elif reason is SPENT:
                    why_not = reason
            return _NEW(Asked, (bool(why), why or why_not, 1.0 - nobody))

        return ask


@dataclass(frozen=True, slots=True)
class AllOf(_Several):
    """Ask if all of several policies ask; the reason names all of them."""

    def asker(self, seat: Seat) -> Asker:
        askers = self._askers(seat)

        def ask(
            event_id: str,
            label: Label | None,
            scores: Scores,
            confidence: float | None,
            features: Features,
            knows: Experience,
        ) -> Asked:
            why, why_not, together, everybody = "", "", 1.0, True
            for asker in askers:  # all of them: each has to see every event
                asks, reason, probability = asker(
                    event_id, label, scores, confidence, features, knows
                )
                together *= probability
                why = _with(why, reason, " and ")
                if not asks:
                    everybody = False
                    why_not = SPENT if reason is SPENT else why_not
            return _NEW(Asked, (everybody, why if everybody else why_not, together))

        return ask


@dataclass(frozen=True, slots=True)
class Limited(Composable):
    """Ask as a policy does, as long as a budget has something left.

    With nothing left the probability of asking is 0, and the reason says so.
    """

    policy: Policy
    budget: Budget

    def asker(self, seat: Seat) -> Asker:
        inner, memory = self.policy.asker(seat), seat.memory
        purse = self.budget.purse(memory.partition, memory.partitions)
        # Another budget begins anew; and a limit of what is limited is another one.
        memory.keep(f"{seat.salt}{purse.name}", purse)

        def ask(
            event_id: str,
            label: Label | None,
            scores: Scores,
            confidence: float | None,
            features: Features,
            knows: Experience,
        ) -> Asked:
            said = inner(event_id, label, scores, confidence, features, knows)
            if purse.holds(memory.now):
                if said.asks:
                    purse.spend()
                return said
            if not said.asks:
                return Asked(False, said.reason, 0.0)
            memory.unasked += 1
            return Asked(False, SPENT, 0.0)

        return ask

    def detectors(self) -> Iterator[Detector]:
        return self.policy.detectors()

    def mistakes(self) -> list[Mistake]:
        return [*self.policy.mistakes(), *self.budget.mistakes()]


def _with(reasons: str, reason: str, sign: str = " + ") -> str:
    if not reasons:
        return reason
    return reasons if reason in reasons.split(sign) else f"{reasons}{sign}{reason}"


def _parts(kind: type[_Several], policy: Policy) -> tuple[Policy, ...]:
    return policy.policies if isinstance(policy, kind) else (policy,)


def share_mistakes(name: str, share: object) -> list[Mistake]:
    """What is wrong with a share."""
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if number and 0 < share <= 1:  # type: ignore[operator]
        return []
    return [Mistake(name, share, "a share above 0 and at most 1, such as 0.05")]


def count_mistakes(name: str, count: object) -> list[Mistake]:
    """What is wrong with a number of events."""
    if isinstance(count, int) and not isinstance(count, bool) and count > 0:
        return []
    return [Mistake(name, count, "a whole number above 0, such as 100")]


def priority_of(label: Label | None, confidence: float | None) -> float:
    """How soon a person should look at an answer, 0 to 1: the less sure, the sooner; at once, where there is none.

    >>> priority_of(True, 0.75), priority_of(1.5, None), priority_of(None, None)
    (0.25, 0.5, 1.0)
    """
    if label is None or confidence != confidence:  # NaN is no answer either
        return 1.0
    return 0.5 if confidence is None else 1.0 - confidence
