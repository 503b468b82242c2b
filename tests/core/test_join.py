"""The join: each rule by example, and all of them against a reading of both partitions as a whole, in every order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, naive_bayes, optim, preprocessing, stream, tree

from streams.core.consensus import Consensus
from streams.core.entry import ALONE, Entry, Given, Held, Opinion, Taught, decode, encode
from streams.core.errors import BadRecord, Conflict
from streams.core.events import Example, Feedback, Label, Outcome, Prediction, Review
from streams.core.join import Join, Output, Refused
from streams.core.model import answerer
from streams.core.verdicts import Rules
from tests.core.logs import logistic, phishing

W, E = 10, 3
RULES = Rules(task="binary", classes=(False, True), window_ms=W, early_ms=E)
KEY = b"e"
EPOCH = 100


class P(NamedTuple):
    """A prediction in its partition."""

    t: int
    label: Label | None = True
    asked: bool = False


class F(NamedTuple):
    """A feedback in its partition."""

    t: int
    id: str
    verdict: str = "correct"
    label: Label | None = True
    reviewer: str | None = "ann"
    senior: bool = False


def write_prediction(p: P) -> bytes:
    return json.dumps([p.label, p.t]).encode()


def read_prediction(value: bytes) -> Prediction:
    if value == b"junk":
        raise BadRecord("junk")
    label, t = json.loads(value)
    route = "review", "all", 1.0
    return Prediction("e", label, {"true": 0.9}, 0.75, {"x": t}, None, None, "", t, *route)


def verdict_of(f: F) -> Feedback:
    return Feedback(
        f.id, "e", f.verdict, f.label, reviewer=f.reviewer, channel="desk", senior=f.senior
    )


def read_feedback(value: bytes) -> Feedback:
    return verdict_of(F(*json.loads(value)))


def joining(rules: Rules = RULES) -> Join:
    return Join(rules, 0, read_prediction, read_feedback)


class Reader:
    """Reads the two partitions of one event in whatever order it is told, and keeps the entry as bytes between."""

    def __init__(self, predictions: Sequence[P], feedback: Sequence[F], rules: Rules) -> None:
        self.predictions, self.feedback, self.join = predictions, feedback, joining(rules)
        self.at = [0, 0]
        self.now = 0
        self.entry: Entry | None = None
        self.outputs: list[Output] = []

    def read(self, side: int) -> None:
        """The next record of a side, if there is one."""
        records: Sequence[P | F] = (self.predictions, self.feedback)[side]
        if self.at[side] == len(records):
            return
        offset, record = self.at[side], records[self.at[side]]
        if isinstance(record, P):
            value = write_prediction(record)
            step = self.join.on_prediction(
                self.entry, KEY, record.t, offset, value, asked=record.asked
            )
        else:
            value = json.dumps(record).encode()
            step = self.join.on_feedback(self.entry, record.t, offset, value, verdict_of(record))
        self.at[side] += 1
        self._keep(step.entry, step.outputs)

    def latest(self) -> int:
        """The latest time that both sides may be said to have been read up to."""
        sides: tuple[Sequence[P | F], ...] = (self.predictions, self.feedback)
        return min(
            records[at].t if at < len(records) else 1 << 40
            for records, at in zip(sides, self.at, strict=True)
        )

    def advance(self, now: int) -> None:
        """Time passes, up to ``now`` at most."""
        self.now = max(self.now, min(now, self.latest()))
        if self.entry is not None:
            self._keep(*self.join.on_time(self.entry, KEY, self.now))

    def _keep(self, entry: Entry | None, outputs: Iterable[Output]) -> None:
        self.entry = None if entry is None else decode(encode(entry))
        self.outputs += outputs

    def finish(self) -> list[Output]:
        """Reads what is left, and waits until nothing can happen any more."""
        while self.at != [len(self.predictions), len(self.feedback)]:
            self.read(0)
            self.read(1)
        self.advance(1 << 40)
        assert self.entry is None
        return self.outputs


def summary(outputs: Iterable[Output]) -> Counter[tuple[object, ...]]:
    """What came out, without regard to order."""
    return Counter(map(_told, outputs))


def _told(output: Output) -> tuple[object, ...]:
    if isinstance(output, Example):
        ((topic,),) = [{source.topic for source in output.sources}]
        offsets = [source.offset for source in output.sources]
        where = topic, offsets[0] if len(offsets) == 1 else tuple(offsets)
        corrects = tuple(each.offset for each in output.corrects)
        return "example", *where, output.label, output.weight, output.predicted_at, corrects
    if isinstance(output, Outcome):
        return output.status, "feedback", output.offset, output.feedback_id
    if isinstance(output, Review):
        return "review", output.requested_at, output.deadline, output.opinions, output.senior
    return "refused", output.topic, output.offset


def run(
    predictions: Sequence[P], feedback: Sequence[F], rules: Rules = RULES, order: str = "pf"
) -> Counter[tuple[object, ...]]:
    """Reads one side whole and then the other."""
    reader = Reader(predictions, feedback, rules)
    for side in order:
        for _ in range(len(predictions) + len(feedback)):
            reader.read("pf".index(side))
    return summary(reader.finish())


class Heard:
    """What several people's verdicts on a prediction come to, once more and as plainly as can be."""

    def __init__(self, p: P, rules: Rules) -> None:
        self.p, self.rules = p, rules
        self.waiting: list[tuple[int, F, Label | None]] = []
        self.decisions: list[tuple[Label | None, list[tuple[int, F]]]] = []
        self.asked = False

    def hear(self, offset: int, f: F) -> list[tuple[object, ...]]:
        if f.verdict == "retract":
            return self._take_back(offset, f)
        rules, p, told = self.rules, self.p, list[tuple[object, ...]]()
        assert rules.reviewers is not None
        label = p.label if f.verdict == "accept" else f.label
        if self.decisions and rules.corrections == "keep-first":
            return [("superseded", "feedback", offset, f.id)]
        for n, g, _ in self.waiting:
            if g.reviewer == f.reviewer:
                told.append(("superseded", "feedback", n, g.id))
        self.waiting = [each for each in self.waiting if each[1].reviewer != f.reviewer]
        if self.decisions and self.decisions[-1][0] is label:
            return [*told, ("superseded", "feedback", offset, f.id)]
        self.waiting.append((offset, f, label))
        is_first = not self.asked and len(self.waiting) >= rules.reviewers.of
        self.asked |= is_first
        seniors = [each[2] for each in self.waiting if each[1].senior]
        said = [each[2] for each in self.waiting]
        if said.count(label) < rules.reviewers.agree:
            if not (self.asked and seniors):
                ask = [("review", p.t, p.t + rules.window_ms, 1, True)] if is_first else []
                return [*told, *ask]
            label = seniors[-1]
        agreed = [(n, g) for n, g, other in self.waiting if other is label]
        corrects: tuple[int, ...] = ()
        for n, g, other in self.waiting:
            told += [("outvoted", "feedback", n, g.id)] if other is not label else []
        if rules.corrections == "repair":
            corrects = tuple(n for _, of in self.decisions for n, _ in of)
            self.decisions = []
        self.decisions.append((label, agreed))
        self.waiting, self.asked = [], False
        offsets = tuple(n for n, _ in agreed)
        where = offsets if len(offsets) > 1 else offsets[0]
        return [*told, ("example", "feedback", where, label, 1.0, p.t, corrects)]

    def _take_back(self, offset: int, f: F) -> list[tuple[object, ...]]:
        mine = [each for each in self.waiting if each[1].reviewer == f.reviewer]
        self.waiting = [each for each in self.waiting if each not in mine]
        told: list[tuple[object, ...]] = [("superseded", "feedback", n, g.id) for n, g, _ in mine]
        fallen = [d for d in self.decisions if any(g.reviewer == f.reviewer for _, g in d[1])]
        self.decisions = [each for each in self.decisions if each not in fallen]
        corrects = tuple(n for _, of in fallen for n, _ in of)
        if fallen:
            return [*told, ("example", "feedback", offset, None, 1.0, self.p.t, corrects)]
        return [*told, ("noted", "feedback", offset, f.id)]


def whole(
    predictions: Sequence[P], feedback: Sequence[F], rules: Rules
) -> Counter[tuple[object, ...]]:
    """What comes out, from both partitions as a whole: the rules as they are written, and nothing about time."""
    window, early = rules.window_ms, rules.early_ms
    told: list[tuple[object, ...]] = []
    counting: list[tuple[int, P]] = []
    for offset, p in enumerate(predictions):
        if not any(p.t - earlier.t <= 2 * window for _, earlier in counting):
            counting.append((offset, p))
            many = 1 if rules.reviewers is None else rules.reviewers.of
            told += [("review", p.t, p.t + window, many, False)] if p.asked else []
    first_of_id: list[F] = []
    answered: set[int] = set()
    standing: dict[int, list[tuple[int, F]]] = {at: [] for at, _ in counting}
    panels = {at: Heard(p, rules) for at, p in counting}
    for offset, f in enumerate(feedback):
        kept = 2 * window + early
        if any(g.id == f.id and f.t - g.t <= kept for g in first_of_id):
            told.append(("duplicate", "feedback", offset, f.id))
            continue
        first_of_id.append(f)
        mine = [(at, p) for at, p in counting if p.t - early <= f.t <= p.t + 2 * window]
        if not mine:
            told.append(("orphaned", "feedback", offset, f.id))
            continue
        at, p = mine[0]
        if f.t > p.t + window:
            told.append(("expired", "feedback", offset, f.id))
            continue
        answered.add(at)
        if f.verdict == "abstain":
            told.append(("abstained", "feedback", offset, f.id))
        elif f.verdict == "accept" and p.label is None:
            told.append(("refused", "feedback", offset))
        elif rules.reviewers is not None:
            told += panels[at].hear(offset, f)
        elif f.verdict == "retract":
            outdated = [(n, g) for n, g in standing[at] if g.reviewer == f.reviewer]
            if outdated:
                standing[at] = [each for each in standing[at] if each not in outdated]
                corrects = tuple(n for n, _ in outdated)
                told.append(("example", "feedback", offset, None, 1.0, p.t, corrects))
            else:
                told.append(("noted", "feedback", offset, f.id))
        elif standing[at] and rules.corrections == "keep-first":
            told.append(("superseded", "feedback", offset, f.id))
        else:
            corrects = ()
            if rules.corrections == "repair":
                corrects = tuple(n for n, _ in standing[at])
                standing[at] = []
            standing[at].append((offset, f))
            label = p.label if f.verdict == "accept" else f.label
            told.append(("example", "feedback", offset, label, 1.0, p.t, corrects))
    for panel in panels.values():
        told += [("no-consensus", "feedback", n, f.id) for n, f, _ in panel.waiting]
    if rules.unanswered is not None:
        told += [
            ("example", "predictions", at, rules.unanswered, 1.0, p.t, ())
            for at, p in counting
            if at not in answered
        ]
    return Counter(told)


# Each rule by example


def test_a_verdict_in_the_window_gives_an_example_with_all_that_the_prediction_said() -> None:
    reader = Reader([P(100, label=False)], [F(105, "f1")], RULES)
    (example,) = reader.finish()
    assert isinstance(example, Example)
    (source,) = example.sources
    assert tuple(source) == ("feedback", 0, 0, "f1", "ann", "desk")
    assert (example.label, example.predicted, example.weight) == (True, False, 1.0)
    assert (example.features, example.scores) == ({"x": 100}, {"true": 0.9})
    assert (example.model_version, example.route, example.reason) == (100, "review", "all")
    assert (example.probability, example.predicted_at, example.answered_at) == (1.0, 100, 105)


@pytest.mark.parametrize("order", ["pf", "fp"])
@pytest.mark.parametrize(
    ("t", "what"),
    [
        (EPOCH - E - 1, "orphaned"),
        (EPOCH - E, "example"),
        (EPOCH, "example"),
        (EPOCH + W, "example"),
        (EPOCH + W + 1, "expired"),
        (EPOCH + 2 * W, "expired"),
        (EPOCH + 2 * W + 1, "orphaned"),
    ],
)
def test_each_deadline_holds_to_the_millisecond(t: int, what: str, order: str) -> None:
    (told,) = run([P(EPOCH)], [F(t, "f")], order=order)
    assert told[0] == what


@pytest.mark.parametrize("order", ["pf", "fp"])
@pytest.mark.parametrize(("later", "examples"), [(2 * W, 1), (2 * W + 1, 2)])
def test_a_prediction_counts_again_after_twice_the_window(
    later: int, examples: int, order: str
) -> None:
    rules = replace(RULES, unanswered=False)
    assert run([P(EPOCH), P(EPOCH + later)], [], rules, order).total() == examples


@pytest.mark.parametrize("order", ["pf", "fp"])
@pytest.mark.parametrize(
    ("later", "what"), [(0, "duplicate"), (2 * W + E, "duplicate"), (2 * W + E + 1, "orphaned")]
)
def test_a_feedback_id_is_known_for_as_long_as_its_event_may_be(
    later: int, what: str, order: str
) -> None:
    told = run([P(EPOCH)], [F(EPOCH, "f"), F(EPOCH + later, "f")], order=order)
    assert {kind for kind, *_ in told} == {"example", what}


@pytest.mark.parametrize("order", ["pf", "fp"])
@pytest.mark.parametrize(("t", "unanswered"), [(EPOCH + W, 0), (EPOCH + W + 1, 1)])
@pytest.mark.parametrize("kind", ["abstain", "correct"])
def test_any_verdict_within_the_window_is_an_answer(
    t: int, unanswered: int, kind: str, order: str
) -> None:
    rules = replace(RULES, unanswered=False)
    told = run([P(EPOCH)], [F(t, "f", kind)], rules, order)
    assert told["example", "predictions", 0, False, 1.0, EPOCH, ()] == unanswered


def test_an_unanswered_prediction_is_learned_with_its_weight_and_has_itself_as_source() -> None:
    rules = replace(RULES, unanswered=False, weights={"unanswered": 0.5})
    (example,) = Reader([P(EPOCH)], [], rules).finish()
    assert isinstance(example, Example)
    (source,) = example.sources
    assert tuple(source) == ("predictions", 0, 0, "", None, "unanswered")
    assert (example.label, example.weight, example.answered_at) == (False, 0.5, None)


def test_without_a_label_for_it_an_unanswered_prediction_teaches_nothing() -> None:
    assert Reader([P(EPOCH)], [], RULES).finish() == []


def test_a_later_verdict_on_an_event_is_learned_again() -> None:
    told = run([P(EPOCH)], [F(EPOCH, "f1"), F(EPOCH, "f2", "correct", False)])
    assert [kind for kind, *_ in told] == ["example", "example"]


@pytest.mark.parametrize("order", ["pf", "fp"])
def test_keep_first_keeps_the_first_that_teaches(order: str) -> None:
    rules = replace(RULES, corrections="keep-first")
    feedback = [F(EPOCH, "f0", "abstain", None), F(EPOCH, "f1"), F(EPOCH, "f2"), F(EPOCH, "f3")]
    told = run([P(EPOCH)], feedback, rules, order)
    assert {(kind, rest[1]) for kind, *rest in told} == {
        ("abstained", 0),
        ("example", 1),
        ("superseded", 2),
        ("superseded", 3),
    }


def test_a_verdict_that_cannot_be_carried_out_is_refused_and_still_an_answer() -> None:
    rules = replace(RULES, unanswered=False)
    reader = Reader([P(EPOCH, label=None)], [F(EPOCH, "f", "accept", None)], rules)
    (refused,) = reader.finish()
    assert isinstance(refused, Refused)
    assert (refused.topic, refused.offset, refused.t) == ("feedback", 0, EPOCH)
    assert (refused.error.event_id, refused.error.feedback_id) == ("e", "f")
    assert verdict_of(F(*json.loads(refused.value))).feedback_id == "f"


def examples_of(feedback: Sequence[F], corrections: str = "learn-again") -> list[Output]:
    """What verdicts on one prediction give."""
    return Reader([P(EPOCH)], feedback, replace(RULES, corrections=corrections)).finish()


def test_a_correction_in_a_loop_that_repairs_names_the_verdicts_that_stood() -> None:
    given = [F(EPOCH, "f1"), F(EPOCH, "f2", label=False, reviewer="bob"), F(EPOCH, "f3")]
    corrects = [e.corrects for e in examples_of(given, "repair") if isinstance(e, Example)]
    assert corrects == [[], [("feedback", 0, 0)], [("feedback", 0, 1)]]
    again = [e.corrects for e in examples_of(given) if isinstance(e, Example)]
    assert again == [[], [], []]


def test_a_retract_takes_back_all_that_its_author_said_and_teaches_nothing() -> None:
    given = [F(EPOCH, "f1"), F(EPOCH, "f2", reviewer="bob"), F(EPOCH, "f3", label=False)]
    (*_, lesson) = examples_of([*given, F(EPOCH, "f4", "retract", None)])
    assert isinstance(lesson, Example)
    assert lesson.label is None
    assert lesson.corrects == [("feedback", 0, 0), ("feedback", 0, 2)]
    assert [source.feedback_id for source in lesson.sources] == ["f4"]


@pytest.mark.parametrize("corrections", ["learn-again", "keep-first", "repair"])
def test_a_retract_of_what_does_not_stand_is_noted(corrections: str) -> None:
    given = [F(EPOCH, "f1"), F(EPOCH, "f2", "retract", None, "bob")]
    _, noted = examples_of(given, corrections)
    assert isinstance(noted, Outcome)
    assert noted.status == "noted"
    assert "nothing that reviewer bob said about this event stands" in str(noted.detail)
    taken_back = F(EPOCH, "f2", "retract", None)
    *_, noted = examples_of([given[0], taken_back, taken_back._replace(id="f3")], corrections)
    assert isinstance(noted, Outcome)
    assert noted.status == "noted"


def test_verdicts_that_name_no_reviewer_are_taken_back_by_their_channel() -> None:
    given = [F(EPOCH, "f1", reviewer=None), F(EPOCH, "f2", "retract", None, None)]
    _, lesson = examples_of(given)
    assert isinstance(lesson, Example)
    assert lesson.corrects == [("feedback", 0, 0)]


def test_after_a_retract_the_next_verdict_is_the_first_again() -> None:
    given = [F(EPOCH, "f1"), F(EPOCH, "f2", "retract", None), F(EPOCH, "f3", reviewer="bob")]
    *_, third = examples_of(given, "keep-first")
    assert isinstance(third, Example)


def test_only_the_first_prediction_asks_a_person() -> None:
    reader = Reader([P(EPOCH, asked=True), P(EPOCH + 1, asked=True)], [], RULES)
    (review,) = reader.finish()
    assert isinstance(review, Review)
    assert (review.priority, review.requested_at, review.deadline) == (0.25, EPOCH, EPOCH + W)


def test_a_prediction_that_cannot_be_read_asks_nobody_and_counts_for_nothing() -> None:
    with pytest.raises(BadRecord):
        joining().on_prediction(None, KEY, EPOCH, 0, b"junk", asked=True)


def test_what_is_found_unreadable_only_later_is_refused_then() -> None:
    join = joining(replace(RULES, unanswered=False))
    entry, outputs = join.on_prediction(None, KEY, EPOCH, 7, b"junk", asked=False)
    assert entry is not None
    assert outputs == []
    _, (late,) = join.on_time(entry, KEY, EPOCH + W + 1)
    assert isinstance(late, Refused)
    assert (late.topic, late.offset, late.value) == ("predictions", 7, b"junk")
    _, (of_verdict,) = join.on_feedback(entry, EPOCH, 3, b"kept", verdict_of(F(EPOCH, "f")))
    assert isinstance(of_verdict, Refused)
    assert (of_verdict.topic, of_verdict.offset, of_verdict.value) == ("feedback", 3, b"kept")


def test_the_bytes_of_a_prediction_are_dropped_when_its_window_has_passed() -> None:
    join = joining()
    entry, _ = join.on_prediction(None, KEY, EPOCH, 0, b"long", asked=False)
    assert entry is not None
    assert join.on_time(entry, KEY, EPOCH + W).entry == entry
    closed, _ = join.on_time(entry, KEY, EPOCH + W + 1)
    assert closed == Entry((Held(EPOCH, 0, None),))


@pytest.mark.parametrize(
    "entry",
    [
        Entry((Held(EPOCH, 0, b"p"),)),
        Entry((Held(EPOCH, 0, None),)),
        Entry((), (Given(EPOCH, 0, "f", b"f"),)),
        Entry((), (Given(EPOCH, 0, "f", None),)),
        Entry((Held(EPOCH, 0, b"p"),), (Given(EPOCH - E, 0, "f", None),)),
    ],
)
def test_an_entry_changes_right_after_it_is_due_and_not_before(entry: Entry) -> None:
    join = joining()
    due = join.due(entry)
    assert join.on_time(entry, KEY, due) == (entry, [])
    assert join.on_time(entry, KEY, due + 1).entry != entry


def test_an_entry_of_another_release_is_told_and_not_guessed() -> None:
    with pytest.raises(Conflict, match="of another release"):
        decode(b"\x09...")


# Several people

TWO = replace(RULES, reviewers=Consensus(of=3, agree=2))


def said(*people: str, t: int = EPOCH) -> list[F]:
    """Verdicts such as ``ann:True``, each with an id of its own."""
    split = [each.partition(":") for each in people]
    return [
        F(t, f"f{n}", "correct", label == "True", who.lower(), who.isupper())
        for n, (who, _, label) in enumerate(split)
    ]


@pytest.mark.parametrize("order", ["pf", "fp"])
def test_those_who_agree_give_one_example_with_all_its_sources(order: str) -> None:
    told = run([P(EPOCH)], said("ann:True", "bob:False", "eve:True"), TWO, order)
    assert told == Counter(
        [
            ("example", "feedback", (0, 2), True, 1.0, EPOCH, ()),
            ("outvoted", "feedback", 1, "f1"),
        ]
    )


def test_an_example_of_several_has_the_weight_of_its_heaviest_verdict() -> None:
    rules = replace(TWO, weights={"accept": 0.5, "correct": 2.0})
    accepts = F(EPOCH, "f9", "accept", None, "bob")
    for feedback in ([*said("ann:True"), accepts], [accepts, *said("ann:True")]):
        (example,) = Reader([P(EPOCH)], feedback, rules).finish()
        assert isinstance(example, Example)
        assert example.weight == 2.0
        assert {source.feedback_id for source in example.sources} == {"f0", "f9"}


def test_those_who_disagree_have_a_senior_asked_and_the_senior_decides() -> None:
    rules = replace(RULES, reviewers=Consensus(of=2, agree=2))
    reader = Reader([P(EPOCH, asked=True)], said("ann:True", "bob:False", "SUE:False"), rules)
    first, second, outvoted, example = reader.finish()
    assert isinstance(first, Review)
    assert isinstance(second, Review)
    assert [(each.opinions, each.senior) for each in (first, second)] == [(2, False), (1, True)]
    assert second.reason == "those who were asked disagree"
    assert second[:9] == first[:9]
    assert isinstance(outvoted, Outcome)
    assert outvoted.feedback_id == "f0"
    assert isinstance(example, Example)
    assert [source.reviewer for source in example.sources] == ["bob", "sue"]


@pytest.mark.parametrize(("t", "what"), [(EPOCH + W, "example"), (EPOCH + W + 1, "no-consensus")])
def test_who_finds_nobody_to_agree_within_the_window_ends_without_consensus(
    t: int, what: str
) -> None:
    rules = replace(TWO, unanswered=False)
    later = said("ann:True", "bob:True", t=t)[1:]
    told = run([P(EPOCH)], [*said("ann:True"), *later], rules)
    assert what in {kind for kind, *_ in told}
    assert not any(each[:2] == ("example", "predictions") for each in told)


def test_a_retract_of_what_waits_is_noted_and_ends_it() -> None:
    taken_back = F(EPOCH, "f1", "retract", None, "ann")
    superseded, noted = Reader([P(EPOCH)], [*said("ann:True"), taken_back], TWO).finish()
    assert isinstance(superseded, Outcome)
    assert isinstance(noted, Outcome)
    assert (superseded.status, superseded.feedback_id) == ("superseded", "f0")
    assert (noted.status, noted.detail) == ("noted", "taken back; it was not learned yet")


def test_an_item_waits_until_people_agree() -> None:
    reader = Reader([P(EPOCH, asked=True)], said("ann:True", "bob:False", "eve:True"), TWO)
    waits = []
    for side in (0, 1, 1, 1):
        reader.read(side)
        assert reader.entry is not None
        waits.append(reader.entry.pending_reviews)
    assert waits == [1, 1, 1, 0]


def test_what_says_nothing_since_the_loop_was_changed_does_not_stop_it() -> None:
    rules = replace(TWO, task="multiclass", classes=("a", "b"))
    seen = Prediction("e", "a", {}, None, {}, None, None, "", 0, "review", "all", 1.0)
    verdicts = {
        b"%d" % n: Feedback(f"f{n}", "e", "correct", label, reviewer=f"{n}")
        for n, label in enumerate("bcaa")
    }
    before = Join(replace(rules, classes=("a", "b", "c")), 0, lambda _: seen, verdicts.__getitem__)
    after = Join(rules, 0, lambda _: seen, verdicts.__getitem__)
    entry = before.on_prediction(None, KEY, EPOCH, 0, b"p", asked=False).entry
    outputs: list[Output] = []
    for n, join in enumerate((before, before, after, after)):
        value = b"%d" % n
        entry, told = join.on_feedback(entry, EPOCH, n, value, verdicts[value])
        outputs += told
    refused, outvoted, example = outputs
    assert isinstance(refused, Refused)
    assert refused.value == b"1"
    assert isinstance(outvoted, Outcome)
    assert isinstance(example, Example)
    assert [source.offset for source in example.sources] == [2, 3]


def test_what_one_person_taught_before_several_had_to_agree_is_taken_back_and_repaired() -> None:
    before, after = RULES, replace(TWO, corrections="repair")
    read = {b"%d" % n: f for n, f in enumerate(said("ann:True", "bob:False", "eve:False"))}
    read[b"3"] = F(EPOCH, "f3", "retract", None, "ann")
    verdicts = {value: verdict_of(f) for value, f in read.items()}

    def heard(*places: int) -> Output:
        entry = joining(before).on_prediction(
            None, KEY, EPOCH, 0, write_prediction(P(EPOCH)), asked=False
        )[0]
        outputs: list[Output] = []
        for n in places:
            join = Join(after if n else before, 0, read_prediction, verdicts.__getitem__)
            value = b"%d" % n
            entry, told = join.on_feedback(entry, EPOCH, n, value, verdicts[value])
            outputs += told
        return outputs[-1]

    agreed, taken_back = heard(0, 1, 2), heard(0, 3)
    assert isinstance(agreed, Example)
    assert [each.offset for each in agreed.corrects] == [0]
    assert [each.offset for each in agreed.sources] == [1, 2]
    assert isinstance(taken_back, Example)
    assert [each.offset for each in taken_back.corrects] == [0]


# All rules, in every order

times = st.integers(0, 5 * W).map(lambda t: EPOCH + t)
labels = st.sampled_from([True, False, None])
predictions_read = st.lists(st.builds(P, times, labels, st.booleans()), max_size=5)
verdicts_read = st.sampled_from(
    [
        ("correct", True),
        ("correct", False),
        ("accept", None),
        ("abstain", None),
        ("retract", None),
    ]
)
feedback_read = st.lists(
    st.builds(
        lambda t, i, v, who, senior: F(t, i, v[0], v[1], who, senior),
        times,
        st.sampled_from("abcd"),
        verdicts_read,
        st.sampled_from(["ann", "bob", None]),
        st.booleans(),
    ),
    max_size=6,
)
rules_read = st.builds(
    lambda early, corrections, unanswered, reviewers: replace(
        RULES,
        early_ms=early,
        corrections=corrections,
        unanswered=unanswered,
        reviewers=reviewers,
    ),
    st.sampled_from([0, E, 3 * W]),
    st.sampled_from(["learn-again", "keep-first", "repair"]),
    st.sampled_from([None, False]),
    st.sampled_from([None, Consensus(of=2, agree=2), Consensus(of=3, agree=2)]),
)
steps_read = st.lists(st.sampled_from([0, 0, 1, 1, *range(EPOCH, EPOCH + 6 * W)]), max_size=40)


@settings(max_examples=600, deadline=None)
@given(predictions_read, feedback_read, rules_read, steps_read)
def test_any_order_of_reading_gives_what_the_partitions_as_a_whole_say(
    predictions: list[P], feedback: list[F], rules: Rules, steps: list[int]
) -> None:
    predictions.sort(key=lambda p: p.t)
    feedback.sort(key=lambda f: f.t)
    reader = Reader(predictions, feedback, rules)
    for step in steps:
        if step in (0, 1):
            reader.read(step)
        else:
            reader.advance(step)
    assert summary(reader.finish()) == whole(predictions, feedback, rules)


@settings(max_examples=200, deadline=None)
@given(predictions_read, feedback_read, rules_read, steps_read, st.data())
def test_reading_anew_from_any_earlier_state_gives_the_same_and_nothing_else(
    predictions: list[P], feedback: list[F], rules: Rules, steps: list[int], data: st.DataObject
) -> None:
    predictions.sort(key=lambda p: p.t)
    feedback.sort(key=lambda f: f.t)
    reader = Reader(predictions, feedback, rules)
    crash = data.draw(st.integers(0, len(steps)))
    kept: tuple[list[int], Entry | None, int] = [0, 0], None, 0
    for n, step in enumerate(steps):
        if n == crash:  # goes on from what was kept; all that came out is out
            reader.at, reader.entry, reader.now = list(kept[0]), kept[1], kept[2]
        elif data.draw(st.booleans()):
            kept = list(reader.at), reader.entry, reader.now
        if step in (0, 1):
            reader.read(step)
        else:
            reader.advance(step)
    assert set(summary(reader.finish())) == set(whole(predictions, feedback, rules))


entries = st.builds(
    Entry,
    st.lists(
        st.builds(
            Held,
            st.integers(0, 1 << 60),
            st.integers(0, 1 << 60),
            st.none() | st.binary(),
            st.booleans(),
            st.booleans(),
            st.lists(
                st.builds(Taught, st.integers(0, 1 << 60), st.text(st.characters(codec="utf-8")))
            ).map(tuple),
            st.lists(
                st.builds(
                    Opinion,
                    st.integers(0, 1 << 60),
                    st.integers(0, 1 << 60),
                    st.binary(),
                    st.none() | st.integers(0, 1 << 60),
                )
            ).map(tuple),
            st.booleans(),
        )
    ).map(tuple),
    st.lists(
        st.builds(
            Given,
            st.integers(0, 1 << 60),
            st.integers(0, 1 << 60),
            st.text(st.characters(codec="utf-8")),
            st.none() | st.binary(),
        )
    ).map(tuple),
)


@given(entries)
def test_an_entry_survives_being_bytes(entry: Entry) -> None:
    assert decode(encode(entry)) == entry


def test_a_prediction_alone_costs_seventeen_bytes_more_than_itself() -> None:
    value = b"v" * 300
    data = encode(Entry((Held(EPOCH, 0, value),)))
    assert data[0] == ALONE
    assert len(data) == 17 + len(value)


def one_more(name: str) -> Callable[[Rules], Rules]:
    return lambda rules: replace(rules, **{name: getattr(rules, name) + 1})


@pytest.mark.parametrize("name", ["window_ms", "early_ms"])
@pytest.mark.parametrize("order", ["pf", "fp"])
def test_the_boundaries_above_would_show_a_rule_that_is_off_by_one(name: str, order: str) -> None:
    wrong = one_more(name)(RULES)
    shown = [
        t
        for t in range(EPOCH - 2 * E, EPOCH + 3 * W)
        if run([P(EPOCH)], [F(t, "f")], wrong, order) != whole([P(EPOCH)], [F(t, "f")], RULES)
    ]
    expected = {"window_ms": [EPOCH + W + 1, EPOCH + 2 * W + 1, EPOCH + 2 * W + 2]}
    assert shown == expected.get(name, [EPOCH - E - 1])


# With a model: the delayed progressive validation of River

DELAYED = {
    "logistic": {
        1: 0.892800,
        10: 0.885600,
        50: 0.880000,
        100: 0.859200,
        250: 0.814400,
        500: 0.766400,
    },
    "bayes": {
        1: 0.884708,
        10: 0.880645,
        50: 0.885833,
        100: 0.880870,
        250: 0.884000,
        500: 0.876000,
    },
    "tree": {
        1: 0.879904,
        10: 0.878226,
        50: 0.875833,
        100: 0.870435,
        250: 0.878000,
        500: 0.881333,
    },
    "slow logistic": {
        1: 0.887200,
        10: 0.881600,
        50: 0.879200,
        100: 0.860800,
        250: 0.818400,
        500: 0.765600,
    },
}
MODELS: dict[str, Callable[[], Any]] = {
    "logistic": logistic,
    "slow logistic": lambda: (
        preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.005))
    ),
    "bayes": naive_bayes.GaussianNB,
    "tree": tree.HoeffdingTreeClassifier,
}


@pytest.mark.parametrize(
    ("name", "delay"), [(name, delay) for name, row in DELAYED.items() for delay in row]
)
def test_the_join_before_a_model_learns_as_river_does_with_late_labels(
    name: str, delay: int
) -> None:
    model = MODELS[name]()
    answer, rules = answerer("binary", model, (False, True)), replace(RULES, window_ms=10_000)
    events: Any = phishing()  # River says dict[Hashable, Any], which a dict[str, Any] is not
    asked: dict[int, Prediction] = {}
    entries: dict[int, Entry | None] = {}
    right = answers = 0
    join = Join(rules, 0, lambda value: asked[int(value)], lambda _: pytest.fail("nothing waits"))
    for i, x, y in stream.simulate_qa(events, None, delay, copy=False):
        if y is None:
            label, scores, confidence = answer(x)
            told = x, None, None, "", 0, "auto", "none", 0.0
            asked[i] = Prediction(str(i), label, scores, confidence, *told)
            value = b"%d" % i
            entries[i] = join.on_prediction(None, value, i, i, value, asked=False).entry
            continue
        verdict = Feedback(f"f{i}", str(i), "correct", y)
        _, (example,) = join.on_feedback(entries.pop(i), i + delay, i, b"", verdict)
        assert isinstance(example, Example)
        if example.predicted is not None:
            answers += 1
            right += example.predicted == example.label
        model.learn_one(dict(example.features), example.label)
    assert len(events) == 1250
    assert not entries
    assert f"{right / answers:.6f}" == f"{DELAYED[name][delay]:.6f}"
