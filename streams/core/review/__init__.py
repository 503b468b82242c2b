"""Who is asked: policies that decide, event by event, whether a person should look, and with what probability.

It does not know models, time or topics. A policy is a value, and policies compose: with ``|`` any of them asks, with
``&`` all of them have to, and ``limit`` holds them to a budget.

>>> policy = (Uncertain(share=0.05) | Audit(share=0.01)).limit(Budget(per_hour=60))
>>> decide = policy.router()
>>> decide("event-1", None, {}, None)
Decision(route='review', reason='no answer', probability=1.0)

Every choice is a draw, keyed by the event's id and salted per policy: the same event meets the same luck after a
crash, the draws of two policies are independent, and the probability of a composition is exact, given what the policies
remember.  That (recent confidences, thresholds, what is left of a budget) belongs to one router, and a router to one
input partition: see ``memory``.
"""

from __future__ import annotations

from streams.core.consensus import Consensus
from streams.core.review.active import Selective, VariableUncertainty
from streams.core.review.budget import Budget
from streams.core.review.draws import drawer, lot
from streams.core.review.knowing import ColdStart, Drifting, Novel
from streams.core.review.lowest import FEW, RECENT, Lowest
from streams.core.review.memory import Memory
from streams.core.review.policy import (
    NOBODY_ASKED,
    SPENT,
    AllOf,
    AnyOf,
    Decision,
    Policy,
    Router,
    priority_of,
)
from streams.core.review.rules import Answered, Audit, Everything, When
from streams.core.review.uncertain import FLOOR, Uncertain

__all__ = [
    "FEW",
    "FLOOR",
    "NOBODY_ASKED",
    "RECENT",
    "SPENT",
    "AllOf",
    "Answered",
    "AnyOf",
    "Audit",
    "Budget",
    "ColdStart",
    "Consensus",
    "Decision",
    "Drifting",
    "Everything",
    "Lowest",
    "Memory",
    "Novel",
    "Policy",
    "Router",
    "Selective",
    "Uncertain",
    "VariableUncertainty",
    "When",
    "drawer",
    "lot",
    "priority_of",
]
