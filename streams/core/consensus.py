"""When several people are asked about one event: what their words come to, one after the other.

**What is decided.**  A word is what a person says the true label is.

* A word *waits* until something below ends it, or the window of its prediction does (``no-consensus``).  Of one author one word
  waits: a later one takes its place (the earlier is ``superseded``), and a retract takes it away.
* As soon as ``agree`` waiting words say the same they *decide*: one lesson rests on all of them, and is the lesson of the event
  from then on.  The waiting words that say otherwise are ``outvoted``.
* As soon as ``of`` words wait and do not decide, their authors *disagree*: a senior is asked, once.  From then on the last waiting
  word of a senior decides too, together with those that say the same; one that waits already does so at once.
* After a decision the next words begin anew, with what the loop's ``corrections`` make of a later verdict made of a
  later decision: with ``keep-first`` there is none, and every later word is ``superseded``; with ``learn-again`` it is learned too;
  with ``repair`` in place of the earlier ones.  A word that only repeats what was decided is ``superseded`` in any case.
* A decision *stands* until it is corrected, or one of those it rests on takes his word back: what fewer agree on than the
  loop wants is no consensus.

All of it is a function of the words in their order; which ones are heard at all, and how long they wait, is ``join``.
Every word ends once: in a decision, or with one of the statuses above.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from streams.core.errors import Mistake
from streams.core.events import OUTVOTED, SUPERSEDED, Label

LEARN_AGAIN, KEEP_FIRST, REPAIR = "learn-again", "keep-first", "repair"
"""What a later verdict, or decision, does to an earlier one."""

TAKEN_BACK = "taken back before it was decided"
CHANGED = "its author said something else before it was decided"
REPEATS = "others had decided the same before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """Several people are asked about an event, and what enough of them agree on is learned.

    Attributes:
        of: How many people are asked.
        agree: How many of them have to say the same.
    """

    of: int
    agree: int

    def mistakes(self) -> Iterable[Mistake]:
        """What is wrong with it."""
        if type(self.of) is not int or not 2 <= self.of <= 100:
            yield Mistake("reviewers.of", self.of, "a whole number from 2 to 100")
        elif type(self.agree) is not int or not 2 <= self.agree <= self.of:
            yield Mistake("reviewers.agree", self.agree, f"a whole number from 2 to {self.of}")


class Word(NamedTuple):
    """What a person says.

    Attributes:
        place: Where it came; later ones have higher places.
        author: Who said it.
        senior: Whether his word decides where others disagree.
        decision: The place of the word that decided it; None while it waits.
    """

    place: int
    author: str
    label: Label
    senior: bool = False
    decision: int | None = None


class Panel(NamedTuple):
    """The words on one event that wait, or that a decision which stands rests on, in their order.

    Attributes:
        disagree: Whether a senior was asked since the last decision.
    """

    words: tuple[Word, ...] = ()
    disagree: bool = False

    @property
    def waiting(self) -> tuple[Word, ...]:
        """The words that wait."""
        return tuple(word for word in self.words if word.decision is None)

    @property
    def decided(self) -> tuple[Word, ...]:
        """The words of the last decision that stands."""
        last = max(
            (word.decision for word in self.words if word.decision is not None), default=None
        )
        return tuple(word for word in self.words if last is not None and word.decision == last)


class Ended(NamedTuple):
    """A word that no lesson comes of, and why."""

    place: int
    status: str
    detail: str | None = None


class Ruling(NamedTuple):
    """What one more word, or a retract, comes to.

    Attributes:
        agreed: The places of the words that a lesson now rests on; empty if nothing was decided.
        outdated: The places of those that no lesson is to rest on any more.
        ended: The words that nothing comes of.
        asks: Whether a senior is to be asked now.
    """

    panel: Panel
    agreed: tuple[int, ...] = ()
    outdated: tuple[int, ...] = ()
    ended: tuple[Ended, ...] = ()
    asks: bool = False


NOBODY = Panel()


def hear(consensus: Consensus, corrections: str, panel: Panel, word: Word) -> Ruling:
    """What one more word comes to.

    >>> two = Consensus(of=3, agree=2)
    >>> ann, bob, eve = Word(0, "ann", "a"), Word(1, "bob", "b"), Word(2, "eve", "a")
    >>> first = hear(two, "learn-again", NOBODY, ann)
    >>> second = hear(two, "learn-again", first.panel, bob)
    >>> third = hear(two, "learn-again", second.panel, eve)
    >>> third.agreed, third.ended
    ((0, 2), (Ended(place=1, status='outvoted', detail=None),))
    """
    decided = panel.decided
    if decided and corrections == KEEP_FIRST:
        return Ruling(panel, ended=(Ended(word.place, SUPERSEDED),))
    ended = [
        Ended(each.place, SUPERSEDED, CHANGED)
        for each in panel.waiting
        if each.author == word.author
    ]
    waiting = [each for each in panel.waiting if each.author != word.author]
    standing = [each for each in panel.words if each.decision is not None]
    if decided and _same(decided[0], word):
        left = panel._replace(words=(*standing, *waiting))
        return Ruling(left, ended=(*ended, Ended(word.place, SUPERSEDED, REPEATS)))
    waiting.append(word)
    disagree = panel.disagree or len(waiting) >= consensus.of
    chosen = _chosen(consensus, waiting, word, disagree=disagree)
    if chosen is None:
        left = Panel((*standing, *waiting), disagree)
        return Ruling(left, ended=tuple(ended), asks=disagree and not panel.disagree)
    outdated = [each.place for each in standing] if corrections == REPAIR else []
    agreed = [each._replace(decision=word.place) for each in waiting if _same(each, chosen)]
    ended += [Ended(each.place, OUTVOTED) for each in waiting if not _same(each, chosen)]
    standing = [each for each in standing if each.place not in outdated]
    return Ruling(
        Panel((*standing, *agreed)),
        agreed=tuple(each.place for each in agreed),
        outdated=tuple(outdated),
        ended=tuple(ended),
    )


def take_back(panel: Panel, author: str) -> Ruling:
    """What it comes to that an author takes back all that he said.

    >>> take_back(Panel((Word(0, "ann", "a", decision=1), Word(1, "bob", "a", decision=1))), "ann")
    Ruling(panel=Panel(words=(), disagree=False), agreed=(), outdated=(0, 1), ended=(), asks=False)
    """
    fallen = {
        word.decision for word in panel.words if word.author == author and word.decision is not None
    }
    mine = [word for word in panel.waiting if word.author == author]
    outdated = tuple(word.place for word in panel.words if word.decision in fallen)
    left = [word for word in panel.words if word not in mine and word.decision not in fallen]
    ended = tuple(Ended(word.place, SUPERSEDED, TAKEN_BACK) for word in mine)
    return Ruling(panel._replace(words=tuple(left)), outdated=outdated, ended=ended)


def _chosen(
    consensus: Consensus, waiting: list[Word], word: Word, *, disagree: bool
) -> Word | None:
    """A word that says what the waiting ones decide, now that the last of them came; None: nothing yet."""
    if sum(_same(each, word) for each in waiting) >= consensus.agree:
        return word
    seniors = [each for each in waiting if each.senior]
    return seniors[-1] if disagree and seniors else None


def _same(one: Word, other: Word) -> bool:
    """Whether two say the same: True, 1 and 1.0 are three labels."""
    return type(one.label) is type(other.label) and one.label == other.label
