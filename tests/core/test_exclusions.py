"""Exclusions: whatever was taken out, put back, stored, lost and folded again, the model is the one that never saw it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap64
from river import linear_model

from streams.core import exclusions
from streams.core.errors import BadRecord
from streams.core.events import EXCLUDE, INCLUDE, Corrected, Example, Excluded, Exclusion, Source
from streams.core.exclusions import Places, after, count, is_start, places, start_of
from streams.core.fold import Fold, Folded, head
from tests.core.logs import binary_fold, example, logistic, phishing, source

KIND = {True: EXCLUDE, False: INCLUDE}
LESSONS = [({"a": n % 7 / 3 - 1, "b": n % 5 / 2 - 1}, n * 7 % 11 > 4) for n in range(80)]
PROBE = [{"a": n / 4 - 1, "b": 1 - n / 3} for n in range(8)]


def exclusion(offsets: Sequence[int], kind: str = EXCLUDE, partition: int = 0) -> Exclusion:
    """A control record that names feedback of a partition."""
    named = exclusions.written(places(("f", partition, offset) for offset in offsets))
    return Exclusion("x", kind, "", named, "a test", "ann", "because", 0)


def lesson(number: int, *sources: Source, corrects: Sequence[int] = ()) -> Example:
    """The lesson of that number, which rests on the feedback of that number or on what is given."""
    made = example(number, *LESSONS[number % len(LESSONS)], sources=sources or None)
    return made._replace(corrects=[Corrected("f", 0, offset) for offset in corrects])


def plain(log: Sequence[Folded]) -> tuple[Any, int]:
    """The model of a log and how much it learned, as its definition says it: of nothing but what counts, in order."""
    out: set[tuple[str, int, int]] = set()
    for record in log:
        if isinstance(record, Exclusion):
            named = {(*where, n) for where, held in exclusions.read(record).items() for n in held}
            out = out | named if record.kind == EXCLUDE else out - named
    model, learned, seen = linear_model.LogisticRegression(), 0, set[tuple[str, int, int]]()
    for record in log:
        if isinstance(record, Example):
            rests = {(s.topic, s.partition, s.offset) for s in record.sources}
            if record.label is not None and rests - seen - out:
                model.learn_one(dict(record.features), record.label)
                learned += 1
            seen |= rests
    return model, learned


class Learner:
    """A learner without a broker: a log, a fold of it, and the snapshots that it has made."""

    def __init__(self) -> None:
        self.log: list[Folded] = []
        self.fold = self.unlearned()
        self.stored: list[bytes] = []

    def unlearned(self) -> Fold:
        """The model before its first lesson."""
        return binary_fold(linear_model.LogisticRegression(), scored=False)

    def write(self, record: Folded) -> None:
        """A record comes, and is folded."""
        self.log.append(record)
        self.follow()

    def follow(self, *, ahead: bool = False) -> None:
        """Folds what is not folded yet; a rebuild goes to the log's last control record if it looks ahead."""
        while self.fold.version < len(self.log):
            version = self.fold.version + 1
            record = self.log[version - 1]
            if isinstance(record, Example):
                self.fold.apply(version, record)
            elif not self.fold.exclude(version, record):
                self.rebuild(version, ahead=ahead)

    def rebuild(self, version: int, *, ahead: bool) -> None:
        """The model after the control record before ``version``, or after the last there is."""
        target = self.fold.excluded
        last = len(self.log) if ahead else version
        for at in range(version, last + 1):
            record = self.log[at - 1]
            if isinstance(record, Exclusion):
                target, version = after(target, record), at
        newest_first = ((data, head(data)) for data in reversed(self.stored))
        start = start_of(newest_first, target, version)
        fold = self.unlearned()
        if start is not None:
            fold.load(start)
        between = enumerate(self.log[fold.version : version], fold.version + 1)
        fold.refold(target, between)
        assert fold.version == version
        self.fold = fold

    def crash(self, number: int, *, ahead: bool) -> None:
        """Starts anew from any of the snapshots, or from none."""
        self.fold = self.unlearned()
        if number < len(self.stored):
            self.fold.load(self.stored[number])
        self.follow(ahead=ahead)


def history(learner: Learner, steps: Sequence[tuple[int, int, int]]) -> None:
    """Does what numbers say; offsets are small, so that much is named twice, or before it comes."""
    given = 0
    for what, one, other in steps:
        examples = [record for record in learner.log if isinstance(record, Example)]
        some = [one % 12, other % 12, (one + other) % 12][: 1 + one % 3]
        if (
            what <= 3
        ):  # an example; now and then one that rests on an old source too, or corrects some
            rests = [source(given), *([source(other % (given + 1))] if what == 1 else [])]
            corrects = some if what == 2 else ()
            learner.write(lesson(given, *rests, corrects=corrects))
            given += 1
        elif what == 4 and examples:
            learner.write(examples[one % len(examples)])
        elif what == 5:
            learner.write(lesson(given, corrects=some)._replace(label=None))
            given += 1
        elif what in (6, 7):
            learner.write(exclusion(some, KIND[what == 6]))
        elif what == 8 and learner.fold.owed:
            owed = exclusions.written(learner.fold.owed)
            learner.write(exclusion([])._replace(sources=owed, rule="corrections"))
            assert not learner.fold.owed
        elif what == 9:
            learner.stored.append(learner.fold.dump())
            learner.stored.sort(key=lambda data: head(data).version)
        elif what == 10 and learner.stored:
            del learner.stored[one % len(learner.stored)]
        elif what == 11:
            learner.crash(one % 5, ahead=other % 2 == 0)


def steps() -> st.SearchStrategy[list[tuple[int, int, int]]]:
    """What happens, in numbers."""
    return st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 35), st.integers(0, 35)), max_size=36
    )


@settings(max_examples=1_500, deadline=None)
@given(steps())
def test_any_history_ends_in_the_model_that_never_saw_what_is_out(
    done: list[tuple[int, int, int]],
) -> None:
    learner = Learner()
    history(learner, done)
    model, learned = plain(learner.log)
    assert learner.fold.learned == learned
    for features in PROBE:
        assert learner.fold.model.predict_proba_one(features) == model.predict_proba_one(features)


@settings(max_examples=300, deadline=None)
@given(steps())
def test_two_learners_that_start_anywhere_come_to_the_same_state(
    done: list[tuple[int, int, int]],
) -> None:
    """Model, sources, what is out and what is owed: all of it is the log's."""
    learner = Learner()
    history(learner, done)
    states = [state_of(learner.fold)]
    for number in range(len(learner.stored) + 1):
        learner.crash(number, ahead=number % 2 == 0)
        states.append(state_of(learner.fold))
    assert all(state == states[0] for state in states)


def state_of(fold: Fold) -> dict[str, Any]:
    """A state, in values that can be compared."""
    state: dict[str, Any] = pickle.loads(fold.dump())
    del state["checks"]  # of 256 lessons
    return state | {"excluded": fold.excluded, "owed": fold.owed, "model": fold.digest()}


def test_progressive_metrics_are_those_of_what_counts_and_so_is_the_frozen_model() -> None:
    log = [example(n, *phishing()[n], answer) for n, answer in answered(400)]
    whole = binary_fold(logistic())
    for version, each in enumerate(log, 1):
        whole.apply(version, each)
    out = places(("f", 0, n) for n in range(0, 400, 3))
    rebuilt, never = binary_fold(logistic()), binary_fold(logistic())
    rebuilt.refold(out, enumerate(log, 1))
    for version, each in enumerate((e for n, e in enumerate(log) if n % 3), 1):
        never.apply(version, each)
    assert rebuilt.scores is not None
    assert never.scores is not None
    assert rebuilt.scores.values() == never.scores.values()
    assert rebuilt.digest() == never.digest()
    assert list(rebuilt.checks) == []
    assert whole.digest() != rebuilt.digest()


def answered(count: int) -> Iterator[tuple[int, Any]]:
    """What a model said to each of the first events, before it learned them."""
    fold = binary_fold(logistic())
    for n in range(count):
        features, label = phishing()[n]
        yield n, fold.answer(features)
        fold.apply(n + 1, example(n, features, label))


def test_a_rebuild_goes_on_from_a_snapshot_that_saw_nothing_of_what_changes() -> None:
    learner = Learner()
    for n in range(6):
        learner.write(lesson(n))
        if n == 2:
            learner.stored.append(learner.fold.dump())
    target = after(learner.fold.excluded, exclusion([4]))
    assert is_start(head(learner.stored[0]), target)
    assert not is_start(learner.fold.head, target)
    assert not is_start(head(learner.stored[0]), after({}, exclusion([2])))


def test_a_state_tells_whether_it_can_be_a_start_without_unpickling_its_model() -> None:
    fold = binary_fold(logistic())
    fold.apply(1, lesson(1))
    read: list[bytes] = []

    def unpickle(data: bytes) -> Any:
        read.append(data)
        return pickle.loads(data)

    assert head(fold.dump(), unpickle).learned == 1
    assert len(read) == 1


def test_a_record_about_what_was_not_seen_rebuilds_nothing_and_counts_for_what_comes() -> None:
    fold = binary_fold(logistic())
    fold.apply(1, lesson(1))
    assert fold.exclude(2, exclusion([2]))
    assert fold.apply(3, lesson(2)).fresh == (source(2),)
    assert (fold.version, fold.learned) == (3, 1)


def test_a_record_that_was_folded_before_or_says_nothing_new_changes_nothing() -> None:
    fold = binary_fold(logistic())
    fold.apply(1, lesson(1))
    assert not fold.exclude(2, exclusion([1]))
    assert fold.version == 1
    assert fold.exclude(1, exclusion([1]))
    assert fold.exclude(2, exclusion([1], INCLUDE))
    assert (fold.version, dict(fold.excluded)) == (2, {})


def test_what_a_fresh_example_corrects_is_owed_until_a_record_names_it() -> None:
    fold = binary_fold(logistic())
    for version, each in enumerate([lesson(1), lesson(2), lesson(3, corrects=[1, 2])], 1):
        fold.apply(version, each)
    assert fold.owed == places([("f", 0, 1), ("f", 0, 2)])
    fold.apply(4, lesson(3, corrects=[1, 2]))
    again = binary_fold(logistic())
    again.load(fold.dump())
    assert again.owed == fold.owed
    assert again.exclude(5, exclusion([1], INCLUDE))
    assert again.owed == places([("f", 0, 2)])


def test_a_duplicate_owes_nothing_again() -> None:
    fold = binary_fold(logistic())
    fold.apply(1, lesson(1))
    fold.apply(2, lesson(2, corrects=[1]))
    fold.refold(fold.target(exclusion([1])), [(3, exclusion([1]))])
    fold.apply(4, lesson(2, corrects=[1]))
    assert not fold.owed


def test_what_came_with_a_model_that_was_continued_stays_in() -> None:
    """The log alone does not make that model: nothing could be folded without it."""
    fold = binary_fold(logistic())
    fold.apply(1, lesson(1))
    fold.fix()
    fold.apply(2, lesson(2))
    data = fold.dump()
    fold.load(data)
    assert fold.exclude(3, exclusion([1]))
    assert not fold.exclude(4, exclusion([1, 2]))
    assert fold.target(exclusion([1, 2])) == places([("f", 0, 2)])
    assert head(data).fixed == places([("f", 0, 1)])


def test_a_refold_tells_what_the_model_could_not_learn() -> None:
    fold = binary_fold(linear_model.LogisticRegression())
    bad = example(1, {"a": "no number"}, True)
    refused = fold.refold({}, [(1, lesson(0)), (2, bad), (3, lesson(2))])
    assert refused.keys() == {2}


def test_a_refold_only_marks_what_a_lineage_before_has_learned() -> None:
    fold = binary_fold(logistic())
    fold.refold({}, [(1, lesson(1)), (2, lesson(2))], learn_from=1)
    assert (fold.learned, fold.version) == (1, 2)
    assert count(fold.seen) == 2


def test_sets_of_places() -> None:
    some, others = (
        places([("f", 0, 1), ("f", 0, 2), ("g", 1, 3)]),
        places([("f", 0, 2), ("h", 0, 4)]),
    )
    assert exclusions.union(some, others) == places(
        [("f", 0, 1), ("f", 0, 2), ("g", 1, 3), ("h", 0, 4)]
    )
    assert exclusions.minus(some, others) == places([("f", 0, 1), ("g", 1, 3)])
    assert exclusions.common(some, others) == places([("f", 0, 2)])
    assert exclusions.difference(some, others) == places([("f", 0, 1), ("g", 1, 3), ("h", 0, 4)])
    assert exclusions.minus(some, some) == {}
    assert not exclusions.are_apart(some, others)
    assert exclusions.are_apart(some, places([("f", 1, 1), ("f", 0, 3)]))
    assert exclusions.loaded(exclusions.dumped(some)) == some


def test_a_record_names_the_places_that_it_was_made_of() -> None:
    some: Places = places([("f", 1, 1 << 40), ("f", 0, 2)])
    record = exclusion([])._replace(sources=exclusions.written(some))
    assert exclusions.read(record) == some
    nothing = [Excluded("f", 0, BitMap64().serialize())]
    assert exclusions.read(record._replace(sources=nothing)) == {}


@pytest.mark.parametrize("offsets", [b"", b"no bitmap", b"\xff" * 40])
def test_a_record_whose_offsets_cannot_be_read_is_a_bad_record(offsets: bytes) -> None:
    with pytest.raises(BadRecord, match="no readable offsets"):
        exclusions.read(exclusion([])._replace(sources=[Excluded("f", 0, offsets)]))


def test_an_exclusion_of_a_kind_that_is_not_known_is_a_bad_record() -> None:
    with pytest.raises(BadRecord, match="'forget'"):
        exclusions.read(exclusion([1], "forget"))
