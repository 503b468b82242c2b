from __future__ import annotations

import random
from dataclasses import replace

from sqlalchemy import insert

from streams.core.events import ACCEPT, CORRECT, REJECT, Drift, Score
from streams.desk.charts import NOBODY_WATCHES, drifts, over_time
from streams.desk.quality import COUNTED, Cell, Point, Watch, quality
from streams.desk.rows import prediction_row
from streams.desk.store import Store
from streams.desk.tables import predictions
from tests.desk.desks import HOUR_MS, RULES, Desk, feedback, outcome, prediction, review


def test_the_raw_accuracy_is_wrong_and_the_weighted_one_right_where_people_see_hard_cases(
    desk: Desk,
) -> None:
    draw = random.Random(7)
    right_of_all = 0
    made: list[tuple[str, bool, float]] = []
    for number in range(3_000):
        hard = draw.random() < 0.2
        right = draw.random() < (0.5 if hard else 0.98)
        right_of_all += right
        probability = 0.9 if hard else 0.05
        if draw.random() < probability:
            made.append((f"e{number}", right, probability))
    for event_id, right, probability in made:
        desk.take(prediction(event_id, True, route="review", probability=probability))
        desk.take(feedback(event_id, CORRECT, right))
    told = quality(desk.store, desk.now)
    truth = right_of_all / 3_000
    assert told.raw is not None
    assert told.weighted is not None
    assert told.raw.high < truth
    assert told.weighted.low <= truth <= told.weighted.high
    assert told.weighted.cases == len(made)


def test_volunteered_verdicts_have_no_probability_and_are_not_weighed(desk: Desk) -> None:
    desk.take(prediction("auto"), feedback("auto"))
    told = quality(desk.store, desk.now)
    assert (told.raw, told.weighted) == (None, None)
    assert told.confusion == (Cell(True, True, 1),)


def test_what_is_asked_answered_and_left_is_counted_and_timed(desk: Desk) -> None:
    desk.ask("answered", "open")
    late = prediction("late", route="review")
    desk.take(late, review(late, desk.now, desk.now + 500))
    desk.now += 2_000
    said = feedback("answered", ACCEPT)
    desk.take(said)
    desk.now += 1_000
    desk.take(outcome(said, 0), Score("", 4, 1, {"accuracy": 1.0}, 5))
    told = quality(desk.store, desk.now + HOUR_MS)
    assert (told.asked, told.answered, told.unanswered) == (3, 1, 1)
    assert told.unanswered_share == 0.5
    assert told.to_verdict is not None
    assert told.to_model is not None
    assert (told.to_verdict.median, told.to_model.median) == (2.0, 1.0)
    assert {age.up_to: age.count for age in told.waiting if age.count} == {"1 day": 1}
    assert [point.metrics for point in told.history] == [{"accuracy": 1.0}]
    assert [(group.name, group.count) for group in told.reviewers] == [("ann", 1)]
    assert told.calibration[0].confidence == 0.7


def test_people_who_look_at_the_same_agree_or_not(desk: Desk) -> None:
    for number in range(4):
        event_id = f"e{number}"
        desk.take(prediction(event_id), feedback(event_id, CORRECT, number < 2, "ann"))
        desk.take(feedback(event_id, CORRECT, number < 2, "bob"))
    assert quality(desk.store, desk.now).agreement == 1.0
    desk.take(feedback("e0", CORRECT, False, "bob"))
    agreement = quality(desk.store, desk.now).agreement
    assert agreement is not None
    assert agreement < 1.0
    desk.take(feedback("e0", "retract", None, "bob"))
    assert quality(desk.store, desk.now).agreement == 1.0


def test_each_model_has_a_history_of_its_own(desk: Desk) -> None:
    told = quality(desk.store, desk.now)
    assert (told.models, told.model_key, told.history) == ((), None, ())
    for version, key in enumerate(("west", "east", "east", "west", "east"), start=1):
        desk.take(Score(key, version, version, {"accuracy.rolling": version / 10}, 0, None))
    told = quality(desk.store, desk.now)
    assert told.models == ("east", "west")
    assert told.model_key == "east"  # it learned last
    assert [point.model_version for point in told.history] == [2, 3, 5]
    for wanted, shown in (("west", "west"), ("nowhere", "east")):
        told = quality(desk.store, desk.now, wanted)
        assert told.model_key == shown
        assert {point.model_key for point in told.history} == {shown}


def test_a_reject_of_one_answer_of_many_says_that_it_was_wrong(store: Store) -> None:
    desk = Desk(store, replace(RULES, task="multiclass", classes=("a", "b", "c")))
    desk.ask("right", "wrong", label="a")
    desk.take(feedback("right"), feedback("wrong", REJECT))
    told = quality(desk.store, desk.now)
    assert told.raw is not None
    assert (told.raw.value, told.raw.cases) == (0.5, 2)
    assert told.confusion == (Cell("a", "a", 1),)


def test_verdicts_that_were_volunteered_do_not_crowd_out_those_that_were_asked_for(
    desk: Desk,
) -> None:
    desk.ask("asked")
    desk.take(feedback("asked"))
    volunteered = [
        prediction_row(prediction(f"e{number}"), 0, 10 + number, desk.now)
        | {"verdict": ACCEPT, "truth": "true", "answered_at": desk.now + 1}
        for number in range(COUNTED)
    ]
    with desk.store.projecting() as connection:
        connection.execute(insert(predictions), volunteered)
    told = quality(desk.store, desk.now)
    assert told.raw is not None
    assert told.raw.cases == 1


ALARM = Drift("ADWIN", 500, 450, 0.4, 1_700_000_000_000)


def test_of_each_model_the_newest_score_tells_its_drift(desk: Desk) -> None:
    scores = [
        Score("a", 400, 350, {}, 0, []),
        Score("b", 410, 360, {}, 0, []),
        Score("c", 420, 370, {}, 0),
        Score("a", 501, 451, {}, 0, [ALARM]),
    ]
    desk.take(*scores[:2])
    desk.take(*scores[2:])
    told = quality(desk.store, desk.now)
    assert told.watched == (Watch("a", (ALARM,)), Watch("b", ()), Watch("c", None))
    said = drifts(told.watched, "accuracy")
    assert [(alarm.model, alarm.at, alarm.measured) for alarm in said.alarms] == [
        ("a", "2023-11-14 22:13:20", "40% wrong")
    ]
    assert said.says == "No drift so far: b."


def test_drift_is_marked_where_it_is_in_the_drawing_and_told_in_words() -> None:
    history = [Point(0, "", n, n, {"mae.rolling": 1.0}) for n in (400, 500)]
    early, late = ALARM._replace(learned=300), ALARM
    chart = over_time(history, "mae", [Watch("", (early, late))])
    assert chart is not None
    assert [mark.at for mark in chart.marks] == [255.0]
    assert chart.says.endswith("; drift after 450 lessons")


def test_who_has_no_alarm_or_no_detector_is_told_so() -> None:
    assert drifts([Watch("", ())], "accuracy").says == "No drift so far."
    assert drifts([Watch("", (ALARM,))], "accuracy").says == ""
    assert drifts([Watch("", None)], "accuracy").says == NOBODY_WATCHES
    assert drifts([], "accuracy").says == ""
    many = [Watch(f"m{n:02}", ()) for n in range(12)]
    assert drifts(many, "accuracy").says.endswith("m09 and 2 more.")
    assert drifts([Watch("", (ALARM,))], "mae").alarms[0].measured == "off by 0.4"
