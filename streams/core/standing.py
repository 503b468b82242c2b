"""What the verdicts on one prediction come to: the one that stands, and what each person thinks.

It follows ``join``: what came too early or too late, came before under its id, or says nothing that the loop knows
counts for nothing, and of two lessons that one stands which the loop's ``corrections`` would have learned.  Unlike
there, an answer that teaches nothing stands too, such as a skip, as long as no lesson does: a person has looked.

Where several people have to agree, it follows ``consensus``: what they agreed on stands, with the verdict that decided it.
Until then nothing does, and the event is for those who have not looked yet; or for a senior, once they disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from streams.core import consensus
from streams.core.consensus import KEEP_FIRST, REPAIR, Consensus, Word
from streams.core.errors import BadRecord
from streams.core.events import Feedback, Label, Prediction
from streams.core.verdicts import (
    Lesson,
    Rules,
    Settled,
    TakenBack,
    author,
    lesson,
)


class Said(NamedTuple):
    """A verdict, and when it came by the broker's clock."""

    t: int
    verdict: Feedback


class Standing(NamedTuple):
    """What the verdicts come to.

    Attributes:
        place: Of the verdict that stands, its place among those that were given; None if none does.
        truth: The label that it teaches; None if it teaches none.
        opinions: By place, the label of those verdicts that are the last word of their author.
        heard: Where several have to agree, the places of the verdicts whose authors have looked and are not to be asked again.
        senior: Whether a senior is to be asked.
    """

    place: int | None
    truth: Label | None
    opinions: Mapping[int, Label]
    heard: frozenset[int] = frozenset()
    senior: bool = False


class _Opinion(NamedTuple):
    place: int
    author: str
    label: Label | None


def standing(
    rules: Rules, prediction: Prediction, predicted_at: int, said: Sequence[Said]
) -> Standing:
    """What these verdicts, given in their order, come to.

    >>> rules = Rules(task="binary", classes=(False, True), window_ms=1000, early_ms=0)
    >>> seen = Prediction("e", True, {}, None, {}, None, None, "", 0, "review", "all", 1.0)
    >>> ann = Said(1, Feedback("1", "e", "accept", reviewer="ann"))
    >>> bob = Said(2, Feedback("2", "e", "reject", reviewer="bob"))
    >>> standing(rules, seen, 0, [ann, bob])[:3]
    (1, False, {0: True, 1: False})
    >>> standing(rules, seen, 0, [ann, bob, Said(3, Feedback("3", "e", "retract", reviewer="bob"))])[:3]
    (0, True, {0: True})
    """
    if rules.reviewers is not None:
        return _agreed(rules, rules.reviewers, _heard(rules, prediction, predicted_at, said))
    stands: list[_Opinion] = []
    last: dict[str, _Opinion] = {}
    for place, (verdict, taught) in _heard(rules, prediction, predicted_at, said).items():
        given = _Opinion(
            place, author(verdict), taught.label if isinstance(taught, Lesson) else None
        )
        if isinstance(taught, TakenBack):
            stands = [each for each in stands if each.author != given.author]
            last.pop(given.author, None)
            continue
        last[given.author] = given
        lessons = [each for each in stands if each.label is not None]
        if given.label is not None and rules.corrections == REPAIR:
            stands = [each for each in stands if each.label is None]
        if given.label is None or not lessons or rules.corrections != KEEP_FIRST:
            stands.append(given)
    stands = [each for each in stands if each.label is not None] or stands
    found = stands[-1] if stands else None
    return Standing(
        place=None if found is None else found.place,
        truth=None if found is None else found.label,
        opinions={each.place: each.label for each in last.values() if each.label is not None},
    )


def _agreed(
    rules: Rules,
    reviewers: Consensus,
    heard: Mapping[int, tuple[Feedback, Lesson | TakenBack | Settled]],
) -> Standing:
    """What several people's verdicts come to."""
    panel, last = consensus.NOBODY, dict[str, _Opinion]()
    for place, (verdict, taught) in heard.items():
        who = author(verdict)
        if isinstance(taught, TakenBack):
            panel = consensus.take_back(panel, who).panel
            last.pop(who, None)
            continue
        label = taught.label if isinstance(taught, Lesson) else None
        last[who] = _Opinion(place, who, label)
        if label is not None:
            word = Word(place, who, label, verdict.senior)
            panel = consensus.hear(reviewers, rules.corrections, panel, word).panel
    decided = panel.decided
    said = {word.author for word in panel.words}
    return Standing(
        place=decided[0].decision if decided else None,
        truth=decided[0].label if decided else None,
        opinions={each.place: each.label for each in last.values() if each.label is not None},
        heard=frozenset(
            each.place for each in last.values() if each.label is None or each.author in said
        ),
        senior=panel.disagree,
    )


def _heard(
    rules: Rules, prediction: Prediction, predicted_at: int, said: Sequence[Said]
) -> dict[int, tuple[Feedback, Lesson | TakenBack | Settled]]:
    """By place, the verdicts that are carried out, and what they teach."""
    first, last = predicted_at - rules.early_ms, predicted_at + rules.window_ms
    came: dict[str, int] = {}
    heard = {}
    for place, (t, verdict) in enumerate(said):
        before = came.get(verdict.feedback_id)
        if before is not None and t - before <= rules.known_ms:
            continue
        came[verdict.feedback_id] = t
        if first <= t <= last:
            try:
                heard[place] = verdict, lesson(rules, prediction, verdict)
            except BadRecord:  # the joiner makes a dead letter of it
                continue
    return heard
