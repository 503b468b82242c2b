"""What the verdicts on one event come to: the one that stands.

A later verdict stands before an earlier one, whoever gave it; who takes back takes back all that he said before.  What
each of them teaches is decided in ``verdicts``.
"""

from __future__ import annotations

from collections.abc import Sequence

from streams.core.events import RETRACT, Feedback
from streams.core.verdicts import author


def first_of_each(verdicts: Sequence[Feedback]) -> list[Feedback]:
    """The verdicts without the repeats: those that came with a feedback id that was there before."""
    seen: dict[str, Feedback] = {}
    for verdict in verdicts:
        seen.setdefault(verdict.feedback_id, verdict)
    return list(seen.values())


def not_taken_back(verdicts: Sequence[Feedback]) -> list[Feedback]:
    """The verdicts, given in their order, that their authors have not taken back.

    >>> said = [Feedback("1", "e", "accept", reviewer="ann"), Feedback("2", "e", "retract", reviewer="ann")]
    >>> not_taken_back(said)
    []
    """
    standing: list[Feedback] = []
    for verdict in first_of_each(verdicts):
        if verdict.verdict == RETRACT:
            standing = [each for each in standing if author(each) != author(verdict)]
        else:
            standing.append(verdict)
    return standing


def standing(verdicts: Sequence[Feedback]) -> Feedback | None:
    """The verdict that stands, of those given in their order; None if there is none.

    >>> said = [Feedback("1", "e", "accept", reviewer="ann"), Feedback("2", "e", "reject", reviewer="bob")]
    >>> standing(said).reviewer
    'bob'
    >>> standing([*said, Feedback("3", "e", "retract", reviewer="bob")]).reviewer
    'ann'
    """
    left = not_taken_back(verdicts)
    return left[-1] if left else None
