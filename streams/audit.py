"""Recounts a loop's promises from its topics alone, with a naive fold of its own: a set of sources, and River.

It shares no decision with what it checks: nothing of ``core`` is imported, and bytes are turned into fields by functions
that it is given.  What it cannot tell (a record that retention has deleted, versions that other code has made, the last
bits on a machine that rounds otherwise) it does not accuse of; but it does not call good what it had to leave out unseen.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isclose
from typing import Any, NamedTuple
from zlib import crc32

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from pyroaring import BitMap64

Place = tuple[str, int, int]
"""Topic, partition, offset."""
Fields = Mapping[str, Any]
NAMED = 5
"""So many offending ids a finding names."""
PROBES = 50
"""So many recent events a stored model is compared on."""
SAMPLE = 500
"""So many predictions are made again, by the version that they name."""
NEAR = 1e-6
"""So far apart, relatively, may answers be on machines that round otherwise."""
TAKEN = ("learned", "retracted")
"""The outcomes of what became an example: with a label, and without."""
DUPLICATE = "duplicate"
"""The outcome that says that another copy of the verdict has one."""
READ = ("outcomes", "dead-letters", "examples", "predictions", "feedback", "inputs")
"""The topics, effects before their causes: in this order their ends are noted, so that every effect has its cause."""


class Stored(NamedTuple):
    """The newest stored model of a key.

    Attributes:
        version: Its version.
        sources: What it has learned from, as (topic, partition, offset) without the loop's name.
        model: The River model.
    """

    version: int
    sources: set[Place]
    model: Any


class Finding(NamedTuple):
    """Something that is off.

    Attributes:
        promise: Which of the five promises it breaks.
        what: What is off, in words.
        times: How often.
        examples: The first few offenders.
    """

    promise: int
    what: str
    times: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        named = ", ".join(self.examples)
        return f"promise {self.promise}: {self.times} {self.what} ({named}{', …' * (self.times > len(self.examples))})"


@dataclass(frozen=True, slots=True)
class Report:
    """What was counted, and what is off."""

    counts: Mapping[str, int]
    findings: Sequence[Finding]
    notes: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Nothing is off."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        found = [finding._asdict() for finding in self.findings]
        return {"ok": self.ok, **self.counts, "findings": found, "notes": list(self.notes)}

    def __str__(self) -> str:
        width = max(map(len, self.counts), default=0)
        lines = [f"{name:<{width}}  {count:>12,}" for name, count in self.counts.items()]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"OFF: {finding}" for finding in self.findings] or [
            "ok: nothing lost, each verdict learned once"
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is audited, and how its bytes are read.

    Attributes:
        kafka: Connection settings, in librdkafka's names.
        topics: Suffix (inputs, predictions, ...) to full name.
        decode: A record's bytes to (schema name, fields); raises ``unreadable``.
        read_input: (key, value) of an input to its event id; raises ``unreadable``.
        unreadable: What those raise for bytes that are no record.
        unlearned: Makes the model that a lineage starts from; given the id of its base, if it has one.
        stored: By model key, the newest stored model.
        unusable: By model key, why its stored model cannot be used.
        replays: Whether folding the log gives the stored model, to the last bit.
        rounds_alike: Whether this machine rounds as those that stored models; if not, the last bits tell nothing.
    """

    kafka: Mapping[str, Any]
    topics: Mapping[str, str]
    decode: Callable[[bytes], tuple[str, Fields]]
    read_input: Callable[[bytes | None, bytes | None], str]
    unreadable: type[Exception]
    unlearned: Callable[[str | None], Any]
    stored: Mapping[str, Stored]
    unusable: Mapping[str, str] = field(default_factory=dict)
    replays: bool = True
    rounds_alike: bool = True


def audit(
    subject: Subject,
    *,
    settled: bool,
    progress: Callable[[str, float], None] = lambda what, part: None,
) -> Report:
    """Recounts.

    Args:
        subject: The loop.
        settled: Nothing is under way any more: what has not happened is lost.
        progress: Told what is read, and how much of it, 0 to 1.
    """
    consumer, again = consumer_of(subject.kafka), consumer_of(subject.kafka)
    try:
        bounds = {suffix: bounds_of(consumer, subject.topics[suffix]) for suffix in READ}
        return _Audit(subject, settled, progress, consumer, again, bounds).run()
    finally:
        consumer.close()
        again.close()


@dataclass(slots=True)
class _Learned:
    """The naive fold of one model key; without a model while nobody has asked since it lost some of its lessons."""

    model: Any
    seen: dict[Place, str] = field(default_factory=dict)
    taught: set[object] = field(default_factory=set)
    out: set[Place] = field(default_factory=set)
    partition: int = 0
    version: int = 0
    probe: deque[Fields] = field(default_factory=lambda: deque(maxlen=PROBES))


class _Lineage(NamedTuple):
    """What the definitions in a partition of the log say.

    Attributes:
        learn_from: Examples below this offset teach this code's model nothing.
        comparable_after: Versions up to this one were made by other code, or from a state that is not in the log.
        base: The stored model that it starts from.
    """

    learn_from: int = 0
    comparable_after: float = -1
    base: str | None = None


class _Audit:
    def __init__(
        self,
        subject: Subject,
        settled: bool,
        progress: Callable[[str, float], None],
        consumer: Consumer,
        again: Consumer,
        bounds: Mapping[str, Bounds],
    ) -> None:
        self._subject, self._settled, self._progress = subject, settled, progress
        self._consumer, self._again, self._bounds = consumer, again, bounds
        self._counts: Counter[str] = Counter()
        self._off: dict[tuple[int, str], list[str]] = defaultdict(list)
        self._notes: list[str] = []
        self._kept_since: dict[str, float] = {}
        self._dead_places: set[Place] = set()
        self._dead_inputs: set[str] = set()
        self._dead_feedback: set[str] = set()
        self._predicted: set[str] = set()
        self._samples: dict[str, dict[int, list[Fields]]] = defaultdict(lambda: defaultdict(list))
        self._places: dict[str, set[Place]] = defaultdict(set)
        self._statuses: dict[str, set[str]] = defaultdict(set)
        self._outcome_of: dict[str, Place] = {}
        self._versions: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self._sources: dict[str, _Rests] = {}
        self._lineages: dict[int, _Lineage] = {}
        self._defined: set[int] = set()
        self._learned: dict[str, _Learned] = {}
        self._compared: set[str] = set()
        self._same = same if subject.rounds_alike else nearly

    def run(self) -> Report:
        self._note_what_is_gone()
        self._read_dead_letters()
        self._read_outcomes()
        self._read_predictions()
        self._compare_inputs()
        self._read_feedback()
        self._read_definitions()
        self._read_examples()
        self._compare_feedback()
        self._compare_learned()
        self._compare_rest()
        self._note_what_was_compared()
        findings = [
            Finding(promise, what, len(ids), tuple(ids[:NAMED]))
            for (promise, what), ids in sorted(self._off.items())
        ]
        names = (
            *("inputs", "predictions", "predictions_again", "dead_letters", "feedback", "outcomes"),
            *("learned", "examples", "examples_again", "waiting", "rebuilt", "models"),
        )
        return Report({name: self._counts[name] for name in names}, findings, self._notes)

    def _accuse(self, promise: int, what: str, who: object) -> None:
        self._off[promise, what].append(str(who))

    def _miss(self, promise: int, what: str, who: object) -> None:
        """Something has not happened: it is lost, or under way."""
        if self._settled:
            self._accuse(promise, what, who)
        else:
            self._counts["waiting"] += 1

    # Reading

    def _read(self, suffix: str, what: str | None = None) -> Iterator[Message]:
        topic, bounds = self._subject.topics[suffix], self._bounds[suffix]
        return read(
            self._consumer, topic, bounds, lambda part: self._progress(what or suffix, part)
        )

    def _records(self, suffix: str) -> Iterator[tuple[Message, str, Fields]]:
        for message in self._read(suffix):
            try:
                name, fields = self._subject.decode(message.value() or b"")
            except self._subject.unreadable:
                if place(message) not in self._dead_places:
                    what = f"unreadable records of {suffix} without a dead letter"
                    self._miss(1, what, show(place(message)))
                continue
            yield message, name.rpartition(".")[2], fields

    def _note_what_is_gone(self) -> None:
        """Finds since when each topic is whole: what is older, it can neither confirm nor deny."""
        for suffix, bounds in self._bounds.items():
            begun = {p: low for p, (low, _) in bounds.items() if low > 0}
            if not begun:
                continue
            firsts = [self._first_time(suffix, p) for p in begun]
            self._kept_since[suffix] = max(firsts)
            gone = sum(begun.values())
            self._notes.append(
                f"{gone:,} records of {suffix} are deleted already and not recounted"
            )

    def _first_time(self, suffix: str, partition: int) -> float:
        low, high = self._bounds[suffix][partition]
        if low == high:
            return inf
        topic, first = self._subject.topics[suffix], {partition: (low, low + 1)}
        return next((message.timestamp()[1] for message in read(self._consumer, topic, first)), inf)

    def _is_told_of(self, time_ms: float, *suffixes: str) -> bool:
        """Whether these topics still hold what came of a record of that time."""
        return all(time_ms >= self._kept_since.get(suffix, -inf) for suffix in suffixes)

    def _is_kept(self, suffix: str, partition: int, offset: int) -> bool:
        low, _ = self._bounds[suffix].get(partition, (0, 0))
        return offset >= low

    # Promise 1

    def _read_dead_letters(self) -> None:
        inputs = self._subject.topics["inputs"]
        for _, _, letter in self._records("dead-letters"):
            where = (letter["topic"], letter["partition"], letter["offset"])
            self._counts["dead_letters"] += where not in self._dead_places
            self._dead_places.add(where)
            if letter["topic"] == inputs and letter["event_id"] is not None:
                self._dead_inputs.add(letter["event_id"])
            if letter["feedback_id"] is not None:  # an example may rest on several
                self._dead_feedback.update(letter["feedback_id"].split(", "))

    def _read_predictions(self) -> None:
        for _, _, prediction in self._records("predictions"):
            event_id = prediction["event_id"]
            self._counts["predictions_again" if event_id in self._predicted else "predictions"] += 1
            self._predicted.add(event_id)
            self._sample(prediction)

    def _sample(self, prediction: Fields) -> None:
        """Keeps every prediction at first, and ever fewer of them as they become many."""
        seen, event_id = self._counts["predictions"], prediction["event_id"]
        if seen <= SAMPLE or crc32(event_id.encode()) % (seen // SAMPLE + 1) == 0:
            of_key = self._samples[prediction["model_key"]]
            of_key[prediction["model_version"]].append(prediction)

    def _compare_inputs(self) -> None:
        inputs: set[str] = set()
        records = 0
        for message in self._read("inputs"):
            records += 1
            is_dead = place(message) in self._dead_places
            is_told_of = self._is_told_of(message.timestamp()[1], "predictions", "dead-letters")
            try:
                event_id = self._subject.read_input(message.key(), message.value())
            except self._subject.unreadable:
                self._counts["inputs"] += 1
                if not is_dead and is_told_of:
                    self._miss(1, "unreadable inputs without a dead letter", show(place(message)))
                continue
            is_new = event_id not in inputs
            self._counts["inputs"] += is_new
            inputs.add(event_id)
            is_answered = is_dead or event_id in self._predicted or event_id in self._dead_inputs
            if is_new and is_told_of and not is_answered:
                self._miss(1, "inputs without a prediction or a dead letter", event_id)
        # With fewer records than offsets some are compacted away (or were marks of transactions): who knows which.
        if records == sum(end for _, end in self._bounds["inputs"].values()):
            for event_id in sorted(self._predicted - inputs):
                self._accuse(1, "predictions of inputs that are not there", event_id)

    def _read_outcomes(self) -> None:
        for _, _, outcome in self._records("outcomes"):
            feedback_id, status = outcome["feedback_id"], outcome["status"]
            self._statuses[feedback_id].add(status)
            self._outcome_of[feedback_id] = (
                self._subject.topics["feedback"],
                outcome["partition"],
                outcome["offset"],
            )
            if status in TAKEN:
                self._versions[feedback_id].add((outcome["model_key"], outcome["model_version"]))
        self._counts["outcomes"] = len(self._statuses)
        self._counts["learned"] = sum("learned" in told for told in self._statuses.values())

    def _read_feedback(self) -> None:
        for message, _, feedback in self._records("feedback"):
            where, feedback_id = place(message), feedback["feedback_id"]
            is_told_of = self._is_told_of(message.timestamp()[1], "outcomes", "dead-letters")
            if where in self._dead_places or not is_told_of:
                self._dead_feedback.add(feedback_id)
            self._places[feedback_id].add(where)
        self._counts["feedback"] = len(self._places)

    def _compare_feedback(self) -> None:
        for feedback_id in self._places:
            statuses = self._statuses.get(feedback_id, set()) - {DUPLICATE}
            if len(statuses) > 1:
                told = f"{feedback_id}: {' and '.join(sorted(statuses))}"
                self._accuse(1, "feedback with several outcomes", told)
            if not statuses and feedback_id not in self._dead_feedback:
                self._miss(1, "feedback without an outcome or a dead letter", feedback_id)
        for feedback_id, (_, partition, offset) in self._outcome_of.items():
            if feedback_id not in self._places and self._is_kept("feedback", partition, offset):
                self._accuse(1, "outcomes of feedback that is not there", feedback_id)

    # Promise 2

    def _compare_learned(self) -> None:
        for feedback_id, versions in self._versions.items():
            rests = self._sources.get(feedback_id)
            if len(versions) > 1:
                self._accuse(2, "feedback learned more than once", feedback_id)
            if rests is None:
                if "examples" not in self._kept_since:
                    self._accuse(2, "feedback learned without an example", feedback_id)
            elif rests.status not in self._statuses[feedback_id]:
                what = "feedback with another outcome than its example's"
                self._accuse(2, what, feedback_id)
            elif rests.version not in versions:
                what = "feedback learned at another version than its example's"
                self._accuse(2, what, feedback_id)
        for feedback_id, rests in self._sources.items():
            if len(rests.places) > 1:
                self._accuse(2, "feedback in examples from several places", feedback_id)
            is_known = feedback_id in self._versions or feedback_id in self._dead_feedback
            is_told_of = self._is_told_of(rests.time_ms, "outcomes", "dead-letters")
            if self._settled and is_told_of and not is_known:
                self._accuse(2, "examples whose feedback was never learned", feedback_id)

    def _check_source(self, source: Fields, example: Fields, version: int) -> None:
        if source["topic"] != "feedback":
            return
        feedback_id, where = source["feedback_id"], self._full(at(source))
        rests = self._sources.get(feedback_id)
        if rests is None:
            answered_at = example["answered_at"]
            rests = self._sources[feedback_id] = _Rests(
                (example["model_key"], version),
                inf if answered_at is None else answered_at,
                TAKEN[example["label"] is None],
            )
        rests.places.add(where)
        is_there = where in self._places.get(feedback_id, ())
        if not is_there and self._is_kept("feedback", source["partition"], source["offset"]):
            told = f"{feedback_id} (event {example['event_id']}, {show(where)})"
            self._accuse(2, "examples that rest on feedback that is not there", told)

    def _full(self, where: Place) -> Place:
        suffix, partition, offset = where
        return self._subject.topics.get(suffix, suffix), partition, offset

    # Promises 3 and 5: the naive fold

    def _read_definitions(self) -> None:
        told: dict[int, list[tuple[int, Fields]]] = defaultdict(list)
        for message in self._read("examples", "definitions"):
            if any(name == "kind" for name, _ in message.headers() or ()):
                name, fields = self._subject.decode(message.value() or b"")
                partition, offset = message.partition() or 0, message.offset() or 0
                if name.endswith(".Define"):
                    told[partition].append((offset, fields))
                    self._defined.add(offset + 1)
        for partition, definitions in told.items():
            self._lineages[partition] = lineage = lineage_of(definitions)
            if lineage.comparable_after >= 0:
                self._notes.append(
                    f"versions of partition {partition} up to its newest definition were made by other code: they are "
                    "counted, and not made again"
                )
        if "examples" in self._kept_since:
            self._notes.append("the log does not begin at its beginning: no version is made again")

    def _read_examples(self) -> None:
        for message, name, fields in self._records("examples"):
            if name not in ("Example", "Exclusion"):
                continue
            partition, offset = message.partition() or 0, message.offset() or 0
            lineage, key = self._lineages.get(partition, _Lineage()), fields["model_key"]
            learned = self._learned.get(key)
            if learned is None:
                learned = self._learned[key] = _Learned(self._subject.unlearned(lineage.base))
                self._make_again(key, learned, lineage)
            if name == "Exclusion":
                self._exclude(fields, partition, offset, learned)
            else:
                self._fold(fields, offset, learned, lineage)
            self._make_again(key, learned, lineage)

    def _fold(self, example: Fields, offset: int, learned: _Learned, lineage: _Lineage) -> None:
        learned.version = offset + 1
        for source in example["sources"]:
            self._check_source(source, example, learned.version)
            learned.seen.setdefault(at(source), source["feedback_id"])
        fresh = fresh_of(example, learned.taught)
        self._counts["examples" if fresh else "examples_again"] += 1
        if is_lesson(example, fresh, learned.out) and offset >= lineage.learn_from:
            learned.probe.append(example["features"])
            if learned.model is not None:
                teach(learned.model, example)

    def _exclude(self, record: Fields, partition: int, offset: int, learned: _Learned) -> None:
        """Takes sources out, or puts them back: what the model has learned is to be learned once more, without them."""
        learned.version = offset + 1
        named = {
            (each["topic"], each["partition"], n)
            for each in record["sources"]
            for n in BitMap64.deserialize(each["offsets"])
        }
        out = learned.out | named if record["kind"] == "exclude" else learned.out - named
        if out != learned.out:
            learned.out, learned.model, learned.partition = out, None, partition

    def _teach_again(self, key: str, learned: _Learned, lineage: _Lineage) -> None:
        learned.model, taught = self._subject.unlearned(lineage.base), set[object]()
        bounds = {learned.partition: (0, learned.version)}
        for message in read(self._again, self._subject.topics["examples"], bounds):
            if any(name == "kind" for name, _ in message.headers() or ()):
                continue
            try:
                _, example = self._subject.decode(message.value() or b"")
            except self._subject.unreadable:
                continue
            if example["model_key"] != key:
                continue
            fresh, offset = fresh_of(example, taught), message.offset() or 0
            if is_lesson(example, fresh, learned.out) and offset >= lineage.learn_from:
                teach(learned.model, example)

    def _make_again(self, key: str, learned: _Learned, lineage: _Lineage) -> None:
        """Compares what was predicted by this very version, and what is stored of it, with the naive fold."""
        predictions = self._samples[key].pop(learned.version, ())
        stored = self._subject.stored.get(key)
        is_comparable = self._is_comparable(learned.version, lineage)
        is_stored = stored is not None and stored.version == learned.version
        if is_comparable and learned.model is None and (predictions or is_stored):
            self._teach_again(key, learned, lineage)
        if is_comparable:
            for prediction in predictions:
                self._counts["rebuilt"] += 1
                if not self._same(answer(learned.model, prediction["features"]), said(prediction)):
                    what = "predictions that their version does not give again"
                    self._accuse(5, what, f"{prediction['event_id']} at {learned.version}")
        if stored is not None and stored.version == learned.version and self._is_whole():
            self._compared.add(key)
            self._compare_sources(key, learned, stored)
            if is_comparable:
                self._compare_answers(key, learned, stored)

    def _is_whole(self) -> bool:
        return "examples" not in self._kept_since

    def _is_comparable(self, version: int, lineage: _Lineage) -> bool:
        return self._subject.replays and self._is_whole() and version > lineage.comparable_after

    def _compare_sources(self, key: str, learned: _Learned, stored: Stored) -> None:
        for odd in sorted(stored.sources ^ learned.seen.keys()):
            told = learned.seen.get(odd) or self._at(odd)
            which = "in the log alone" if odd in learned.seen else "in the model alone"
            what = "sources that a stored model and its log do not share"
            self._accuse(2, what, f"{told} ({show(odd)}, {which}, model {key!r})")

    def _compare_answers(self, key: str, learned: _Learned, stored: Stored) -> None:
        for features in learned.probe:
            if not self._same(answer(learned.model, features), answer(stored.model, features)):
                told = f"{key!r} at {stored.version}"
                self._accuse(3, "stored models that answer otherwise than their log", told)
                break

    def _at(self, where: Place) -> str:
        full = self._full(where)
        found = (fid for fid, places in self._places.items() if full in places)
        return next(found, "no feedback at all")

    def _compare_rest(self) -> None:
        """Looks at the versions that no example made: the unlearned models, and such as there should not be."""
        for key in self._samples.keys() - self._learned.keys():
            # Whose partition it is shows with its first example; before that, one lineage for all has to do.
            lineage = max(self._lineages.values(), default=_Lineage(), key=_comparable_after)
            self._make_again(key, _Learned(self._subject.unlearned(lineage.base)), lineage)
        if not self._is_whole():
            return
        for of_key in self._samples.values():
            for version, predictions in of_key.items():
                if self._settled and version > 0 and version not in self._defined:
                    for prediction in predictions:
                        what = "predictions by versions that are not in the log"
                        self._accuse(5, what, f"{prediction['event_id']} at {version}")
        for key, stored in self._subject.stored.items():
            if key not in self._compared and stored.version not in self._defined:
                what = "stored models of versions that are not in the log"
                self._accuse(3, what, f"{key!r} at {stored.version}")

    def _note_what_was_compared(self) -> None:
        """Sees that the models were looked at: an audit that has left them out must not say that all is well."""
        self._counts["models"] = len(self._compared)
        for key in sorted(self._learned.keys() & self._subject.unusable.keys()):
            told = f"{key!r}: {self._subject.unusable[key]}"
            self._accuse(3, "models whose snapshots cannot be used", told)
        if self._learned and not self._subject.stored and not self._subject.unusable:
            self._notes.append("no model was compared with the log: none is stored yet")
        if not self._subject.rounds_alike:
            self._notes.append(
                "this machine rounds otherwise than one that stored models (another CPU or image): answers are compared "
                "to six digits, and not to the last bit"
            )


@dataclass(slots=True)
class _Rests:
    """What examples say of one feedback.

    Attributes:
        version: Model key and version of the first of them.
        time_ms: When it was given, by the broker's clock.
        status: What has to have become of it.
        places: Where it is said to be.
    """

    version: tuple[str, int]
    time_ms: float
    status: str
    places: set[Place] = field(default_factory=set)


def _comparable_after(lineage: _Lineage) -> float:
    return lineage.comparable_after


def lineage_of(definitions: Sequence[tuple[int, Fields]]) -> _Lineage:
    """What the definitions of a partition, by offset, say; one that repeats the one before says nothing."""
    effective: list[tuple[int, Fields]] = []
    for offset, define in definitions:
        before = effective[-1][1] if effective else None
        if before is None or not (
            define["definition"] == before["definition"]
            and define["mode"] == before["mode"]
            and define["base"] in (None, before["base"])
        ):
            effective.append((offset, define))
    newest, base = effective[-1][0], effective[-1][1]["base"]
    later = effective[1:]
    if not later:
        return _Lineage(0, -1, base)
    if later[-1][1]["mode"] == "continue":  # from a state that its author's code made
        return _Lineage(newest, inf, base)
    fresh = max((offset for offset, define in later if define["mode"] == "fresh"), default=0)
    return _Lineage(fresh, newest, base)


def fresh_of(example: Fields, taught: set[object]) -> list[Fields]:
    """The sources of an example that none before it has; now they are taken as met."""
    fresh = [s for s in example["sources"] if (s["feedback_id"] or at(s)) not in taught]
    taught.update(source["feedback_id"] or at(source) for source in fresh)
    return fresh


def is_lesson(example: Fields, fresh: Sequence[Fields], out: set[Place]) -> bool:
    """Whether an example teaches something: it has a label, and a fresh source that is not taken out."""
    return example["label"] is not None and any(at(source) not in out for source in fresh)


def teach(model: Any, example: Fields) -> None:
    """Learns, as plainly as it can be said."""
    try:
        if example["weight"] == 1:
            model.learn_one(example["features"], example["label"])
        else:
            model.learn_one(example["features"], example["label"], w=example["weight"])
    except Exception:  # noqa: BLE001, S110  the model is the user's code; its dead letter was counted
        pass


Said = tuple[Any, Mapping[str, float]]
"""A label, and the scores of all labels."""


def answer(model: Any, features: Fields) -> Said:
    """What a model says, as plainly as it can be asked; what it raises is what it says."""
    try:
        return _answer(model, features)
    except Exception as error:  # noqa: BLE001  the model is the user's code
        return f"raised {type(error).__name__}", {}


def _answer(model: Any, features: Fields) -> Said:
    try:
        likely = model.predict_proba_one(features)
    except (AttributeError, NotImplementedError):
        return model.predict_one(features), {}
    if not likely:
        return None, {}
    return model.predict_one(features), {str(label): p for label, p in likely.items()}


def said(prediction: Fields) -> Said:
    """What a prediction says."""
    return prediction["label"], prediction["scores"]


def same(one: Said, other: Said) -> bool:
    """Whether two answers are equal to the last bit; not-a-number is itself here."""
    (label, scores), (label_2, scores_2) = one, other
    return scores.keys() == scores_2.keys() and all(
        a == b or (a != a and b != b)
        for a, b in [(label, label_2), *((scores[name], scores_2[name]) for name in scores)]
    )


def nearly(one: Said, other: Said) -> bool:
    """Whether two answers are equal but for rounding; the likeliest label may be another where two are as likely."""
    (label, scores), (label_2, scores_2) = one, other
    if not scores:
        return not scores_2 and _near(label, label_2)
    return scores.keys() == scores_2.keys() and all(
        _near(scores[name], scores_2[name]) for name in scores
    )


def _near(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return isclose(a, b, rel_tol=NEAR, abs_tol=NEAR / 1000) or (a != a and b != b)
    return bool(a == b)


def at(source: Fields) -> Place:
    """Where a source is."""
    return source["topic"], source["partition"], source["offset"]


def place(message: Message) -> Place:
    """Where a record is."""
    return message.topic() or "", message.partition() or 0, message.offset() or 0


def show(where: Place) -> str:
    """A place in words."""
    topic, partition, offset = where
    return f"{topic}-{partition} at {offset}"


# Kafka ---------------------------------------------------------------------------------------------------------------

Bounds = Mapping[int, tuple[int, int]]
"""Partition to its first offset and its end."""


def consumer_of(kafka: Mapping[str, Any]) -> Consumer:
    """A consumer that belongs to no group."""
    return Consumer(
        {
            "group.id": "counterpoint-audit",  # librdkafka wants a name; it is never joined
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            **kafka,
        }
    )


def bounds_of(consumer: Consumer, topic: str) -> Bounds:
    """Where a topic begins and ends now."""
    found = consumer.list_topics(topic, timeout=30).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return {
        p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)
        for p in sorted(found.partitions)
    }


def read(
    consumer: Consumer,
    topic: str,
    bounds: Bounds,
    progress: Callable[[float], None] = lambda part: None,
) -> Iterator[Message]:
    """Every record within the bounds, partition by partition."""
    total, done = sum(high - low for low, high in bounds.values()), 0
    for partition, (low, high) in bounds.items():
        if low == high:
            continue
        consumer.assign([TopicPartition(topic, partition, low)])
        for message in _to(consumer, high):
            done += 1
            if done % 10_000 == 0:
                progress(done / total)
            yield message
    consumer.unassign()
    progress(1.0)


def _to(consumer: Consumer, end: int) -> Iterator[Message]:
    while True:
        for message in consumer.consume(5_000, 0.02):  # a longer wait is one for a full chunk
            error, offset = message.error(), message.offset() or 0
            if error is None:
                if offset < end:
                    yield message
                if offset >= end - 1:
                    return
            elif error.code() == KafkaError._PARTITION_EOF:
                return
            elif error.fatal() or not error.retriable():
                raise KafkaException(error)
