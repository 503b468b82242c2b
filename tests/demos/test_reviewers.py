from __future__ import annotations

from streams.core.events import Label, Review
from streams.demos import reviewers
from streams.demos.reviewers import Reviewers, verdict


def review(event_id: str, label: Label | None = True) -> Review:
    return Review(event_id, label, {}, 0.9, {}, None, None, "", 0, "all", 1.0, None, 0.0, 0, 10**15)


def test_a_right_answer_is_accepted_and_a_wrong_or_missing_one_corrected() -> None:
    told = [verdict(review("a", label), True) for label in (True, False, None)]
    assert [(each.verdict, each.label) for each in told] == [
        ("accept", True),
        ("correct", True),
        ("correct", True),
    ]


def test_every_event_is_answered_after_a_while_of_its_own() -> None:
    truths: dict[str, Label] = {f"e-{i}": True for i in range(200)}
    people = Reviewers(truths)
    for event_id in truths:
        people.ask(review(event_id), now=100.0)
    assert people.answers(100.0 + reviewers.FASTEST_S - 0.01) == []
    early = people.answers(101.0)
    late = people.answers(100.0 + reviewers.SLOWEST_S + reviewers.TWICE_AFTER_S)
    assert 20 < len(early) < 180
    assert {each.event_id for each in early + late} == set(truths)


def test_some_verdicts_are_sent_twice_with_the_same_feedback_id() -> None:
    truths: dict[str, Label] = {f"e-{i}": True for i in range(500)}
    people = Reviewers(truths)
    for event_id in truths:
        people.ask(review(event_id), now=0.0)
    given = people.answers(10.0)
    ids = {each.feedback_id for each in given}
    assert len(ids) == 500
    assert 5 < len(given) - len(ids) < 50


def test_a_review_that_is_asked_for_again_is_answered_once() -> None:
    people = Reviewers({"a": True})
    people.ask(review("a"), 0.0)
    people.ask(review("a"), 0.1)
    assert len({each.feedback_id for each in people.answers(10.0)}) == 1


def test_events_of_others_are_left_alone() -> None:
    people = Reviewers({"a": True})
    people.ask(review("foreign"), 0.0)
    assert people.answers(10.0) == []
