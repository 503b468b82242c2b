"""What several people's words come to: each rule by example, and what holds for any words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.consensus import (
    NOBODY,
    Consensus,
    Ended,
    Panel,
    Ruling,
    Word,
    hear,
    take_back,
)

TWO = Consensus(of=3, agree=2)
MODES = ["keep-first", "learn-again", "repair"]


def heard(
    *said: str, reviewers: Consensus = TWO, corrections: str = "learn-again"
) -> tuple[Panel, list[Ruling]]:
    """Hears words such as ``ann:a``; ``ANN:a`` is a senior's, and ``ann:`` takes back."""
    panel, rulings = NOBODY, list[Ruling]()
    for place, each in enumerate(said):
        who, _, label = each.partition(":")
        if label:
            word = Word(place, who.lower(), label, senior=who.isupper())
            ruling = hear(reviewers, corrections, panel, word)
        else:
            ruling = take_back(panel, who.lower())
        panel = ruling.panel
        rulings.append(ruling)
    return panel, rulings


@pytest.mark.parametrize("corrections", MODES)
def test_enough_who_say_the_same_decide_and_who_says_otherwise_is_outvoted(
    corrections: str,
) -> None:
    _, (*before, last) = heard("ann:a", "bob:b", "eve:a", corrections=corrections)
    assert [ruling.agreed for ruling in before] == [(), ()]
    assert (last.agreed, last.ended) == ((0, 2), (Ended(1, "outvoted"),))
    assert not last.asks


def test_the_same_person_counts_once_and_with_the_last_word() -> None:
    panel, (_, again) = heard("ann:a", "ann:a")
    assert again.agreed == ()
    assert [each.status for each in again.ended] == ["superseded"]
    assert [word.place for word in panel.waiting] == [1]
    _, (*_, last) = heard("ann:b", "ann:a", "bob:a")
    assert last.agreed == (1, 2)


def test_those_who_disagree_have_a_senior_asked_once() -> None:
    _, rulings = heard("ann:a", "bob:b", "eve:c", "eve:d", "dan:e")
    assert [ruling.asks for ruling in rulings] == [False, False, True, False, False]


def test_the_word_of_a_senior_decides_with_those_who_say_the_same() -> None:
    _, (*_, last) = heard("ann:a", "bob:b", "eve:c", "SUE:b")
    assert last.agreed == (1, 3)
    assert [each.place for each in last.ended] == [0, 2]
    _, (*_, alone) = heard("ann:a", "bob:b", "eve:c", "SUE:d")
    assert alone.agreed == (3,)


def test_before_they_disagree_a_senior_is_one_of_them() -> None:
    panel, (first,) = heard("SUE:a")
    assert first.agreed == ()
    _, (*_, last) = heard("SUE:a", "bob:b", "eve:c")
    assert (last.agreed, last.asks) == ((0,), False)
    assert panel.waiting[0].senior


def test_a_further_person_or_a_changed_mind_may_still_decide() -> None:
    _, (*_, further) = heard("ann:a", "bob:b", "eve:c", "dan:c")
    assert further.agreed == (2, 3)
    _, (*_, changed) = heard("ann:a", "bob:b", "eve:c", "ann:b")
    assert changed.agreed == (1, 3)


def test_who_takes_back_is_not_heard() -> None:
    panel, (_, taken, last) = heard("ann:a", "ann:", "bob:a")
    assert [each.status for each in taken.ended] == ["superseded"]
    assert last.agreed == ()
    assert [word.author for word in panel.waiting] == ["bob"]


def test_a_decision_falls_with_the_word_of_one_of_those_who_agreed() -> None:
    panel, (*_, taken) = heard("ann:a", "bob:a", "ann:")
    assert taken.outdated == (0, 1)
    assert panel == NOBODY
    stands, (*_, nothing) = heard("ann:a", "bob:b", "eve:a", "bob:")
    assert nothing == Ruling(stands)


@pytest.mark.parametrize(
    ("corrections", "agreed", "outdated"),
    [("keep-first", (), ()), ("learn-again", (2, 3), ()), ("repair", (2, 3), (0, 1))],
)
def test_a_later_decision_is_to_an_earlier_one_what_a_later_verdict_is_to_an_earlier(
    corrections: str, agreed: tuple[int, ...], outdated: tuple[int, ...]
) -> None:
    _, (*_, last) = heard("ann:a", "bob:a", "ann:b", "bob:b", corrections=corrections)
    assert (last.agreed, last.outdated) == (agreed, outdated)
    assert bool(last.ended) is (corrections == "keep-first")


@pytest.mark.parametrize("corrections", MODES)
def test_who_repeats_what_was_decided_is_superseded(corrections: str) -> None:
    panel, (*_, last) = heard("ann:a", "bob:a", "eve:a", corrections=corrections)
    assert [each.status for each in last.ended] == ["superseded"]
    assert panel.waiting == ()


def test_true_and_one_are_two_labels() -> None:
    panel = hear(TWO, "repair", NOBODY, Word(0, "ann", label=True)).panel
    assert hear(TWO, "repair", panel, Word(1, "bob", label=1)).agreed == ()


@pytest.mark.parametrize(
    ("of", "agree"), [(1, 1), (3, 1), (3, 4), (True, 2), (3, 2.0), ("3", 2), (101, 2)]
)
def test_what_is_no_consensus_is_said(of: int, agree: int) -> None:
    assert len(list(Consensus(of=of, agree=agree).mistakes())) == 1
    assert not list(TWO.mistakes())


SAID = st.lists(
    st.builds(
        "{}:{}".format,
        st.sampled_from(["ann", "bob", "eve", "dan", "SUE"]),
        st.sampled_from(["a", "b", "c", ""]),
    ),
    max_size=14,
)
REVIEWERS = st.sampled_from([TWO, Consensus(of=2, agree=2), Consensus(of=3, agree=3)])


def opinions(said: Sequence[str]) -> dict[str, str]:
    """By person, the last word."""
    return dict(each.lower().split(":") for each in said)


@settings(max_examples=400, deadline=None)
@given(SAID, REVIEWERS, st.sampled_from(MODES))
def test_every_word_ends_once_or_waits_and_decisions_stand_on_enough(
    said: list[str], reviewers: Consensus, corrections: str
) -> None:
    panel, rulings = heard(*said, reviewers=reviewers, corrections=corrections)
    ends = Counter(each.place for ruling in rulings for each in ruling.ended)
    ends.update(place for ruling in rulings for place in ruling.agreed)
    ends.update(word.place for word in panel.waiting)
    assert ends == Counter(place for place, each in enumerate(said) if not each.endswith(":"))
    assert len({word.author for word in panel.waiting}) == len(panel.waiting)
    is_asked = False
    for place, ruling in enumerate(rulings):
        assert not (ruling.asks and is_asked)
        is_asked |= ruling.asks
        if not ruling.agreed:
            continue
        spoken = [said[at].lower().split(":") for at in ruling.agreed]
        assert len({label for _, label in spoken}) == 1
        assert len({who for who, _ in spoken}) == len(spoken)
        is_senior = any(said[at].startswith("SUE") for at in ruling.agreed)
        assert len(spoken) >= reviewers.agree or is_senior
        assert max(ruling.agreed) <= place
        is_asked = False


@settings(max_examples=300, deadline=None)
@given(SAID, REVIEWERS)
def test_the_first_decision_is_reached_when_enough_last_words_are_the_same(
    said: list[str], reviewers: Consensus
) -> None:
    said = [each for each in said if not each.startswith("SUE")]
    _, rulings = heard(*said, reviewers=reviewers)
    decided = next((n for n, ruling in enumerate(rulings) if ruling.agreed), None)
    reached = [
        n
        for n in range(len(said))
        if (label := said[n].partition(":")[2])
        and list(opinions(said[: n + 1]).values()).count(label) >= reviewers.agree
    ]
    assert decided == (reached[0] if reached else None)
