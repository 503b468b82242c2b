from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import Engine, event, select

from streams.core.consensus import REPAIR, Consensus
from streams.core.errors import BadRecord, Conflict, NotFound
from streams.core.events import ABSTAIN, ACCEPT, CORRECT
from streams.desk.outbox import Verdict
from streams.desk.people import REVIEWER, SENIOR, People
from streams.desk.store import Store, open_store
from streams.desk.tables import outbox
from streams.desk.work import MOST
from tests.desk.desks import HOUR_MS, RULES, Desk, feedback, prediction, review
from tests.desk.postgres import PostgreSQL

LEASE_MS = 60_000
PEOPLE = ("ann", "bob", "eve")


def test_the_most_urgent_comes_first_and_a_reviewer_keeps_what_he_holds(desk: Desk) -> None:
    desk.ask("low")
    desk.ask("high", priority=2.0)
    (first,) = desk.next("ann")
    assert first.review.event_id == "high"
    assert [item.lease for item in desk.next("ann")] == [first.lease]
    assert desk.answered(desk.next("ann", 2)) == ["high", "low"]


def test_two_people_never_hold_the_same_item(desk: Desk) -> None:
    desk.ask("a", "b")
    given = desk.answered(desk.next("ann")) + desk.answered(desk.next("bob"))
    assert sorted(given) == ["a", "b"]
    assert desk.next("eve") == []
    with pytest.raises(Conflict, match="is held by ann for 60 more seconds"):
        desk.work.lease("eve", given[0], desk.now)


def test_a_lease_that_ends_or_is_given_back_frees_the_item(desk: Desk) -> None:
    desk.ask("a")
    (item,) = desk.next("ann")
    desk.now += LEASE_MS - 1
    desk.now = desk.work.renew("ann", item.lease, desk.now).until - 1
    assert desk.next("bob") == []
    desk.now += 1
    assert desk.answered(desk.next("bob")) == ["a"]
    with pytest.raises(Conflict, match="not yours any more"):
        desk.work.renew("ann", item.lease, desk.now)
    desk.work.release("bob", desk.next("bob")[0].lease, desk.now)
    assert desk.answered(desk.next("ann")) == ["a"]
    assert desk.work.release_all("ann") == 1
    assert desk.work.held(desk.now) == []


def test_what_is_postponed_comes_back(desk: Desk) -> None:
    desk.ask("a")
    (item,) = desk.next("ann")
    with pytest.raises(BadRecord, match="at most 30 days"):
        desk.work.postpone("ann", item.lease, desk.now, desk.now)
    desk.work.postpone("ann", item.lease, desk.now + 500, desk.now)
    assert desk.next("ann") == desk.next("bob") == []
    desk.now += 500
    assert desk.answered(desk.next("bob")) == ["a"]


def test_an_item_is_gone_with_its_answer_or_its_deadline(desk: Desk) -> None:
    desk.ask("said", "elsewhere", "late")
    desk.say("ann", "said", ACCEPT)
    desk.take(feedback("elsewhere", reviewer="bob"))
    assert desk.answered(desk.next("ann", 5)) == ["late"]
    desk.work.release_all("ann")
    for event_id in ("said", "elsewhere"):
        with pytest.raises(Conflict, match="answered already"):
            desk.work.lease("ann", event_id, desk.now)
        assert desk.work.holder(event_id, desk.now) is None
    with pytest.raises(NotFound, match="nobody is asked"):
        desk.work.lease("ann", "unknown", desk.now)
    desk.now += HOUR_MS
    assert desk.next("ann", 5) == []


def test_an_undone_answer_waits_again(desk: Desk) -> None:
    desk.ask("a")
    said = desk.say("ann", "a", ACCEPT)
    assert desk.next("bob") == []
    desk.outbox.undo("ann", said, desk.now)
    assert desk.answered(desk.next("bob")) == ["a"]


def test_a_named_item_can_be_had_and_is_the_same_in_two_windows(desk: Desk) -> None:
    desk.ask("a", "b")
    item = desk.work.lease("ann", "b", desk.now)
    assert desk.work.lease("ann", "b", desk.now + 1).lease == item.lease
    holder = desk.work.holder("b", desk.now)
    assert holder is not None
    assert (holder.reviewer, holder.lease) == ("ann", item.lease)


def test_many_at_once_share_the_items_without_one_twice(desk: Desk) -> None:
    desk.ask(*(f"e{number}" for number in range(60)))
    told: list[str] = []
    failed: list[BaseException] = []

    def work(reviewer: str) -> None:
        try:
            while items := desk.work.next(reviewer, desk.now, 2):
                event_id = items[0].review.event_id
                verdict = Verdict(event_id=event_id, kind=CORRECT, label=True, lease=items[0].lease)
                desk.outbox.confirm(reviewer, verdict, desk.now)
                told.append(event_id)
        except BaseException as error:  # noqa: BLE001  told by the test
            failed.append(error)

    threads = [threading.Thread(target=work, args=(f"r{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert Counter(told) == Counter(f"e{number}" for number in range(60))


def test_what_is_over_does_not_keep_its_holder_from_the_next(desk: Desk) -> None:
    desk.ask("answered", "taught", "late", priority=1.0)
    assert len(desk.next("ann", 3)) == 3
    desk.say("ann", "answered", ACCEPT)
    desk.take(feedback("taught", reviewer="bob"))
    desk.now += LEASE_MS - 1
    assert desk.answered(desk.next("ann", 3)) == ["late"]
    for _ in range(HOUR_MS // LEASE_MS + 1):
        desk.now += LEASE_MS - 1
        desk.next("ann")
    desk.ask("new")
    assert desk.answered(desk.next("ann", 3)) == ["new"]


def test_a_verdict_that_teaches_nothing_leaves_the_item_in_the_queue(desk: Desk) -> None:
    desk.ask("a")
    desk.take(feedback("a", CORRECT, "unknown"), feedback("a", "retract"), feedback("a", "praise"))
    assert desk.answered(desk.next("ann")) == ["a"]


def test_a_correction_that_is_taken_back_where_the_loop_repairs_asks_again(store: Store) -> None:
    desk = Desk(store, replace(RULES, corrections=REPAIR))
    desk.ask("a")
    desk.take(feedback("a"), feedback("a", CORRECT, False, "bob"))
    assert desk.next("eve") == []
    desk.take(feedback("a", "retract", None, "bob"))
    assert desk.answered(desk.next("eve")) == ["a"]


def test_what_elsewhere_was_taken_back_is_asked_again_though_it_was_answered_here(
    desk: Desk,
) -> None:
    desk.ask("a")
    said = desk.say("ann", "a", ACCEPT)
    assert desk.next("bob") == []
    desk.take(feedback("a", feedback_id=said), feedback("a", "retract"))
    assert desk.answered(desk.next("bob")) == ["a"]


def test_an_event_that_is_asked_again_after_it_was_forgotten_reaches_the_same_people(
    desk: Desk,
) -> None:
    desk.ask("a", "b")
    desk.work.postpone("ann", desk.work.lease("ann", "b", 1_000).lease, 9 * HOUR_MS, desk.now)
    said = desk.say("ann", "a", ACCEPT)
    desk.take(feedback("a", feedback_id=said))
    desk.now += 2 * HOUR_MS + 1
    desk.ask("a", "b")
    assert desk.answered(desk.next("ann", 2)) == ["a", "b"]
    desk.say("ann", "a", ACCEPT)
    assert desk.outbox.undelivered() == 2


def test_nobody_holds_more_than_he_may(desk: Desk) -> None:
    desk.ask(*(f"e{number:02}" for number in range(MOST + 1)))
    held = desk.next("ann", MOST)
    with pytest.raises(Conflict, match="you hold 20 items"):
        desk.work.lease("ann", f"e{MOST}", desk.now)
    assert desk.work.holder(f"e{MOST}", desk.now) is None
    desk.work.release("ann", held[0].lease, desk.now)
    assert desk.work.lease("ann", f"e{MOST}", desk.now).review.event_id == f"e{MOST}"


def test_what_was_answered_between_the_look_and_the_lease_is_not_given_out(
    postgresql: PostgreSQL,
) -> None:
    store = open_store(postgresql.database(), "tests")  # with SQLite nobody can come between
    desk = Desk(store)
    desk.ask("a", "b")

    def answer(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "SKIP LOCKED" in statement and desk.outbox.last("bob") is None:
            desk.say("bob", "a", ACCEPT)

    event.listen(Engine, "after_cursor_execute", answer)
    try:
        assert desk.answered(desk.next("ann")) == ["b"]
    finally:
        event.remove(Engine, "after_cursor_execute", answer)
    assert desk.work.holder("a", desk.now) is None
    store.close()


class Leases(RuleBasedStateMachine):
    """Whatever people do, and however late: nobody is given what another holds, and nothing is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name) / "desk.sqlite"
        self.desk = Desk(open_store(f"sqlite:///{path}", "tests"))
        self.names: Iterator[int] = count()
        self.held: dict[str, tuple[str, str, int]] = {}
        self.away: dict[str, int] = {}
        self.open: set[str] = set()

    def teardown(self) -> None:
        self.desk.store.close()
        self.folder.cleanup()

    @rule(priority=st.integers(0, 2))
    def ask(self, priority: int) -> None:
        event_id = f"e{next(self.names)}"
        self.desk.ask(event_id, priority=priority)
        self.open.add(event_id)

    @rule(who=st.sampled_from(PEOPLE), many=st.integers(1, 3))
    def next(self, who: str, many: int) -> None:
        now = self.desk.now
        items = self.desk.next(who, many)
        for item in items:
            event_id = item.review.event_id
            holder = self.held.get(event_id)
            assert holder is None or holder[0] == who or holder[2] <= now
            assert event_id in self.open
        for event_id, (holder_, token, until) in list(self.held.items()):
            if holder_ == who and until > now:
                self.held[event_id] = (who, token, now + LEASE_MS)
        for item in items:
            self.held[item.review.event_id] = (who, item.lease, item.until)
            self.away.pop(item.review.event_id, None)
        if len(items) < many:  # nothing that is free was kept back
            assert self.open <= set(self._kept_from(now)), "something was free"

    def _kept_from(self, now: int) -> set[str]:
        held = {e for e, (_, _, until) in self.held.items() if until > now}
        return held | {e for e, until in self.away.items() if until > now}

    @rule(who=st.sampled_from(PEOPLE), what=st.sampled_from(["release", "postpone", "answer"]))
    def end_one(self, who: str, what: str) -> None:
        now = self.desk.now
        mine = sorted((e, t) for e, (w, t, until) in self.held.items() if w == who and until > now)
        for event_id, token in mine[:1]:
            del self.held[event_id]
            if what == "release":
                self.desk.work.release(who, token, now)
            elif what == "postpone":
                self.away[event_id] = now + 10_000
                self.desk.work.postpone(who, token, now + 10_000, now)
            else:
                self.open.discard(event_id)
                self.desk.outbox.confirm(
                    who, Verdict(event_id=event_id, kind=ACCEPT, lease=token), now
                )

    @rule(who=st.sampled_from(PEOPLE))
    def use_a_lease_that_ended(self, who: str) -> None:
        now = self.desk.now
        for event_id, (holder, token, until) in list(self.held.items()):
            if holder != who or until <= now:
                with pytest.raises(Conflict):
                    self.desk.work.release(who, token, now)
                verdict = Verdict(event_id=event_id, kind=ACCEPT, lease=token)
                with pytest.raises(Conflict):
                    self.desk.outbox.confirm(who, verdict, now)

    @rule(ms=st.sampled_from([1, 9_999, LEASE_MS]))
    def wait(self, ms: int) -> None:
        self.desk.now += ms

    @invariant()
    def holders_are_as_told(self) -> None:
        now = self.desk.now
        told = {held.event_id: held.reviewer for held in self.desk.work.held(now)}
        assert told == {e: who for e, (who, _, until) in self.held.items() if until > now}


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


# Several reviewers


@pytest.fixture
def several(store: Store) -> Desk:
    """A desk where two of three have to agree."""
    rules = replace(
        RULES,
        task="multiclass",
        classes=("a", "b", "c"),
        reviewers=Consensus(of=3, agree=2),
    )
    people = People(store)
    people.add("ann", REVIEWER, 0)
    people.add("sue", SENIOR, 0)
    return Desk(store, rules)


def say(desk: Desk, reviewer: str, label: str, event_id: str = "e", *, comes: bool = True) -> str:
    """A verdict is confirmed and, unless Kafka is away, comes back from the topic."""
    name = desk.say(reviewer, event_id, CORRECT, label)
    said = feedback(event_id, CORRECT, label, reviewer, name)
    if comes:
        desk.take(said._replace(senior=reviewer == "sue"))
    return name


def test_an_item_is_for_each_person_once_until_enough_agree(several: Desk) -> None:
    several.ask("e", label="a")
    say(several, "ann", "a")
    assert several.next("ann") == []
    with pytest.raises(Conflict, match="you have answered event 'e' already: it waits for others"):
        several.work.lease("ann", "e", several.now)
    (item,) = several.next("bob")
    assert item.looked == 1
    assert (item.review.event_id, item.waiting) == ("e", 1)
    assert several.next("eve") == []  # two never hold the same item
    say(several, "bob", "a")
    assert several.next("eve") == []
    with pytest.raises(Conflict, match="answered already"):
        several.work.lease("eve", "e", several.now)


def test_a_skip_is_for_who_skips(several: Desk) -> None:
    several.ask("e", label="a")
    name = several.say("ann", "e", ABSTAIN)
    several.take(feedback("e", ABSTAIN, None, "ann", name))
    assert several.next("ann") == []
    assert several.answered(several.next("bob")) == ["e"]


def test_what_people_disagree_about_is_a_seniors(several: Desk) -> None:
    several.ask("e", "f", label="a")
    for reviewer, label in (("ann", "a"), ("bob", "b"), ("eve", "c")):
        say(several, reviewer, label)
    assert several.answered(several.next("dan", 5)) == ["f"]
    several.work.release_all("dan")
    with pytest.raises(Conflict, match="disagree: it is for a senior"):
        several.work.lease("dan", "e", several.now)
    first, second = several.next("sue", 5)
    assert [first.review.event_id, second.review.event_id] == ["e", "f"]
    assert (first.review.senior, first.review.reason) == (True, "those who were asked disagree")
    assert [each.event_id for each in several.reads.waiting(several.now)] == ["e", "f"]
    say(several, "sue", "c")
    assert several.answered(several.next("sue", 5)) == ["f"]


def test_the_verdict_of_a_senior_says_so_and_those_of_others_do_not(several: Desk) -> None:
    several.ask("e", label="a")
    for reviewer in ("ann", "sue", "nobody"):
        say(several, reviewer, "abc"[len(reviewer) % 3], comes=False)
    with several.store.reading() as connection:
        said = connection.execute(select(outbox.c.reviewer, outbox.c.said)).all()
    assert {row.reviewer: json.loads(row.said)["senior"] for row in said} == {
        "ann": False,
        "sue": True,
        "nobody": False,
    }


def test_a_senior_who_repeats_a_verdict_is_known_to_repeat_it(several: Desk) -> None:
    several.ask("e", label="a")
    verdict = Verdict(event_id="e", kind=CORRECT, label="a", feedback_id="once")
    several.outbox.confirm("sue", verdict, several.now)
    assert several.outbox.confirm("sue", verdict, several.now).repeated


def test_who_agreed_may_say_the_same_again_when_the_other_takes_it_back(several: Desk) -> None:
    several.ask("e", label="a")
    say(several, "bob", "a")
    name = say(several, "ann", "a")
    assert several.next("eve") == []
    with pytest.raises(Conflict, match="you have said correct"):
        several.say("bob", "e", CORRECT, "a")
    undone = several.outbox.undo("ann", name, several.now)
    several.take(feedback("e", "retract", None, "ann", undone.feedback_id))
    assert several.answered(several.next("bob")) == ["e"]
    assert several.say("bob", "e", CORRECT, "a")


def test_what_nobody_was_asked_about_goes_to_a_senior_when_volunteers_disagree(
    several: Desk,
) -> None:
    said = prediction("e", "a")
    several.take(said)
    for reviewer, label in (("ann", "a"), ("bob", "b"), ("eve", "c")):
        say(several, reviewer, label)
    asked = review(said, several.now, several.now + HOUR_MS)._replace(senior=True)
    several.take(asked)
    assert several.next("dan") == []
    assert several.answered(several.next("sue")) == ["e"]
