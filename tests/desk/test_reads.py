from __future__ import annotations

import json

import pytest

from streams.core.errors import BadRecord, Conflict, NotFound
from streams.core.events import ACCEPT, CORRECT, DeadLetter
from streams.desk.filters import Filter
from tests.desk.desks import Desk, feedback, outcome, prediction


@pytest.fixture
def filled(desk: Desk) -> Desk:
    """A desk that has seen four predictions and two verdicts."""
    desk.take(prediction("p1", True, 0.9, text="Free 100% money"), at=1_000)
    desk.take(prediction("p2", False, 0.55, version=5), at=1_001)
    desk.take(prediction("p3/it's", None, None, route="review"), at=1_002)
    desk.take(prediction("p4", True, 0.8), at=1_003)
    said = feedback("p1", ACCEPT), feedback("p2", CORRECT, True, "bob", channel="git")
    desk.take(*said, at=1_004)
    desk.now = 1_004
    return desk


FILTERS = [
    (Filter(), ["p4", "p3/it's", "p2", "p1"]),
    (Filter(label=True), ["p4", "p1"]),
    (Filter(confidence_from=0.55, confidence_to=0.8), ["p4", "p2"]),
    (Filter(model_version=5), ["p2"]),
    (Filter(route="review"), ["p3/it's"]),
    (Filter(channel="git"), ["p2"]),
    (Filter(reviewer="ann"), ["p1"]),
    (Filter(text="100% MONEY"), ["p1"]),
    (Filter(text="%"), ["p1"]),
    (Filter(text="it's"), ["p3/it's"]),
    (Filter(answered=True), ["p2", "p1"]),
    (Filter(answered=False), ["p4", "p3/it's"]),
    (Filter(lane="sure"), ["p4", "p1"]),
    (Filter(lane="unsure"), ["p3/it's", "p2"]),
]


def test_browse_filters(filled: Desk) -> None:
    for wanted, event_ids in FILTERS:
        assert [seen.event_id for seen in filled.reads.browse(wanted).rows] == event_ids, wanted


def test_pages_follow_each_other_without_gaps(filled: Desk) -> None:
    first = filled.reads.browse(Filter(), limit=3)
    second = filled.reads.browse(Filter(), first.after, limit=3)
    assert [len(first.rows), len(second.rows), second.after] == [3, 1, None]
    for wrong in ("x", "[1]", '["a", 1]', "{}"):
        with pytest.raises(BadRecord, match="not what a page gave"):
            filled.reads.browse(Filter(), wrong)


def test_a_row_tells_the_verdict_that_stands(filled: Desk) -> None:
    seen = {row.event_id: row for row in filled.reads.browse(Filter()).rows}
    assert (seen["p1"].verdict, seen["p1"].truth, seen["p1"].reviewer) == (ACCEPT, True, "ann")
    assert (seen["p2"].truth, seen["p2"].channel) == (True, "git")
    assert (seen["p4"].verdict, seen["p4"].answered_at) == (None, None)
    filled.take(feedback("p1", "retract"))
    assert filled.reads.browse(Filter(answered=True)).rows[-1].event_id == "p2"


def test_the_lanes_are_the_two_halves(filled: Desk) -> None:
    lanes = filled.reads.lanes(Filter(route="auto"))
    assert [seen.event_id for seen in lanes.sure.rows] == ["p4", "p1"]
    assert [seen.event_id for seen in lanes.unsure.rows] == ["p2"]


def test_the_story_of_an_event_is_told_in_order(filled: Desk) -> None:
    said = feedback("p1", ACCEPT)
    filled.take(outcome(said, 0), at=5_000)
    letter = DeadLetter(
        "tests.feedback", 0, 9, 1, b"", b"", [], "joiner", "join", "bad", "p1", None, 2
    )
    filled.take(letter, at=6_000)
    story = filled.reads.story("p1")
    assert [moment.kind for moment in story.moments] == [
        *("prediction", "feedback", "outcome", "dead letter")
    ]
    (opinion,) = story.opinions
    assert (opinion.feedback.reviewer, opinion.status, opinion.model_version) == (
        "ann",
        "learned",
        4,
    )
    assert story.prediction is not None
    assert story.prediction.features == {"a": 1.0}
    with pytest.raises(NotFound, match="no event 'x' is known"):
        filled.reads.story("x")


def test_trouble_names_letters_lost_verdicts_and_disputes(filled: Desk) -> None:
    letter = DeadLetter(
        "tests.inputs", 0, 9, 1, b"", b"", [], "predictor", "decode", "bad", None, None, 2
    )
    other = feedback("p2", CORRECT, False, "eve")
    filled.take(letter, other, outcome(feedback("p9"), 7, "orphaned", None), at=7_000)
    trouble = filled.reads.trouble()
    assert [each.reason for each in trouble.letters] == ["bad"]
    assert [(each.event_id, each.status) for each in trouble.lost] == [("p9", "orphaned")]
    (dispute,) = trouble.disputes
    assert (dispute.event_id, dict(dispute.says)) == ("p2", {"bob": True, "eve": False})
    filled.take(feedback("p2", CORRECT, True, "eve"))
    assert filled.reads.trouble().disputes == ()
    filled.take(feedback("p2", CORRECT, False, "ann"), feedback("p2", "retract", None, "ann"))
    assert filled.reads.trouble().disputes == ()


def test_a_search_has_a_limit(desk: Desk) -> None:
    with pytest.raises(BadRecord, match="at most 200 characters"):
        desk.reads.browse(Filter(text="x" * 201))
    with pytest.raises(BadRecord, match="lane 'x' is none of sure, unsure"):
        desk.reads.browse(Filter(lane="x"))


@pytest.mark.parametrize("wrong", ["\ud800", "\x00"])
def test_what_no_database_holds_is_refused_in_words(desk: Desk, wrong: str) -> None:
    for wanted in (Filter(label=wrong), Filter(reviewer=wrong), Filter(text=wrong)):
        with pytest.raises(BadRecord, match=r"Unicode|zero"):
            desk.reads.browse(wanted)
    with pytest.raises(BadRecord, match=r"Unicode|zero"):
        desk.reads.browse(Filter(), json.dumps([1, wrong]))
    with pytest.raises(BadRecord, match=r"Unicode|zero"):
        desk.reads.story(wrong)
    for ask in (desk.work.lease, desk.work.release):
        with pytest.raises(BadRecord, match=r"Unicode|zero"):
            ask("ann", wrong, desk.now)


def test_an_orphaned_verdict_can_be_said_again_once_its_event_is_there(filled: Desk) -> None:
    early = feedback("late", CORRECT, False, "eve", "f-9")
    at = filled.offsets["Feedback"]
    filled.take(early)
    with pytest.raises(NotFound, match=f"no verdict with an outcome is known at 0-{at}"):
        filled.reads.again(0, at)
    filled.take(outcome(early, at, "orphaned", None))
    with pytest.raises(Conflict, match="event 'late' is still unknown"):
        filled.reads.again(0, at)
    filled.take(prediction("late"))
    assert filled.reads.again(0, at) == early._replace(feedback_id="f-9/again")
    (lost,) = filled.reads.trouble().lost
    assert (lost.partition, lost.offset) == (0, at)
    learned = feedback("p1", ACCEPT)
    filled.take(learned, outcome(learned, at + 1))
    with pytest.raises(Conflict, match="is learned, not orphaned"):
        filled.reads.again(0, at + 1)
