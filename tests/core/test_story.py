from __future__ import annotations

from typing import Any

from pyroaring import BitMap64

from streams.core import story
from streams.core.events import (
    AUTO,
    DUPLICATE,
    LEARNED,
    Corrected,
    DeadLetter,
    Example,
    Feedback,
    Input,
    Label,
    Outcome,
    Prediction,
    Review,
    Source,
)
from streams.core.story import Found, Moment

WINDOW_MS = 1_000
LESSON = Source("feedback", 1, 7, "f", "ann", "client")


def at(time: int, topic: str, offset: int, record: Any) -> Found:
    return Found(f"loop.{topic}", 1, offset, time, record)


def predicted(time: int, offset: int = 0) -> Found:
    features = {"a": 1.0}
    record = Prediction(
        "e", True, {"True": 0.9}, 0.9, features, None, None, "", 4, AUTO, "nobody", 0.5
    )
    return at(time, "predictions", offset, record)


def answered(time: int, offset: int = 7, feedback_id: str = "f") -> Found:
    return at(time, "feedback", offset, Feedback(feedback_id, "e", "correct", True, reviewer="ann"))


def became(time: int, status: str, of: int = 7, version: int | None = None) -> Found:
    return at(time, "outcomes", time, Outcome("e", "f", status, None, 1, of, "", version))


def taught(time: int, offset: int = 11) -> Found:
    record = Example(
        *("e", "", {"a": 1.0}, True, 1.0, [LESSON], True, {"True": 0.9}, 4),
        *(AUTO, "nobody", 0.5, 10, 20),
    )
    return at(time, "examples", offset, record)


def excluded(offset: int, *offsets: int, partition: int = 1, kind: str = "exclude") -> Found:
    sources = [
        {
            "topic": "feedback",
            "partition": partition,
            "offsets": BitMap64(list(offsets)).serialize(),
        }
    ]
    fields = {
        "kind": kind,
        "sources": sources,
        "rule": "reviewer ann",
        "who": "bob",
        "why": "tired",
    }
    return at(50 + offset, "examples", offset, fields)


def told(found: list[Found], controls: list[Found] = []) -> tuple[Moment, ...]:  # noqa: B006  a value
    return story.moments(found, controls, WINDOW_MS)


def test_causes_come_before_what_they_cause_in_one_millisecond() -> None:
    review = Review("e", True, {}, None, {}, None, None, "", 4, "all", 1.0, None, 0.5, 5, 9)
    found = [became(5, LEARNED), taught(5), answered(5), at(5, "reviews", 0, review), predicted(5)]
    found.append(at(5, "inputs", 3, Input("e", {"a": 1.0})))
    assert [each.kind for each in told(found)] == [
        "input",
        "prediction",
        "review",
        "feedback",
        "example",
        "outcome",
    ]


def test_a_prediction_counts_unless_an_earlier_one_is_still_remembered() -> None:
    found = [predicted(0), predicted(2_000, 1), predicted(2_001, 2), predicted(4_001, 3)]
    assert [each.says["repeats"] for each in told(found)] == [False, True, False, True]


def test_each_feedback_tells_what_became_of_it_by_its_place() -> None:
    found = [answered(1), answered(2, offset=8), answered(3, offset=9), answered(4, offset=10)]
    found += [became(5, LEARNED, 7, 12), became(6, LEARNED, 7, 12), became(7, DUPLICATE, 8)]
    letter = DeadLetter(
        *("loop.feedback", 1, 9, 3, b"e", b"", []),
        *("joiner", "join", "no such class", "e", "f", 9),
    )
    found.append(at(9, "dead-letters", 0, letter))
    moments = told(found)
    feedback = [each.says for each in moments if each.kind == story.ANSWERED]
    assert [(each["outcome"], each["learned_as"]) for each in feedback] == [
        (LEARNED, 12),
        (DUPLICATE, None),
        (story.BURIED, None),
        (story.WAITS, None),
    ]
    assert feedback[2]["detail"] == "no such class"
    assert feedback[0]["reviewer"] == "ann"
    assert [each.kind for each in moments].count(story.OUTCOME) == 2  # the one told twice is one


def test_an_example_names_the_version_it_made_and_its_copy_is_known() -> None:
    moments = told([taught(1), taught(2, offset=12), became(3, LEARNED, 7, 12)])
    lessons = [each.says for each in moments if each.kind == story.TAUGHT]
    assert [(each["version"], each["repeats"], each["told"]) for each in lessons] == [
        (12, False, True),
        (13, True, False),
    ]


def test_exclusions_of_its_sources_are_part_of_the_story_and_others_are_not() -> None:
    controls = [
        excluded(20, 3, 7, 9),
        excluded(21, 8),
        excluded(22, 7, partition=0),
        excluded(23, 7, kind="include"),
    ]
    moments = told([taught(1)], controls)
    assert [(each.kind, each.offset) for each in moments[1:]] == [("exclude", 20), ("include", 23)]
    assert moments[1].says == {
        "version": 21,
        "rule": "reviewer ann",
        "who": "bob",
        "why": "tired",
        "sources": [{"topic": "feedback", "partition": 1, "offset": 7}],
    }


def test_of_an_event_that_nobody_knows_there_is_nothing_to_tell() -> None:
    assert told([], [excluded(20, 7)]) == ()


def lesson(offset: int, label: Label | None, *corrects: int) -> Found:
    record: Example = taught(offset, offset).record
    return at(
        offset,
        "examples",
        offset,
        record._replace(
            label=label,
            sources=[LESSON._replace(offset=offset)],
            corrects=[Corrected("feedback", 1, wrong) for wrong in corrects],
        ),
    )


def test_what_the_verdicts_come_to_is_the_last_that_was_not_taken_back() -> None:
    first, second = lesson(1, True), lesson(2, False)
    assert story.given([predicted(0)]) is None
    assert story.given([second, first, predicted(0)]) is False
    assert story.given([first, second, lesson(3, None, 2)]) is True
    assert story.given([first, lesson(3, None, 1)]) is None
    assert story.given([first, lesson(3, False, 1)]) is False
