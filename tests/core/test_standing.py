"""Which verdict stands: the rules by example, and all of them against the join, which decides what is learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.consensus import KEEP_FIRST, LEARN_AGAIN, REPAIR, Consensus
from streams.core.entry import Entry, Held
from streams.core.events import ABSTAIN, ACCEPT, CORRECT, REJECT, RETRACT, Feedback, Prediction
from streams.core.join import Join
from streams.core.standing import Said, Standing, standing
from streams.core.verdicts import Rules

W, E, AT = 10, 3, 100
RULES = Rules(task="multiclass", classes=("a", "b", "c"), window_ms=W, early_ms=E)
SEEN = Prediction("e", "a", {}, None, {}, None, None, "", 0, "review", "all", 1.0)


def said(
    kind: str, who: str = "ann", label: str | None = None, t: int = AT, name: str | None = None
) -> Said:
    """A verdict, with an id of its own unless one is given."""
    return Said(t, Feedback(name or f"{who}-{kind}-{label}-{t}", "e", kind, label, reviewer=who))


def stands(*given: Said, corrections: str = LEARN_AGAIN) -> Standing:
    return standing(replace(RULES, corrections=corrections), SEEN, AT, given)


@pytest.mark.parametrize(
    "nothing",
    [
        said(CORRECT, label="unknown"),
        said(CORRECT),
        said("praise"),
        said(ACCEPT, t=AT - E - 1),
        said(ACCEPT, t=AT + W + 1),
        said(RETRACT),
    ],
)
def test_what_the_joiner_does_not_carry_out_counts_for_nothing(nothing: Said) -> None:
    assert stands(nothing) == Standing(None, None, {})
    assert stands(said(ACCEPT, "bob"), nothing).place == 0


def test_the_same_verdict_again_changes_nothing() -> None:
    one, other = said(CORRECT, "ann", "b", name="x"), said(CORRECT, "bob", "c")
    assert stands(one, other, one).place == 1


@pytest.mark.parametrize(
    ("corrections", "place", "after_bobs_retract"),
    [(LEARN_AGAIN, 1, 0), (KEEP_FIRST, 0, 0), (REPAIR, 1, None)],
)
def test_of_two_lessons_that_one_stands_which_the_loop_learns(
    corrections: str, place: int, after_bobs_retract: int | None
) -> None:
    both = said(CORRECT, "ann", "b"), said(CORRECT, "bob", "c")
    assert stands(*both, corrections=corrections).place == place
    taken = stands(*both, said(RETRACT, "bob"), corrections=corrections)
    assert (taken.place, taken.opinions) == (after_bobs_retract, {0: "b"})


def test_a_skip_answers_where_nobody_says_more() -> None:
    skipped, given = said(ABSTAIN, "ann"), said(ACCEPT, "bob", "a")
    assert stands(skipped) == Standing(0, None, {})
    assert stands(said(REJECT, "ann")) == Standing(0, None, {})
    for both in ((skipped, given), (given, skipped)):
        assert stands(*both).truth == "a"
    assert stands(skipped, said(RETRACT, "ann")).place is None


def test_a_person_has_one_opinion_which_is_his_last() -> None:
    changed = stands(said(CORRECT, "ann", "b"), said(CORRECT, "ann", "c"), said(ACCEPT, "bob"))
    assert changed.opinions == {1: "c", 2: "a"}
    assert stands(said(CORRECT, "ann", "b"), said(ABSTAIN, "ann")).opinions == {}


SAID = st.builds(
    said,
    kind=st.sampled_from([ACCEPT, CORRECT, REJECT, ABSTAIN, RETRACT]),
    who=st.sampled_from(["ann", "bob"]),
    label=st.sampled_from([None, "b", "c", "unknown"]),
    t=st.sampled_from([AT - E - 1, AT - E, AT, AT + 1, AT + W, AT + W + 1]),
    name=st.sampled_from([None, None, "x"]),
)


TWO = replace(RULES, reviewers=Consensus(of=3, agree=2))


def two(*given: Said) -> Standing:
    return standing(TWO, SEEN, AT, given)


def test_nothing_stands_until_enough_agree_and_who_has_looked_is_told() -> None:
    ann, bob, eve = said(ACCEPT, "ann"), said(CORRECT, "bob", "b"), said(CORRECT, "eve", "a")
    skipped = said(ABSTAIN, "dan")
    waiting = two(ann, skipped, bob)
    assert waiting == Standing(None, None, {0: "a", 2: "b"}, frozenset({0, 1, 2}))
    agreed = two(ann, skipped, bob, eve)
    assert (agreed.place, agreed.truth) == (3, "a")
    assert agreed.opinions == {0: "a", 2: "b", 3: "a"}


def test_a_skip_of_one_does_not_answer_for_the_others() -> None:
    assert two(said(ABSTAIN, "ann")) == Standing(None, None, {}, frozenset({0}))


def test_those_who_disagree_are_a_seniors_matter_until_it_is_decided() -> None:
    three = [said(CORRECT, who, label) for who, label in (("ann", "a"), ("bob", "b"), ("eve", "c"))]
    assert not two(*three[:2]).senior
    assert two(*three).senior
    sue = said(CORRECT, "sue", "c")
    decided = two(*three, sue._replace(verdict=sue.verdict._replace(senior=True)))
    assert (decided.truth, decided.senior) == ("c", False)


def test_who_agreed_is_asked_again_when_another_takes_his_word_back() -> None:
    both = said(ACCEPT, "ann"), said(ACCEPT, "bob")
    assert two(*both).heard == {0, 1}
    assert two(*both, said(RETRACT, "ann")) == Standing(None, None, {1: "a"})


@given(
    came=st.lists(
        st.builds(
            lambda each, senior: each._replace(verdict=each.verdict._replace(senior=senior)),
            SAID,
            st.booleans(),
        ),
        max_size=8,
    ),
    corrections=st.sampled_from([LEARN_AGAIN, KEEP_FIRST, REPAIR]),
)
def test_what_several_agree_on_stands_if_and_only_if_the_join_has_it_stand(
    came: list[Said], corrections: str
) -> None:
    rules = replace(TWO, corrections=corrections, reviewers=Consensus(of=2, agree=2))
    held = joined(rules, sorted(came, key=lambda each: each.t))
    found = standing(rules, SEEN, AT, sorted(came, key=lambda each: each.t))
    decisions = [each.decision for each in held.opinions if each.decision is not None]
    assert found.place == (max(decisions) if decisions else None)
    assert found.senior == held.disagree


@given(
    came=st.lists(SAID, max_size=6), corrections=st.sampled_from([LEARN_AGAIN, KEEP_FIRST, REPAIR])
)
def test_a_lesson_stands_if_and_only_if_the_join_has_it_stand(
    came: list[Said], corrections: str
) -> None:
    rules = replace(RULES, corrections=corrections)
    came = sorted(came, key=lambda each: each.t)
    taught = [each.offset for each in joined(rules, came).taught]
    found = standing(rules, SEEN, AT, came)
    if taught:
        assert (found.place, found.truth is None) == (taught[-1], False)
    else:
        assert found.truth is None


def joined(rules: Rules, came: list[Said]) -> Held:
    """What the join keeps of the prediction."""
    records = {b"%d" % place: each.verdict for place, each in enumerate(came)}
    join = Join(rules, 0, lambda _: SEEN, lambda value: records[value])
    entry: Entry | None = None
    predicted = False
    for place, each in enumerate(came):
        if each.t >= AT and not predicted:
            entry, predicted = join.on_prediction(entry, b"e", AT, 0, b"p", asked=False).entry, True
        entry = join.on_feedback(entry, each.t, place, b"%d" % place, each.verdict).entry
    if not predicted:
        entry = join.on_prediction(entry, b"e", AT, 0, b"p", asked=False).entry
    assert entry is not None
    return entry.predictions[0]
