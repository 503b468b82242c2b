"""The joiner's state: every crash of the commit protocol, and directories that belong to something else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.consensus import Consensus
from streams.core.entry import decode
from streams.core.errors import BadRecord, ConfigError, Conflict, Unavailable
from streams.core.events import Example, Feedback, Outcome, Prediction, Review
from streams.core.topics import partition_of
from streams.core.verdicts import Rules
from streams.engine.codec import Codec
from streams.engine.partition import LOOKED_AT, Buried, Misrouted, Output, PartitionJoin, Record
from streams.engine.state import Identity, Place, State, TopicIdentity, open_state, pack, unpack

P, F = "loop.predictions", "loop.feedback"
TOPICS = P, F
W, E = 1000, 300
RULES = Rules(task="binary", classes=(False, True), window_ms=W, early_ms=E, unanswered=False)
CODEC = Codec()
BEGIN, FAR = 10_000, 1_000_000
IDENTITY = Identity("loop", 0, {P: TopicIdentity("p-id", 1), F: TopicIdentity("f-id", 1)})

ASKED, UNASKED = [("route", b"review")], [("route", b"auto")]


def prediction(offset: int, t: int, event_id: str, route: str = "auto") -> Record:
    told = Prediction(event_id, True, {}, 0.5, {"x": 1.0}, None, None, "", 0, route, "all", 1.0)
    headers = ASKED if route == "review" else UNASKED
    return Record(P, 0, offset, t, event_id.encode(), CODEC.encode(P, told), headers)


def feedback(
    offset: int,
    t: int,
    event_id: str,
    feedback_id: str,
    verdict: str = "reject",
    reviewer: str | None = None,
) -> Record:
    given = Feedback(feedback_id, event_id, verdict, reviewer=reviewer)
    headers = [("feedback_id", feedback_id.encode())]
    return Record(F, 0, offset, t, event_id.encode(), CODEC.encode(F, given), headers)


def joining(state: State, emit: Callable[[Output], None], rules: Rules = RULES) -> PartitionJoin:
    return PartitionJoin(
        rules,
        partition=0,
        partitions=1,
        predictions=P,
        feedback=F,
        state=state,
        codec=CODEC,
        emit=emit,
    )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = open_state(tmp_path / "0", IDENTITY)
    yield opened
    opened.close()


@pytest.fixture
def outputs() -> list[Output]:
    return []


@pytest.fixture
def partition(state: State, outputs: list[Output]) -> PartitionJoin:
    return joining(state, outputs.append)


def commit(state: State) -> None:
    captured = state.capture()
    state.prepare(captured)
    state.apply(captured)


# Crashes


class Crash(Exception):
    """The process is gone."""


class Kafka:
    """Two logs, what the group has committed, and what has been delivered: once or more, or told in transactions."""

    def __init__(self, logs: Mapping[str, Sequence[Record]], rules: Rules = RULES) -> None:
        self.logs, self.rules = logs, rules
        self.committed: dict[str, int | None] = dict.fromkeys(TOPICS)
        self.delivered: set[tuple[object, ...]] = set()
        self.told: list[tuple[object, ...]] = []
        self.decided = 0


class Worker:
    """A joiner of one partition, which dies where it is told to."""

    def __init__(self, kafka: Kafka, path: Path) -> None:
        self.kafka, self.outbox = kafka, list[Output]()
        self.state = open_state(path, IDENTITY)
        self.join = joining(self.state, self.outbox.append, kafka.rules)
        missing = self.state.recover(kafka.committed, dict.fromkeys(TOPICS, 0))
        for topic, offsets in missing.items():
            self.join.catch_up(topic, [kafka.logs[topic][offset] for offset in offsets])
        assert self.outbox == []  # it was delivered before it was committed
        self.at = {
            topic: max(place.offset, kafka.committed[topic] or 0)
            for topic, place in self.state.places.items()
        }

    def read(self, topic: str, count: int) -> None:
        records = self.kafka.logs[topic][self.at[topic] : self.at[topic] + count]
        self.at[topic] += len(records)
        (self.join.predictions if topic == P else self.join.feedback)(records)

    def wait(self) -> None:
        """Time passes until the next record of one of the topics."""
        ahead = {t: [r.timestamp for r in self.kafka.logs[t][self.at[t] :]][:1] for t in TOPICS}
        read_to = {topic: times[0] if times else FAR for topic, times in ahead.items()}
        self.join.advance(predictions=read_to[P], feedback=read_to[F])

    def flush(self, count: int | None = None) -> None:
        self.kafka.delivered |= {identity(output) for output in self.outbox[:count]}
        del self.outbox[:count]

    def commit(self, until: str = "", topics: Sequence[str] = TOPICS) -> None:
        """Commits; dies right after the step that is named, or when only some topics were committed."""
        captured = self.state.capture()
        self._step("capture", until)
        self.flush(len(self.outbox) // 2 if until == "half a flush" else None)
        self._step("half a flush", until)
        self._step("flush", until)
        self.state.prepare(captured)
        self._step("prepare", until)
        for topic in topics:
            if captured.places[topic].offset:
                self.kafka.committed[topic] = captured.places[topic].offset
        self._step("commit", until)
        if topics != TOPICS:  # a commit that failed: nothing is applied, and the worker stops
            raise Crash
        self.state.apply(captured)
        self._step("apply", until)

    def recounted(self) -> tuple[int, int]:
        """How many predictions wait, and of how many people were asked, event by event."""
        keys = {b"e" + (record.key or b"") for log in self.kafka.logs.values() for record in log}
        entries = [decode(held) for held in self.state.load(list(keys)).values() if held]
        return sum(e.pending for e in entries), sum(e.pending_reviews for e in entries)

    def _step(self, name: str, until: str) -> None:
        if name == until:
            raise Crash


STEPS = ("capture", "half a flush", "flush", "prepare", "commit", "apply")


def identity(output: Output) -> tuple[object, ...]:
    """What tells an output from another, and not how often it came."""
    if isinstance(output, Example):
        (topic,) = {source.topic for source in output.sources}
        offsets = [source.offset for source in output.sources]
        return "example", output.event_id, topic, *offsets, output.label
    if isinstance(output, Outcome):
        return output.status, output.event_id, output.offset, output.feedback_id
    if isinstance(output, Review):
        return "senior" if output.senior else "review", output.event_id, output.requested_at
    if isinstance(output, Buried):
        return "buried", output.record.topic, output.record.offset
    return "misrouted", output.feedback.feedback_id


def without_a_crash(
    logs: Mapping[str, Sequence[Record]], rules: Rules = RULES
) -> set[tuple[object, ...]]:
    with TemporaryDirectory() as folder:
        kafka = Kafka(logs, rules)
        worker = Worker(kafka, Path(folder) / "0")
        for topic in TOPICS:
            worker.read(topic, len(logs[topic]))
        worker.wait()
        worker.commit()
        worker.state.close()
        return kafka.delivered


times = st.lists(st.integers(BEGIN, BEGIN + 4 * W), min_size=1, max_size=12).map(sorted)
events = st.sampled_from(["a", "b", "c", "d"])


@st.composite
def logs(draw: st.DrawFn) -> dict[str, list[Record]]:
    routes = st.sampled_from(["auto", "review"])
    verdicts = st.sampled_from(["reject", "reject", "accept", "abstain"])
    ids, people = st.sampled_from("uvwxyz"), st.sampled_from(["ann", "bob", "eve"])
    return {
        P: [prediction(n, t, draw(events), draw(routes)) for n, t in enumerate(draw(times))],
        F: [
            feedback(n, t, draw(events), draw(ids), draw(verdicts), draw(people))
            for n, t in enumerate(draw(times))
        ],
    }


reads = st.tuples(st.just("read"), st.sampled_from(TOPICS), st.integers(1, 5))
waits = st.tuples(st.just("wait"))
subsets = st.sampled_from([(), (P,), (F,), TOPICS])
commits = st.tuples(st.just("commit"), st.sampled_from(["", *STEPS]), subsets)
moves = st.tuples(
    st.just("move"), st.sampled_from(["0", "1"])
)  # to another worker, with its own disk
lost = st.tuples(st.just("lose"))


@settings(max_examples=60, deadline=None)
@given(
    logs(),
    st.sampled_from([RULES, replace(RULES, reviewers=Consensus(of=2, agree=2))]),
    st.lists(st.one_of(reads, reads, waits, commits, commits, moves, lost), max_size=16),
)
def test_any_crash_at_any_step_with_any_topic_committed_gives_the_same_results(
    logs: dict[str, list[Record]], rules: Rules, script: list[tuple[object, ...]]
) -> None:
    expected = without_a_crash(logs, rules)
    with TemporaryDirectory() as folder:
        kafka, disk, lives = Kafka(logs, rules), "0", 0
        worker = Worker(kafka, Path(folder) / disk)
        for action, *how in script:
            if action == "read":
                worker.read(*how)  # type: ignore[arg-type]  # a script's line is not typed
            elif action == "wait":
                worker.wait()
            elif action == "commit":
                until, topics = how
                try:
                    worker.commit(until, topics)  # type: ignore[arg-type]
                except Crash:
                    worker.state.close()
                    worker = Worker(kafka, Path(folder) / disk)
            else:
                worker.state.close()
                lives += action == "lose"
                disk = str(how[0]) if how else f"new-{lives}"
                worker = Worker(kafka, Path(folder) / disk)
            assert (worker.state.pending, worker.state.pending_reviews) == worker.recounted()
        for topic in TOPICS:
            worker.read(topic, len(logs[topic]))
        worker.wait()
        worker.commit()
        worker.state.close()
    assert kafka.delivered == expected


# Transactions


class Transactional:
    """A joiner of one partition whose outputs, offsets and notes become true together; it dies where it is told to."""

    def __init__(self, kafka: Kafka, path: Path) -> None:
        self.kafka, self.outbox = kafka, list[Output]()
        self.state = open_state(path, IDENTITY)
        self.join = joining(self.state, self.outbox.append)
        missing = self.state.recover(kafka.committed, dict.fromkeys(TOPICS, 0))
        for topic, offsets in missing.items():
            self.join.catch_up(topic, [kafka.logs[topic][offset] for offset in offsets])
        self.join.settle(kafka.decided)
        assert self.outbox == []
        assert {t: place.offset for t, place in self.state.places.items()} == {
            t: offset or 0 for t, offset in kafka.committed.items()
        }

    def read(self, topic: str, count: int) -> None:
        at = self.state.places[topic].offset
        records = self.kafka.logs[topic][at : at + count]
        (self.join.predictions if topic == P else self.join.feedback)(records)

    def wait(self, until: int) -> None:
        """Time passes, but not beyond a record that is still to be read."""
        read_to = {}
        for topic in TOPICS:
            ahead = self.kafka.logs[topic][self.state.places[topic].offset :]
            read_to[topic] = min([until, *(record.timestamp for record in ahead[:1])])
        self.join.advance(predictions=read_to[P], feedback=read_to[F])

    def commit(self, until: str = "") -> None:
        """Commits; dies before or after the transaction is committed, or when it is applied."""
        captured = self.state.capture()
        if until == "before":
            raise Crash
        self.kafka.told += [identity(output) for output in self.outbox]
        self.kafka.committed = {t: place.offset or None for t, place in captured.places.items()}
        self.kafka.decided = captured.decided
        self.outbox.clear()
        if until == "after":
            raise Crash
        self.state.apply(captured)


ends = st.tuples(st.just("commit"), st.sampled_from(["", "before", "after"]))
passes = st.tuples(st.just("wait"), st.integers(BEGIN, BEGIN + 8 * W))


@settings(max_examples=40, deadline=None)
@given(logs(), st.lists(st.one_of(reads, reads, passes, ends, ends, moves, lost), max_size=20))
def test_with_transactions_nothing_is_told_twice_whatever_crashes_moves_or_is_lost(
    logs: dict[str, list[Record]], script: list[tuple[object, ...]]
) -> None:
    with TemporaryDirectory() as folder:
        kafka, disk, lives = Kafka(logs), "0", 0
        worker = Transactional(kafka, Path(folder) / disk)
        for action, *how in script:
            try:
                if action in ("read", "wait", "commit"):
                    getattr(worker, str(action))(*how)
                    continue
            except Crash:
                pass
            worker.state.close()
            lives += action == "lose"
            if action in ("move", "lose"):
                disk = str(how[0]) if how else f"new-{lives}"
            worker = Transactional(kafka, Path(folder) / disk)
        for topic in TOPICS:
            worker.read(topic, len(logs[topic]))
        worker.wait(FAR)
        worker.commit()
        worker.state.close()
    assert sorted(kafka.told, key=repr) == sorted(without_a_crash(logs), key=repr)


def told_with_a_lost_disk(
    folder: Path, logs: dict[str, list[Record]], first: str, until: int
) -> list[tuple[object, ...]]:
    """Reads everything, decides up to a time, loses its disk, and decides the rest."""
    kafka = Kafka(logs)
    worker = Transactional(kafka, folder / "old")
    for topic in sorted(TOPICS, key=lambda topic: topic != first):
        worker.read(topic, len(logs[topic]))
    worker.wait(until)
    worker.commit()
    worker.state.close()
    worker = Transactional(kafka, folder / "new")
    worker.wait(FAR)
    worker.commit()
    worker.state.close()
    return sorted(kafka.told, key=repr)


@pytest.mark.parametrize("first", TOPICS)
@pytest.mark.parametrize("after", [0, E + 71, E + 80, W + 1, W + 5, W + 25, W + 33, 2 * W, 4 * W])
def test_what_time_had_decided_is_not_decided_again_on_a_new_disk(
    tmp_path: Path, after: int, first: str
) -> None:
    logs = some_logs()
    told = told_with_a_lost_disk(tmp_path, logs, first, BEGIN + after)
    assert told == sorted(without_a_crash(logs), key=repr)


@pytest.mark.parametrize("past", range(-2, 5))
def test_an_event_that_was_looked_at_early_is_decided_with_its_step_and_not_before(
    tmp_path: Path, past: int
) -> None:
    """It stands in the list of what came first: the feedback on the old disk, the prediction on the new one."""
    logs = {F: [feedback(0, BEGIN, "a", "f0")], P: [prediction(0, BEGIN + E + 1, "a")]}
    told = told_with_a_lost_disk(tmp_path, logs, F, BEGIN + E + 1 + W + past)
    assert told == sorted(without_a_crash(logs), key=repr)


def some_logs() -> dict[str, list[Record]]:
    """Every kind of outcome, and both kinds of example."""
    return {
        P: [
            prediction(0, BEGIN, "a", "review"),
            prediction(1, BEGIN, "b"),
            prediction(2, BEGIN + 10, "late"),
            prediction(3, BEGIN + 20, "early"),
            prediction(4, BEGIN + 30, "silent"),
        ],
        F: [
            feedback(0, BEGIN, "early", "f0"),
            feedback(1, BEGIN + 40, "a", "f1"),
            feedback(2, BEGIN + 50, "a", "f1"),
            feedback(3, BEGIN + 60, "b", "f2", "abstain"),
            feedback(4, BEGIN + 70, "nowhere", "f3"),
            feedback(5, BEGIN + 20 + W, "late", "f4"),
        ],
    }


def test_the_logs_of_these_tests_have_every_kind_of_output() -> None:
    kinds = {kind for kind, *_ in without_a_crash(some_logs())}
    assert kinds == {"example", "review", "duplicate", "abstained", "orphaned", "expired"}


@pytest.mark.parametrize("topics", [(), (P,), (F,), TOPICS])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("waited", [False, True])
def test_each_step_of_the_protocol_may_be_the_last(
    tmp_path: Path, step: str, topics: Sequence[str], waited: bool
) -> None:
    logs = some_logs()
    kafka = Kafka(logs)
    worker = Worker(kafka, tmp_path / "0")
    worker.read(P, 2)
    worker.read(F, 2)
    worker.commit()
    worker.read(P, 3)
    worker.read(F, 4)
    if waited:
        worker.commit()
        worker.wait()
    with pytest.raises(Crash):
        worker.commit(step, topics)
    worker.state.close()
    worker = Worker(kafka, tmp_path / "0")
    for topic in TOPICS:
        worker.read(topic, len(logs[topic]))
    worker.wait()
    worker.commit()
    worker.state.close()
    assert kafka.delivered == without_a_crash(logs)


def test_a_commit_that_failed_goes_with_the_next(tmp_path: Path) -> None:
    logs = some_logs()
    kafka = Kafka(logs)
    worker = Worker(kafka, tmp_path / "0")
    worker.read(P, 2)
    worker.state.prepare(worker.state.capture())  # and no answer to the commit
    worker.read(P, 3)
    worker.state.prepare(worker.state.capture())  # nor to the next
    worker.read(F, len(logs[F]))
    worker.wait()
    worker.commit()
    worker.state.close()
    worker = Worker(kafka, tmp_path / "0")
    assert worker.at == {P: len(logs[P]), F: len(logs[F])}
    worker.wait()
    worker.state.close()
    assert kafka.delivered == without_a_crash(logs)


def test_batches_go_on_while_a_commit_is_under_way(
    state: State, partition: PartitionJoin, outputs: list[Output]
) -> None:
    logs = some_logs()
    partition.predictions(logs[P])
    captured = state.capture()
    partition.feedback(logs[F][:3])
    state.prepare(captured)
    partition.feedback(logs[F][3:])
    state.apply(captured)
    partition.advance(predictions=FAR, feedback=FAR)
    assert {identity(output) for output in outputs} == without_a_crash(logs)


def test_when_nothing_waits_any_more_nothing_is_kept(
    state: State, partition: PartitionJoin, outputs: list[Output]
) -> None:
    logs = some_logs()
    partition.predictions(logs[P])
    assert (state.pending, state.pending_reviews) == (5, 1)
    commit(state)
    partition.feedback(logs[F])
    commit(state)
    for _ in range(9):
        partition.advance(predictions=FAR, feedback=FAR)
        commit(state)
    assert not partition.behind
    assert (state.pending, state.pending_reviews) == (0, 0)
    keys = [b"e" + record.key for of_topic in logs.values() for record in of_topic if record.key]
    assert set(state.load(keys).values()) == {None}
    assert state.due(FAR * 9, 1000).keys == []


def test_what_is_due_comes_in_parts_and_each_once(state: State) -> None:
    for n in range(10):
        state.put_due(100 + n, [b"%d" % n, b"and"])
        if n == 6:
            commit(state)
    taken = []
    while (due := state.due(108, 4)).lists:
        assert len(due.keys) <= 6 + 4
        taken += due.keys[::2]
        state.done(due)
    assert taken == [b"%d" % n for n in range(8)]
    commit(state)
    assert state.due(108, 100).lists == []
    assert state.due(1000, 100).keys == [b"8", b"and", b"9", b"and"]


# Records


def test_a_record_that_was_read_before_is_passed_over(
    state: State, partition: PartitionJoin, outputs: list[Output]
) -> None:
    logs = some_logs()
    partition.predictions(logs[P][:1])
    partition.feedback(logs[F][:2])
    first = list(outputs)
    partition.predictions(logs[P][:1])
    partition.feedback(logs[F][:2])
    assert outputs == first
    assert state.places == {P: Place(1, BEGIN), F: Place(2, BEGIN + 40)}


def test_a_feedback_on_the_wrong_partition_or_under_another_key_is_to_be_sent_anew(
    state: State, outputs: list[Output]
) -> None:
    event_id = next(n for n in map(str, range(99)) if partition_of(n.encode(), 2) == 1)
    partition = PartitionJoin(
        RULES,
        partition=0,
        partitions=2,
        predictions=P,
        feedback=F,
        state=state,
        codec=CODEC,
        emit=outputs.append,
    )
    records = [
        feedback(0, BEGIN, event_id, "f0"),
        replace(feedback(1, BEGIN, event_id, "f1"), key=None),
        replace(feedback(2, BEGIN, event_id, "f2"), key=b"another"),
    ]
    partition.feedback(records)
    assert [type(output) for output in outputs] == [Misrouted] * 3
    assert [output.record for output in outputs if isinstance(output, Misrouted)] == records


def test_what_cannot_be_read_is_buried_and_the_rest_goes_on(
    partition: PartitionJoin, outputs: list[Output]
) -> None:
    logs = some_logs()
    broken = replace(logs[F][1], value=b"\xc3\x01junk")
    keyless = replace(logs[P][0], key=None)
    unreadable = replace(logs[P][1], headers=(), value=b"junk")
    partition.predictions([keyless, unreadable, *logs[P][2:]])
    partition.feedback([logs[F][0], broken])
    assert [identity(output) for output in outputs] == [
        ("buried", P, 0),
        ("buried", P, 1),
        ("example", "early", "feedback", 0, False),
        ("buried", F, 1),
    ]


def test_a_prediction_without_a_route_header_is_asked_for_it(
    partition: PartitionJoin, outputs: list[Output]
) -> None:
    partition.predictions([replace(prediction(0, BEGIN, "a", "review"), headers=())])
    partition.predictions([replace(prediction(1, BEGIN, "b"), headers=())])
    assert [identity(output) for output in outputs] == [("review", "a", BEGIN)]


def test_a_feedback_that_waited_is_buried_with_its_bytes_and_headers(
    partition: PartitionJoin, outputs: list[Output]
) -> None:
    unanswerable = prediction(0, BEGIN, "a")
    told = CODEC.decode_as(Prediction, unanswerable.value)._replace(label=None)
    unanswerable = replace(unanswerable, value=CODEC.encode(P, told))
    waiting = replace(
        feedback(0, BEGIN, "a", "f", "accept"), headers=[("feedback_id", b"f"), ("nothing", None)]
    )
    partition.feedback([waiting])
    assert outputs == []
    partition.predictions([unanswerable])
    (buried,) = outputs
    assert isinstance(buried, Buried)
    assert buried.record == waiting
    assert buried.error.feedback_id == "f"


def test_verdicts_wait_for_others_on_the_disk_and_count_after_a_restart(
    tmp_path: Path, outputs: list[Output]
) -> None:
    def said(offset: int, reviewer: str, label: bool) -> Record:
        record = feedback(offset, BEGIN, "a", f"f{offset}")
        given = CODEC.decode_as(Feedback, record.value)
        given = given._replace(verdict="correct", label=label, reviewer=reviewer)
        return replace(record, value=CODEC.encode(F, given))

    rules = replace(RULES, reviewers=Consensus(of=3, agree=2))
    given = [said(0, "ann", True), said(1, "bob", False), said(2, "eve", True)]
    for record in given:
        opened = open_state(tmp_path / "0", IDENTITY)
        join = joining(opened, outputs.append, rules)
        join.predictions([prediction(0, BEGIN, "a"), prediction(1, BEGIN, "b")])
        join.feedback([record])
        commit(opened)
        opened.close()
    outvoted, example = outputs
    assert isinstance(outvoted, Outcome)
    assert (outvoted.status, outvoted.feedback_id) == ("outvoted", "f1")
    assert isinstance(example, Example)
    assert [source.reviewer for source in example.sources] == ["ann", "eve"]


def test_a_verdict_that_nobody_agrees_with_ends_when_the_window_has_passed(
    state: State, outputs: list[Output]
) -> None:
    join = joining(state, outputs.append, replace(RULES, reviewers=Consensus(of=3, agree=2)))
    join.predictions([prediction(0, BEGIN, "a")])
    join.feedback([feedback(0, BEGIN, "a", "f")])
    join.advance(predictions=BEGIN + 2 * W, feedback=BEGIN + 2 * W)
    (ended,) = outputs
    assert isinstance(ended, Outcome)
    assert (ended.status, ended.feedback_id) == ("no-consensus", "f")


def test_a_clock_that_is_set_back_does_not_move_time_back(
    state: State, partition: PartitionJoin, outputs: list[Output]
) -> None:
    partition.predictions([prediction(0, BEGIN, "a"), prediction(1, BEGIN - 5 * W, "b")])
    partition.feedback([feedback(0, BEGIN + W, "b", "f")])
    assert [identity(output) for output in outputs] == [("example", "b", "feedback", 0, False)]
    assert state.places[P].clock == BEGIN


class Down(Codec):
    """A codec whose registry does not answer at first."""

    up = False

    def decode(self, data: bytes | None) -> object:  # type: ignore[override]  # of any record here
        if not self.up:
            raise Unavailable("the registry is down")
        return super().decode(data)


def test_a_batch_that_failed_for_a_registry_has_done_nothing_and_may_be_repeated(
    state: State, outputs: list[Output]
) -> None:
    codec, logs = Down(), some_logs()
    partition = PartitionJoin(
        RULES,
        partition=0,
        partitions=1,
        predictions=P,
        feedback=F,
        state=state,
        codec=codec,
        emit=outputs.append,
    )
    for records, take in ((logs[P], partition.predictions), (logs[F], partition.feedback)):
        codec.up = False
        before = dict(state.places)
        with pytest.raises(Unavailable):
            take(records)
        assert state.places == before
        codec.up = True
        take(records)
    codec.up = False
    with pytest.raises(Unavailable):
        partition.advance(predictions=FAR, feedback=FAR)
    codec.up = True
    partition.advance(predictions=FAR, feedback=FAR)
    assert {identity(output) for output in outputs} == without_a_crash(logs)


def test_reading_a_feedback_never_tells_a_bad_record_by_an_exception(
    partition: PartitionJoin,
) -> None:
    try:
        partition.feedback([replace(feedback(0, BEGIN, "a", "f"), value=None)])
    except BadRecord:
        pytest.fail("it belongs into the dead letters")


# What a state belongs to


def used(path: Path) -> None:
    """Leaves a state at positions 1 and 1."""
    opened = open_state(path, IDENTITY)
    opened.places = {P: Place(1, BEGIN), F: Place(1, BEGIN)}
    commit(opened)
    opened.close()


def test_a_second_process_on_the_same_state_is_refused_in_words(tmp_path: Path) -> None:
    opened = open_state(tmp_path / "0", IDENTITY)
    program = f"""
from pathlib import Path
from streams.core.errors import Conflict
from streams.engine.state import Identity, open_state
try:
    open_state(Path({str(tmp_path / "0")!r}), Identity("loop", 0, {{}}))
except Conflict as error:
    print(error)
"""
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    opened.close()
    assert "in use by another process: stop that worker" in told.stdout
    assert "another --worker name" in told.stdout


def test_the_same_process_cannot_open_a_state_twice_either(tmp_path: Path, state: State) -> None:
    with pytest.raises(Conflict):
        open_state(tmp_path / "0", IDENTITY)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (IDENTITY._replace(loop="other"), "this one has the state of loop loop, partition 0"),
        (IDENTITY._replace(partition=1), "this one has the state of loop loop, partition 0"),
        (
            IDENTITY._replace(topics={**IDENTITY.topics, F: TopicIdentity("new", 1)}),
            "deleted and made again",
        ),
        (
            IDENTITY._replace(topics={**IDENTITY.topics, P: TopicIdentity("p-id", 4)}),
            "verdicts would miss their predictions",
        ),
    ],
)
def test_a_state_of_something_else_is_refused_with_the_way_out(
    tmp_path: Path, now: Identity, told: str
) -> None:
    used(tmp_path / "0")
    with pytest.raises(ConfigError, match=told):
        open_state(tmp_path / "0", now)
    open_state(tmp_path / "0", IDENTITY).close()  # and it is free again


def test_all_that_changed_is_told_together(tmp_path: Path) -> None:
    used(tmp_path / "0")
    topics = {P: TopicIdentity("new", 1), F: TopicIdentity("f-id", 4)}
    with pytest.raises(ConfigError) as refused:
        open_state(tmp_path / "0", IDENTITY._replace(topics=topics))
    assert [mistake.name for mistake in refused.value.mistakes] == [
        f"id of topic {P}",
        f"partitions of topic {F}",
    ]


def test_offsets_that_vanished_are_told_with_what_they_were(tmp_path: Path) -> None:
    used(tmp_path / "0")
    opened = open_state(tmp_path / "0", IDENTITY)
    with pytest.raises(ConfigError, match="it was at 1") as refused:
        opened.recover({P: None, F: 1}, {P: 0, F: 0})
    assert [mistake.name for mistake in refused.value.mistakes] == [f"{P}-0"]
    opened.close()


def test_records_that_were_deleted_before_they_were_read_are_told(tmp_path: Path) -> None:
    used(tmp_path / "0")
    opened = open_state(tmp_path / "0", IDENTITY)
    with pytest.raises(ConfigError, match="3 records were deleted before they were read"):
        opened.recover({P: 1, F: 2}, {P: 0, F: 5})
    opened.close()


def test_a_new_group_begins_at_the_beginning_and_a_lost_disk_is_read_again(state: State) -> None:
    assert not any(state.recover({P: None, F: None}, {P: 0, F: 0}).values())
    assert state.recover({P: 9, F: None}, {P: 4, F: 0}) == {P: range(4, 9), F: range(0)}


def test_a_state_that_is_ahead_is_gone_on_from(tmp_path: Path) -> None:
    used(tmp_path / "0")
    opened = open_state(tmp_path / "0", IDENTITY)
    assert not any(opened.recover({P: 0, F: 1}, {P: 0, F: 0}).values())
    assert opened.places[P].offset == 1
    opened.close()


def test_a_disk_that_cannot_be_read_is_told_with_the_way_out(tmp_path: Path) -> None:
    used(tmp_path / "0")
    (tmp_path / "0" / "CURRENT").write_text("no manifest")
    with pytest.raises(Unavailable, match="delete it: it is rebuilt"):
        open_state(tmp_path / "0", IDENTITY)


@given(st.lists(st.binary()))
def test_parts_survive_being_packed(parts: list[bytes]) -> None:
    assert unpack(pack(parts)) == parts


def test_the_oldest_prediction_that_waits_is_found_however_many_were_answered(
    state: State, partition: PartitionJoin
) -> None:
    assert partition.oldest_waiting() is None
    many = 2 * LOOKED_AT
    partition.predictions([prediction(n, BEGIN + n, f"e{n}") for n in range(many)])
    commit(state)
    assert partition.oldest_waiting() == BEGIN
    partition.feedback([feedback(n, BEGIN + many, f"e{n}", f"f{n}") for n in range(many - 1)])
    commit(state)
    found = [partition.oldest_waiting() for _ in range(4)]
    assert found[-1] == BEGIN + many - 1
    partition.feedback([feedback(many, BEGIN + many, f"e{many - 1}", f"f{many - 1}")])
    commit(state)
    assert partition.oldest_waiting() is None
    partition.predictions([prediction(many, BEGIN + many, "late")])
    commit(state)
    assert partition.oldest_waiting() == BEGIN + many
