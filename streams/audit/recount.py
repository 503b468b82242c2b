"""The recount: reads the topics one after the other, effects first, and compares what it kept of each."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from time import time
from typing import Any
from zlib import crc32

import numpy as np
from confluent_kafka import Consumer
from pyroaring import BitMap64

from streams.audit.digests import Column, Seen, far_apart, holds, with_several, without
from streams.audit.ledger import Ledger
from streams.audit.naive import Lineage, answer, lineage_of, nearly, said, same, teach
from streams.audit.report import NAMED, Fields, Finding, Report, Stored, Subject
from streams.audit.topics import Bounds, Place, at, bounds_of, consumer_of, place, read, show

PROBES = 50
"""So many recent events a stored model is compared on."""
SAMPLE = 500
"""So many predictions, at least, are made again by the version that they name."""
TAKEN = ("learned", "retracted")
"""The outcomes of what became an example: with a label, and without."""
DUPLICATE = "duplicate"
"""The outcome that says that another copy of the verdict has one."""
READ = ("reviews", "outcomes", "dead-letters", "examples", "predictions", "feedback", "inputs")
"""The topics, effects before their causes: in this order their ends are noted, so that every effect has its cause."""
COUNTS = (
    *("inputs", "predictions", "predictions_again", "reviews", "reviews_again", "dead_letters"),
    *(
        "feedback",
        "outcomes",
        "learned",
        "examples",
        "examples_again",
        "waiting",
        "rebuilt",
        "models",
    ),
)
LESSONS_AGAIN = 3_000_000
"""So many lessons may be learned once more for predictions that lie between exclusions: some minutes' work."""


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
    seen: dict[tuple[str, int], BitMap64] = field(default_factory=lambda: defaultdict(BitMap64))
    taught: Seen = field(default_factory=Seen)
    out: set[Place] = field(default_factory=set)
    partition: int = 0
    version: int = 0
    probe: deque[Fields] = field(default_factory=lambda: deque(maxlen=PROBES))


class _Outcomes:
    """What the outcomes say, one row each; a version, and what became of it, are those of a feedback."""

    def __init__(self) -> None:
        self.feedback, self.status, self.version, self.kept = Column(), Column(), Column(), Column()
        self.became = Column()
        self.taken = self.learned = self.duplicate = np.empty(0, bool)

    def settle(self) -> None:
        """To be called when all are read."""
        status = self.status.all()
        self.learned, self.taken = status == hash(TAKEN[0]), np.isin(status, [*map(hash, TAKEN)])
        self.duplicate = status == hash(DUPLICATE)


class _Sources:
    """What the examples say of the feedback that they rest on, one row for each."""

    def __init__(self) -> None:
        self.feedback, self.version, self.place, self.told = Column(), Column(), Column(), Column()
        self.became = Column()


class _Audit(Ledger):
    def __init__(
        self,
        subject: Subject,
        settled: bool,
        progress: Callable[[str, float], None],
        consumer: Consumer,
        again: Consumer,
        bounds: Mapping[str, Bounds],
    ) -> None:
        super().__init__(subject, settled, progress, consumer, bounds)
        self._again, self._lessons_left, self._left_out = again, LESSONS_AGAIN, 0
        self._dead_inputs, self._dead_feedback = Column(), Column()
        self._predicted = Column()
        self._samples: dict[str, dict[int, list[Fields]]] = defaultdict(lambda: defaultdict(list))
        self._given = Column()  # ids of feedback
        self._waiting = Column()  # of these, such as may wait for others to agree
        self._waits_since = inf if subject.waits_ms is None else time() * 1000 - subject.waits_ms
        self._given_at = np.empty(0, np.int64)  # each id with its place
        self._forgotten = np.empty(0, np.int64)  # ids that came again after they were forgotten
        self._outcomes, self._sources = _Outcomes(), _Sources()
        self._lineages: dict[int, Lineage] = {}
        self._defined: set[int] = set()
        self._learned: dict[str, _Learned] = {}
        self._compared: set[str] = set()
        self._odd, self._odd_named = 0, list[tuple[Place, str]]()
        self._same = same if subject.rounds_alike else nearly

    def run(self) -> Report:
        self._note_what_is_gone()
        self._read_dead_letters()
        self._read_reviews()
        self._read_outcomes()
        self._read_predictions()
        self._compare_inputs()
        self._read_feedback()
        self._read_definitions()
        self._read_examples()
        self._compare_feedback()
        self._compare_learned()
        self._compare_rest()
        self._name_what_is_odd()
        self._note_what_was_compared()
        findings = [
            Finding(*check, times, tuple(self._off[check][:NAMED]))
            for check, times in sorted(self._times.items())
        ]
        return Report({name: self._counts[name] for name in COUNTS}, findings, self._notes)

    # Promise 1

    def _read_dead_letters(self) -> None:
        inputs = self._subject.topics["inputs"]
        for _, _, letter in self._records("dead-letters"):
            where = (letter["topic"], letter["partition"], letter["offset"])
            self._counts["dead_letters"] += self._dead_places.add(hash(where))
            if letter["topic"] == inputs and letter["event_id"] is not None:
                self._dead_inputs.add(hash(letter["event_id"]))
            if letter["feedback_id"] is not None:  # an example may rest on several
                for feedback_id in letter["feedback_id"].split(", "):
                    self._dead_feedback.add(hash(feedback_id))

    def _read_reviews(self) -> None:
        """One written again is the same; another is one too many, unless it is for a senior, who is asked beside the
        others, or the id is used again much later.
        """
        events, asked, kept_ms, content = Column(), Column(), Column(), Column()
        for message, _, review in self._records("reviews"):
            events.add(_asked_of(review))
            asked.add(review["requested_at"])
            kept_ms.add(2 * (review["deadline"] - review["requested_at"]))
            content.add(hash(message.value()))
        order = np.lexsort((content.all(), asked.all(), events.all()))
        of, at_ms, twice_ms = events.all()[order], asked.all()[order], kept_ms.all()[order]
        is_same = (of[1:] == of[:-1]) & (content.all()[order][1:] == content.all()[order][:-1])
        is_soon = (of[1:] == of[:-1]) & (at_ms[1:] - at_ms[:-1] <= twice_ms[:-1])
        self._counts["reviews_again"] = int(is_same.sum())
        self._counts["reviews"] = len(events) - self._counts["reviews_again"]
        twice = np.unique(of[1:][is_soon & ~is_same])
        what = "events that were reviewed twice"
        self._accuse_all(1, what, twice, self._named_reviews)

    def _named_reviews(self, wanted: set[int]) -> Iterator[str]:
        for _, _, review in self._records("reviews", "offenders"):
            if _asked_of(review) in wanted:
                yield review["event_id"]

    def _read_predictions(self) -> None:
        count = 0
        for _, _, prediction in self._records("predictions"):
            count += 1
            self._predicted.add(hash(prediction["event_id"]))
            self._sample(prediction, count)
        self._counts["predictions"] = len(self._predicted.unique())
        self._counts["predictions_again"] = count - self._counts["predictions"]

    def _sample(self, prediction: Fields, count: int) -> None:
        """Keeps every prediction at first, and ever fewer of them as they become many."""
        if count <= SAMPLE or crc32(prediction["event_id"].encode()) % (count // SAMPLE + 1) == 0:
            of_key = self._samples[prediction["model_key"]]
            of_key[prediction["model_version"]].append(prediction)

    def _compare_inputs(self) -> None:
        inputs, excused, records = Column(), Column(), 0
        for message in self._read("inputs"):
            records += 1
            is_dead = hash(place(message)) in self._dead_places
            is_told_of = self._is_told_of(message.timestamp()[1], "predictions", "dead-letters")
            try:
                digest = hash(self._subject.read_input(message.key(), message.value()))
            except self._subject.unreadable:
                self._counts["inputs"] += 1
                if not is_dead and is_told_of:
                    self._miss(1, "unreadable inputs without a dead letter", show(place(message)))
                continue
            inputs.add(digest)
            if is_dead or not is_told_of:
                excused.add(digest)
        asked, predicted = inputs.unique(), self._predicted.all()
        self._counts["inputs"] += len(asked)
        missing = without(asked, predicted, excused.all(), self._dead_inputs.all())
        what = "inputs without a prediction or a dead letter"
        self._miss_all(1, what, missing, self._named_inputs)
        # With fewer records than offsets some are compacted away (or were marks of transactions): who knows which.
        if records == sum(end for _, end in self._bounds["inputs"].values()):
            what = "predictions of inputs that are not there"
            ghosts = without(predicted, asked)
            self._accuse_all(1, what, ghosts, self._named("predictions", "event_id"))

    def _named_inputs(self, wanted: set[int]) -> Iterator[str]:
        for message in self._read("inputs", "offenders"):
            try:
                event_id = self._subject.read_input(message.key(), message.value())
            except self._subject.unreadable:
                continue
            if hash(event_id) in wanted:
                yield event_id

    def _read_outcomes(self) -> None:
        rows = self._outcomes
        for _, _, outcome in self._records("outcomes"):
            rows.feedback.add(hash(outcome["feedback_id"]))
            rows.status.add(hash(outcome["status"]))
            rows.became.add(hash((outcome["feedback_id"], outcome["status"])))
            version = outcome["model_key"], outcome["model_version"]
            rows.version.add(hash((outcome["feedback_id"], *version)))
            rows.kept.add(self._is_kept("feedback", outcome["partition"], outcome["offset"]))
        rows.settle()
        self._counts["outcomes"] = len(rows.feedback.unique())
        self._counts["learned"] = len(np.unique(rows.feedback.all()[rows.learned]))

    def _read_feedback(self) -> None:
        given_at, given_ms = Column(), Column()
        for message, _, feedback in self._records("feedback"):
            where, feedback_id = place(message), feedback["feedback_id"]
            is_told_of = self._is_told_of(message.timestamp()[1], "outcomes", "dead-letters")
            if hash(where) in self._dead_places or not is_told_of:
                self._dead_feedback.add(hash(feedback_id))
            if message.timestamp()[1] >= self._waits_since:
                self._waiting.add(hash(feedback_id))
            self._given.add(hash(feedback_id))
            given_at.add(hash((feedback_id, where)))
            given_ms.add(message.timestamp()[1])
        self._given_at = given_at.unique()
        self._forgotten = far_apart(self._given.all(), given_ms.all(), self._subject.known_ms)
        self._counts["feedback"] = len(self._given.unique())

    def _compare_feedback(self) -> None:
        rows, given = self._outcomes, self._given.unique()
        of = rows.feedback.all()
        told, status = of[~rows.duplicate], rows.status.all()[~rows.duplicate]
        what = "feedback with several outcomes"
        several = without(with_several(told, status), self._forgotten)
        self._accuse_all(1, what, several, self._named_with_statuses)
        missing = without(given, told, self._dead_feedback.all())
        found = len(missing)
        missing = without(missing, self._waiting.all())
        self._counts["waiting"] += found - len(missing)
        what = "feedback without an outcome or a dead letter"
        self._miss_all(1, what, missing, self._named("feedback"))
        ghosts = without(of[rows.kept.all() == 1], given)
        what = "outcomes of feedback that is not there"
        self._accuse_all(1, what, ghosts, self._named("outcomes"))

    def _named_with_statuses(self, wanted: set[int]) -> Iterator[str]:
        statuses: dict[str, set[str]] = defaultdict(set)
        for _, _, outcome in self._records("outcomes", "offenders"):
            if hash(outcome["feedback_id"]) in wanted and outcome["status"] != DUPLICATE:
                statuses[outcome["feedback_id"]].add(outcome["status"])
        for feedback_id, found in statuses.items():
            yield f"{feedback_id}: {' and '.join(sorted(found))}"

    # Promise 2

    def _compare_learned(self) -> None:
        rows, sources = self._outcomes, self._sources
        learned, versions = rows.feedback.all()[rows.taken], rows.version.all()[rows.taken]
        of, made_by = sources.feedback.all(), sources.version.all()
        named, in_examples = self._named("outcomes"), self._named_in_examples
        what = "feedback learned more than once"
        self._accuse_all(2, what, with_several(learned, versions), named)
        if "examples" not in self._kept_since:
            what = "feedback learned without an example"
            self._accuse_all(2, what, without(learned, of), named)
        ids, first = np.unique(of, return_index=True)
        is_taken = np.isin(ids, learned)
        became = sources.became.all()[first]
        otherwise = is_taken & np.isin(became, rows.became.all()[rows.taken], invert=True)
        what = "feedback with another outcome than its example's"
        self._accuse_all(2, what, ids[otherwise], named)
        elsewhere = is_taken & np.isin(made_by[first], versions, invert=True)
        what = "feedback learned at another version than its example's"
        self._accuse_all(2, what, ids[elsewhere], named)
        what = "feedback in examples from several places"
        self._accuse_all(2, what, with_several(of, sources.place.all()), in_examples)
        if self._settled:
            told = ids[sources.told.all()[first] == 1]
            what = "examples whose feedback was never learned"
            never = without(told, learned, self._dead_feedback.all())
            self._accuse_all(2, what, never, in_examples)

    def _named_in_examples(self, wanted: set[int]) -> Iterator[str]:
        for _, name, example in self._records("examples", "offenders"):
            for source in example["sources"] if name == "Example" else ():
                if hash(source["feedback_id"]) in wanted:
                    yield source["feedback_id"]

    def _check_source(self, source: Fields, example: Fields, version: int) -> None:
        if source["topic"] != "feedback":
            return
        feedback_id, where = source["feedback_id"], self._full(at(source))
        answered_at = example["answered_at"]
        time_ms = inf if answered_at is None else answered_at
        rows = self._sources
        rows.feedback.add(hash(feedback_id))
        rows.version.add(hash((feedback_id, example["model_key"], version)))
        rows.place.add(hash(where))
        rows.became.add(hash((feedback_id, TAKEN[example["label"] is None])))
        rows.told.add(self._is_told_of(time_ms, "outcomes", "dead-letters"))
        if self._is_kept("feedback", where[1], where[2]):
            pair = hash((feedback_id, where))
            if not holds(self._given_at, pair):
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
            lineage, key = self._lineages.get(partition, Lineage()), fields["model_key"]
            learned = self._learned.get(key)
            if learned is None:
                learned = self._learned[key] = _Learned(self._subject.unlearned(lineage.base))
                self._make_again(key, learned, lineage)
            if name == "Exclusion":
                self._exclude(fields, partition, offset, learned)
            else:
                self._fold(fields, offset, learned, lineage)
            self._make_again(key, learned, lineage)

    def _fold(self, example: Fields, offset: int, learned: _Learned, lineage: Lineage) -> None:
        learned.version = offset + 1
        for source in example["sources"]:
            self._check_source(source, example, learned.version)
            learned.seen[source["topic"], source["partition"]].add(source["offset"])
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

    def _teach_again(self, key: str, learned: _Learned, lineage: Lineage) -> None:
        learned.model, taught = self._subject.unlearned(lineage.base), Seen()
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

    def _make_again(self, key: str, learned: _Learned, lineage: Lineage) -> None:
        """Compares what was predicted by this very version, and what is stored of it, with the naive fold."""
        predictions = self._samples[key].pop(learned.version, ())
        stored = self._subject.stored.get(key)
        is_comparable = self._is_comparable(learned.version, lineage)
        is_stored = stored is not None and stored.version == learned.version
        if is_comparable and learned.model is None and (predictions or is_stored):
            if is_stored or learned.version <= self._lessons_left:
                self._lessons_left -= learned.version
                self._teach_again(key, learned, lineage)
            else:
                is_comparable = False
                self._left_out += len(predictions)
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

    def _is_comparable(self, version: int, lineage: Lineage) -> bool:
        return self._subject.replays and self._is_whole() and version > lineage.comparable_after

    def _compare_sources(self, key: str, learned: _Learned, stored: Stored) -> None:
        for topic, partition in sorted(stored.sources.keys() | learned.seen.keys()):
            in_log = learned.seen.get((topic, partition), BitMap64())
            in_model = BitMap64(stored.sources.get((topic, partition), ()))
            for offset in in_log ^ in_model:
                which = "in the log alone" if offset in in_log else "in the model alone"
                self._odd += 1
                if self._odd <= NAMED:
                    odd = topic, partition, offset
                    self._odd_named.append((odd, f"{show(odd)}, {which}, model {key!r}"))

    def _name_what_is_odd(self) -> None:
        if not self._odd:
            return
        check = 2, "sources that a stored model and its log do not share"
        self._times[check] += self._odd
        self._off[check] += [f"{self._at(where)} ({told})" for where, told in self._odd_named]

    def _at(self, where: Place) -> str:
        """The id of the feedback at a place."""
        topic, partition, offset = self._full(where)
        if topic == self._subject.topics["feedback"]:
            bounds = {partition: (offset, offset + 1)}
            for message in read(self._consumer, topic, bounds):
                if message.offset() == offset:
                    _, fields = self._subject.decode(message.value() or b"")
                    return str(fields["feedback_id"])
        return "no feedback at all"

    def _compare_answers(self, key: str, learned: _Learned, stored: Stored) -> None:
        for features in learned.probe:
            if not self._same(answer(learned.model, features), answer(stored.model, features)):
                told = f"{key!r} at {stored.version}"
                self._accuse(3, "stored models that answer otherwise than their log", told)
                break

    def _compare_rest(self) -> None:
        """Looks at the versions that no example made: the unlearned models, and such as there should not be."""
        for key in self._samples.keys() - self._learned.keys():
            # Whose partition it is shows with its first example; before that, one lineage for all has to do.
            lineage = max(self._lineages.values(), default=Lineage(), key=_comparable_after)
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
        if len(self._forgotten):
            self._notes.append(
                f"{len(self._forgotten)} ids of feedback came again after they were forgotten (twice the window, and early, "
                "after they were last new): such a copy is judged as another feedback"
            )
        if self._left_out:
            self._notes.append(
                f"{self._left_out} sampled predictions between exclusions were not made again: the log would have to be "
                "learned too often"
            )
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


def _asked_of(review: Fields) -> int:
    """The event that is asked about, and whether a senior is; a record of an older release is for everybody."""
    return hash((review["event_id"], review.get("senior", False)))


def _comparable_after(lineage: Lineage) -> float:
    return lineage.comparable_after


def fresh_of(example: Fields, taught: Seen) -> list[Fields]:
    """The sources of an example that none before it has; now they are taken as met."""
    return [s for s in example["sources"] if taught.add(hash(s["feedback_id"] or at(s)))]


def is_lesson(example: Fields, fresh: Sequence[Fields], out: set[Place]) -> bool:
    """Whether an example teaches something: it has a label, and a fresh source that is not taken out."""
    return example["label"] is not None and any(at(source) not in out for source in fresh)
