from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import delete, select

from streams.core.errors import BadRecord, Conflict, NotFound, Unavailable
from streams.core.events import ACCEPT, CORRECT, REJECT, RETRACT, Feedback
from streams.desk.outbox import Confirmed, Sender, Verdict
from streams.desk.tables import leases, outbox
from tests.desk.desks import HOUR_MS, Desk, feedback, prediction


def test_a_verdict_is_stored_with_its_id_before_it_is_sent(desk: Desk) -> None:
    desk.ask("a")
    (item,) = desk.next("ann")
    verdict = Verdict(event_id="a", kind=CORRECT, label=False, comment="no", lease=item.lease)
    confirmed = desk.outbox.confirm("ann", verdict, desk.now)
    assert desk.outbox.undelivered() == 1
    assert desk.outbox.last("ann") == confirmed.feedback_id
    kafka = Kafka()
    Sender(desk.store, kafka.connect).deliver()
    assert kafka.taken == [
        Feedback(
            *(confirmed.feedback_id, "a", CORRECT, False, None, "ann", "desk", None, "no", desk.now)
        )
    ]


def test_the_same_id_again_is_the_same_verdict_and_another_one_is_refused(desk: Desk) -> None:
    desk.take(prediction("a"))
    verdict = Verdict(event_id="a", kind=ACCEPT, feedback_id="mine")
    first = desk.outbox.confirm("ann", verdict, desk.now)
    again = desk.outbox.confirm("ann", verdict, desk.now + 5)
    assert again == Confirmed("mine", "a", first.confirmed_at, None, repeated=True)
    with pytest.raises(Conflict, match="belongs to another verdict"):
        desk.outbox.confirm("bob", verdict, desk.now)
    assert desk.outbox.undelivered() == 1


REFUSED: list[tuple[Verdict, type[Exception], str]] = [
    (Verdict(event_id="unknown", kind=ACCEPT), NotFound, "no event 'unknown' was predicted"),
    (Verdict(event_id="", kind=ACCEPT), BadRecord, "1 to 512 bytes"),
    (Verdict(event_id="a", kind="maybe"), BadRecord, "'maybe' is none of accept"),
    (Verdict(event_id="a", kind=CORRECT), BadRecord, "correct needs the true label"),
    (Verdict(event_id="a", kind=CORRECT, label="spam"), BadRecord, "'spam' is not a class"),
    (Verdict(event_id="a", kind=REJECT, label=True), BadRecord, "send correct with the label"),
    (Verdict(event_id="a", kind=ACCEPT, comment="x" * 1_000_000), BadRecord, "1,000,000 char"),
    (Verdict(event_id="a", kind=ACCEPT, comment="\ud800"), BadRecord, "not valid Unicode"),
    (Verdict(event_id="a", kind=ACCEPT, comment="\x00"), BadRecord, "zero character"),
    (Verdict(event_id="a", kind=ACCEPT, lease="not one"), Conflict, "lease on event 'a' has"),
    (Verdict(event_id="a", kind=RETRACT), Conflict, "said nothing about event 'a'"),
    (Verdict(event_id="a", kind=ACCEPT, feedback_id="x" * 513), BadRecord, "feedback_id has to"),
]


def test_what_cannot_be_learned_is_refused_in_words_and_changes_nothing(desk: Desk) -> None:
    desk.ask("a")
    held = desk.next("ann")
    for verdict, error, words in REFUSED:
        with pytest.raises(error, match=words):
            desk.outbox.confirm("ann", verdict, desk.now)
    assert desk.outbox.undelivered() == 0
    assert desk.next("ann") == held


def test_a_verdict_comes_too_late_for_the_window_the_lease_or_another(desk: Desk) -> None:
    desk.ask("a")
    (item,) = desk.next("ann")
    verdict = Verdict(event_id="a", kind=ACCEPT, lease=item.lease)
    with pytest.raises(Conflict, match="held by ann for 60 more"):
        desk.outbox.confirm("bob", Verdict(event_id="a", kind=ACCEPT), desk.now)
    with pytest.raises(Conflict, match="lease on event 'a' has ended"):
        desk.outbox.confirm("ann", verdict, item.until)
    with pytest.raises(Conflict, match="is expired"):
        desk.outbox.confirm("ann", Verdict(event_id="a", kind=ACCEPT), desk.now + HOUR_MS + 1)
    desk.outbox.confirm("ann", verdict, desk.now)
    with pytest.raises(Conflict, match="has ended"):
        desk.outbox.confirm("ann", verdict, desk.now)
    with pytest.raises(Conflict, match="you have said accept about event 'a' already"):
        desk.say("ann", "a", ACCEPT)


def test_ids_may_hold_anything_that_text_can(desk: Desk) -> None:
    event_id = "../a/\"b'; DROP TABLE outbox;--<script>\u202e🐙"
    desk.ask(event_id)
    said = desk.say('o\'neil "x"', event_id, ACCEPT)
    assert desk.outbox.last('o\'neil "x"') == said
    assert desk.outbox.undo('o\'neil "x"', said, desk.now).event_id == event_id


def test_a_verdict_from_elsewhere_can_be_taken_back_here(desk: Desk) -> None:
    desk.take(prediction("a"), feedback("a", reviewer="ann"))
    desk.say("ann", "a", RETRACT)
    with pytest.raises(Conflict, match="said nothing"):
        desk.say("ann", "a", RETRACT)


def test_an_undo_takes_back_the_verdict_it_names_and_no_other_however_often_it_is_sent(
    desk: Desk,
) -> None:
    desk.ask("a", "b")
    first, second = desk.say("ann", "a", ACCEPT), desk.say("ann", "b", ACCEPT)
    done = desk.outbox.undo("ann", second, desk.now)
    again = desk.outbox.undo("ann", second, desk.now + 1)
    assert (again.feedback_id, again.repeated) == (done.feedback_id, True)
    assert desk.outbox.last("ann") == first
    assert desk.answered(desk.next("bob", 5)) == ["b"]


def test_an_undo_after_an_overrule_leaves_the_others_verdict(desk: Desk) -> None:
    desk.ask("a", "b")
    desk.say("ann", "b", ACCEPT)
    mine = desk.say("ann", "a", ACCEPT)
    theirs = desk.say("bob", "a", REJECT)
    assert (desk.outbox.last("ann"), desk.outbox.last("bob")) == (mine, theirs)
    desk.outbox.undo("ann", mine, desk.now)
    assert desk.next("eve", 5) == []  # bob's stands
    desk.outbox.undo("bob", theirs, desk.now)
    assert desk.answered(desk.next("eve", 5)) == ["a"]


def test_only_ones_own_last_word_that_was_given_at_the_desk_is_undone(desk: Desk) -> None:
    desk.ask("a", "b")
    by_tool = Verdict(event_id="b", kind=ACCEPT, channel="api", feedback_id="tool")
    desk.outbox.confirm("ann", by_tool, desk.now)
    assert desk.outbox.last("ann") is None
    early = desk.say("ann", "a", ACCEPT)
    late = desk.say("ann", "a", REJECT)
    for who, wrong in (("ann", "tool"), ("bob", late), ("ann", "none")):
        with pytest.raises(NotFound, match="no verdict"):
            desk.outbox.undo(who, wrong, desk.now)
    with pytest.raises(Conflict, match="something else about event 'a' since"):
        desk.outbox.undo("ann", early, desk.now)
    desk.outbox.undo("ann", late, desk.now)
    assert desk.outbox.last("ann") is None


class Kafka:
    """Takes verdicts, or is down."""

    def __init__(self) -> None:
        self.taken: list[Feedback] = []
        self.connected = 0
        self.down = threading.Event()
        self.enough: Callable[[], bool] = lambda: True
        self.came = threading.Event()

    def connect(self) -> Callable[[Sequence[Feedback]], None]:
        self.connected += 1
        return self._deliver

    def _deliver(self, said: Sequence[Feedback]) -> None:
        if self.down.is_set():
            self.came.set()
            raise Unavailable("Kafka is down")
        self.taken += said
        self.came.set()


def test_verdicts_are_delivered_in_order_and_once_when_all_is_well(desk: Desk) -> None:
    kafka = Kafka()
    desk.take(prediction("a"), prediction("b"))
    ids = [desk.say("ann", "a", ACCEPT), desk.say("ann", "b", REJECT), desk.say("bob", "a", REJECT)]
    sender = Sender(desk.store, kafka.connect)
    assert [sender.deliver(), sender.deliver()] == [3, 0]
    assert [said.feedback_id for said in kafka.taken] == ids
    assert desk.outbox.undelivered() == 0


def test_while_kafka_is_down_verdicts_wait_and_then_go(desk: Desk) -> None:
    kafka, told = Kafka(), threading.Event()
    kafka.down.set()
    desk.take(prediction("a"))
    sender = Sender(desk.store, kafka.connect, lambda count: told.set())
    desk.outbox.wake = sender.wake
    sender.start()
    try:
        said = desk.say("ann", "a", ACCEPT)
        assert kafka.came.wait(10)
        assert desk.outbox.undelivered() == 1
        kafka.down.clear()
        assert told.wait(10)
    finally:
        sender.stop()
    assert [each.feedback_id for each in kafka.taken] == [said]
    assert kafka.connected >= 2
    assert sender.trouble is None


def test_what_a_killed_desk_had_confirmed_is_delivered_by_the_next(desk: Desk) -> None:
    kafka = Kafka()
    desk.take(prediction("a"))
    said = desk.say("ann", "a", ACCEPT)
    # between the delivery and the note of it: it goes twice, under one id
    kafka.connect()([Feedback(said, "a", ACCEPT, reviewer="ann")])
    Sender(desk.store, kafka.connect).deliver()
    assert {each.feedback_id for each in kafka.taken} == {said}
    with desk.store.reading() as connection:
        assert connection.scalar(select(outbox.c.delivered_at)) is not None


def test_an_answer_gives_the_item_back(desk: Desk) -> None:
    desk.ask("a")
    (item,) = desk.next("ann")
    desk.outbox.confirm("ann", Verdict(event_id="a", kind=ACCEPT, lease=item.lease), desk.now)
    with desk.store.writing() as connection:
        assert connection.execute(delete(leases)).rowcount == 0
