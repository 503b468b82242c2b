"""The join of predictions and feedback, decided one event at a time; the order in which the two are read does not matter.

**What is decided.**  Write t for a record's time (the broker's clock, which never falls within a partition), W for
the window and E for how early a verdict may come.  From the records of one event alone:

* A prediction *counts* unless one that counts came at most 2W before it.  So the first of an event counts, and what a
  crash wrote again does not.
* A feedback is a *duplicate* if one with its id, itself no duplicate, came at most 2W + E before it.  It changes nothing.
* Any other feedback f *belongs* to the earliest prediction p that counts with t(p) - E <= t(f) <= t(p) + 2W: its verdict
  is carried out if t(f) <= t(p) + W, else it is ``expired``.  If it belongs to none it is ``orphaned``.
* Of the verdicts that are carried out on p, the earlier ones that taught something *stand* until they are taken back by
  their author (``retract``), or corrected, where the loop repairs; a retract of what does not stand is ``noted``.
* Where several people have to agree, the verdicts that are carried out on p are the words that ``consensus`` hears, in
  their order: what agrees gives one example that rests on all of them.  Those that still wait when W has passed end as
  ``no-consensus``.
* A p that no feedback belongs to within W is *unanswered*.

None of this mentions when a record was read.  It remains to see that each decision can be taken while reading, from an
``Entry``, and that it cannot come out otherwise later.

**When it is decided.**  ``now`` is a time up to which both partitions have been read: every record still to come has
t >= now.  It only rises, and is at most the time of any record that is being read.

* Which predictions count depends on earlier ones alone, and one is forgotten only when now > t + 2W: no later one can
  be within 2W of it.  Likewise for the ids of feedback, at now > t + 2W + E.
* f is decided at once if a p is held that it belongs to.  An earlier one cannot turn up: it would have been read before
  p, and cannot have been forgotten, since now <= t(f) <= its t + 2W.  If p is read after f, f waits in the entry until
  then.  It stops waiting, as orphaned, as soon as a p with t(p) > t(f) + E is held, or now > t(f) + E: what comes
  later cannot be early enough.
* The feedbacks of an event are decided in their own order, so what stands when one is decided is what stood before it in
  the partition, and ``keep-first``, ``repair`` and ``retract`` come out alike.  For let f1 wait when a
  later f2 is read, and let p be held that f2 belongs to.  Either t(f1) < t(p) - E: then f1 does not wait, but was
  orphaned.  Or t(f1) > t(p) + 2W: then t(f2) is also, and f2 does not belong to p.
* p is unanswered when now > t(p) + W: all that could answer it has been read.  From then on its bytes are of no use,
  since whatever still belongs to it is expired, and they are dropped.  The same goes for words: they were heard in their own order,
  by the point before the last, and no word is still to come that another could agree with.

So each decision is a function of the two partitions, and ``now`` only says how soon it is known.  No record may be read
twice on one state: the positions that are stored with it see to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from streams.core import consensus
from streams.core.consensus import KEEP_FIRST, REPAIR, Consensus, Panel, Word
from streams.core.entry import Entry, Given, Held, Opinion, Taught
from streams.core.errors import BadRecord
from streams.core.events import (
    DUPLICATE,
    EXPIRED,
    NO_CONSENSUS,
    NOTED,
    ORPHANED,
    SUPERSEDED,
    Corrected,
    Example,
    Feedback,
    Outcome,
    Prediction,
    Review,
    Source,
)
from streams.core.review import priority_of
from streams.core.topics import FEEDBACK, PREDICTIONS
from streams.core.verdicts import (
    NOTHING_TO_TAKE_BACK,
    UNANSWERED,
    Lesson,
    Rules,
    Settled,
    TakenBack,
    author,
    lesson,
)


class Refused(NamedTuple):
    """A record that was held, and turns out to be of no use.

    Attributes:
        topic: ``predictions`` or ``feedback``.
        value: What was given when it was read.
    """

    topic: str
    t: int
    offset: int
    value: bytes
    error: BadRecord


DISAGREE = "those who were asked disagree"
TAKEN_BACK = "taken back; it was not learned yet"

Output: TypeAlias = Example | Outcome | Review | Refused


class Step(NamedTuple):
    """What a record, or time, makes of an entry; None: there is nothing to keep."""

    entry: Entry | None
    outputs: list[Output]


NOTHING = Entry()


@dataclass(frozen=True, slots=True)
class Join:
    """The decisions about the events of one partition: every method is a pure function of its arguments.

    Attributes:
        partition: The partition, for the sources of examples.
        read_prediction: Reads the bytes of a prediction; raises BadRecord.
        read_feedback: Reads what a waiting feedback was kept as.
    """

    rules: Rules
    partition: int
    read_prediction: Callable[[bytes], Prediction]
    read_feedback: Callable[[bytes], Feedback]

    def on_prediction(
        self, entry: Entry | None, key: bytes, t: int, offset: int, value: bytes, asked: bool
    ) -> Step:
        """A prediction was read.

        Args:
            entry: What is kept of its event.
            key: The event's id.
            asked: Whether a person is to be asked.

        Raises:
            BadRecord: A person is to be asked, and the prediction cannot be read; then it counts for nothing.
        """
        predictions, feedback = entry or NOTHING
        held = Held(t, offset, value, asked=asked)
        if predictions and t <= self._last(predictions[-1]):
            return Step(entry, [])
        outputs: list[Output] = [self._review(self.read_prediction(value), t)] if asked else []
        after = []
        for given in feedback:
            if given.value is None or given.t > self._last(held):
                after.append(given)
                continue
            if given.t < self._first(held):
                outputs.append(self._orphaned(key, given))
            else:
                verdict = self.read_feedback(given.value)
                held, told = self._settle(held, given.t, given.offset, given.value, verdict)
                outputs += told
            after.append(given._replace(value=None))
        return Step(Entry((*predictions, held), tuple(after)), outputs)

    def on_feedback(
        self, entry: Entry | None, t: int, offset: int, value: bytes, verdict: Feedback
    ) -> Step:
        """A feedback was read.

        Args:
            entry: What is kept of its event.
            value: What ``read_feedback`` makes the verdict of, if that has to wait.
            verdict: The feedback itself.
        """
        predictions, feedback = entry or NOTHING
        if self._is_duplicate(feedback, t, verdict.feedback_id):
            return Step(entry, [self._outcome(DUPLICATE, verdict, offset)])
        decided = Given(t, offset, verdict.feedback_id, None)
        for n, held in enumerate(predictions):
            if t < self._first(held):
                return Step(
                    Entry(predictions, (*feedback, decided)),
                    [self._outcome(ORPHANED, verdict, offset)],
                )
            if t <= self._last(held):
                held, outputs = self._settle(held, t, offset, value, verdict)
                predictions = (*predictions[:n], held, *predictions[n + 1 :])
                return Step(Entry(predictions, (*feedback, decided)), outputs)
        return Step(Entry(predictions, (*feedback, decided._replace(value=value))), [])

    def on_time(self, entry: Entry, key: bytes, now: int) -> Step:
        """Both partitions have been read up to ``now``: every record to come has that time or a later one."""
        rules, outputs = self.rules, list[Output]()
        predictions, feedback = [], []
        for held in entry.predictions:
            if held.value is not None and now > held.t + rules.window_ms:
                if rules.unanswered is not None and not held.answered:
                    taught = Lesson(rules.unanswered, rules.weight(UNANSWERED))
                    outputs.append(self._unanswered(held, held.value, taught))
                outputs += [
                    self._outcome(NO_CONSENSUS, self.read_feedback(each.value), each.offset)
                    for each in held.opinions
                    if each.decision is None
                ]
                held = held._replace(value=None, opinions=(), disagree=False)
            if now <= self._last(held):
                predictions.append(held)
        for given in entry.feedback:
            if given.value is not None and now > given.t + rules.early_ms:
                outputs.append(self._orphaned(key, given))
                given = given._replace(value=None)
            if now <= given.t + rules.known_ms:
                feedback.append(given)
        if not (predictions or feedback):
            return Step(None, outputs)
        return Step(Entry(tuple(predictions), tuple(feedback)), outputs)

    def due(self, entry: Entry) -> int:
        """The time up to which ``on_time`` leaves the entry as it is; at any later one it does something."""
        window, early = self.rules.window_ms, self.rules.early_ms
        times = [
            held.t + (2 * window if held.value is None else window) for held in entry.predictions
        ]
        times += [
            given.t + (self.rules.known_ms if given.value is None else early)
            for given in entry.feedback
        ]
        return min(times)

    def _first(self, held: Held) -> int:
        return held.t - self.rules.early_ms

    def _last(self, held: Held) -> int:
        return held.t + 2 * self.rules.window_ms

    def _is_duplicate(self, feedback: tuple[Given, ...], t: int, feedback_id: str) -> bool:
        known_ms = self.rules.known_ms
        return any(
            given.feedback_id == feedback_id and t - given.t <= known_ms for given in feedback
        )

    def _settle(
        self, held: Held, t: int, offset: int, value: bytes, verdict: Feedback
    ) -> tuple[Held, list[Output]]:
        """What a feedback does to the prediction that it belongs to."""
        if held.value is None or t > held.t + self.rules.window_ms:
            return held, [self._outcome(EXPIRED, verdict, offset)]
        written, held = held.value, held._replace(answered=True)
        try:
            prediction = self.read_prediction(written)
            taught = lesson(self.rules, prediction, verdict)
        except BadRecord as error:
            return held, [Refused(FEEDBACK, t, offset, value, error)]
        if isinstance(taught, Settled):
            return held, [self._outcome(taught.status, verdict, offset, taught.detail)]
        if self.rules.reviewers is not None:
            given = Opinion(t, offset, value)
            return self._hear(self.rules.reviewers, held, prediction, taught, given, verdict)
        corrections = self.rules.corrections
        if isinstance(taught, TakenBack):
            outdated = [given for given in held.taught if given.author == taught.author]
            if not outdated:
                detail = NOTHING_TO_TAKE_BACK.format(author=taught.author)
                return held, [self._outcome(NOTED, verdict, offset, detail)]
        elif held.taught and corrections == KEEP_FIRST:
            return held, [self._outcome(SUPERSEDED, verdict, offset)]
        else:
            outdated = list(held.taught) if corrections == REPAIR else []
        standing = [given for given in held.taught if given not in outdated]
        if isinstance(taught, Lesson):
            standing.append(Taught(offset, author(verdict)))
        sources, corrects = [self._source(offset, verdict)], [given.offset for given in outdated]
        example = _example(prediction, taught, sources, held.t, t)
        held = held._replace(taught=tuple(standing))
        return held, [example._replace(corrects=self._corrected(corrects))]

    def _hear(
        self,
        reviewers: Consensus,
        held: Held,
        prediction: Prediction,
        taught: Lesson | TakenBack,
        given: Opinion,
        verdict: Feedback,
    ) -> tuple[Held, list[Output]]:
        """What a feedback does to the prediction that it belongs to, where several people have to agree."""
        rules, who = self.rules, author(verdict)
        said, panel, outputs = self._panel(held, prediction)
        outdated = [
            each for each in held.taught if each.author == who
        ]  # before people had to agree
        if isinstance(taught, TakenBack):
            ruling = consensus.take_back(panel, who)
        else:
            word = Word(given.offset, who, taught.label, verdict.senior)
            ruling = consensus.hear(reviewers, rules.corrections, panel, word)
            is_repaired = bool(ruling.agreed) and rules.corrections == REPAIR
            outdated = list(held.taught) if is_repaired else []
        said[given.offset] = verdict, taught
        outputs += [
            self._outcome(each.status, said[each.place][0], each.place, each.detail)
            for each in ruling.ended
        ]
        corrects = [*(each.offset for each in outdated), *ruling.outdated]
        if isinstance(taught, TakenBack):
            if corrects:
                sources = [self._source(given.offset, verdict)]
                example = _example(prediction, taught, sources, held.t, given.t)
                outputs.append(example._replace(corrects=self._corrected(corrects)))
            else:
                detail = TAKEN_BACK if ruling.ended else NOTHING_TO_TAKE_BACK.format(author=who)
                outputs.append(self._outcome(NOTED, verdict, given.offset, detail))
        elif ruling.agreed:
            agreed = [each for at in ruling.agreed if isinstance(each := said[at][1], Lesson)]
            taught = Lesson(agreed[-1].label, max(each.weight for each in agreed))
            sources = [self._source(at, said[at][0]) for at in ruling.agreed]
            example = _example(prediction, taught, sources, held.t, given.t)
            outputs.append(example._replace(corrects=self._corrected(corrects)))
        if ruling.asks:
            review = self._review(prediction, held.t)
            outputs.append(review._replace(senior=True, opinions=1, reason=DISAGREE))
        opinions = {each.offset: each for each in (*held.opinions, given)}
        return held._replace(
            taught=tuple(each for each in held.taught if each not in outdated),
            opinions=tuple(
                opinions[w.place]._replace(decision=w.decision) for w in ruling.panel.words
            ),
            disagree=ruling.panel.disagree,
        ), outputs

    def _panel(
        self, held: Held, prediction: Prediction
    ) -> tuple[dict[int, tuple[Feedback, Lesson | TakenBack]], Panel, list[Output]]:
        """What was said before, by its place, and as words; what says nothing since the loop was changed ends here."""
        said: dict[int, tuple[Feedback, Lesson | TakenBack]] = {}
        words, outputs = list[Word](), list[Output]()
        for t, offset, value, decision in held.opinions:
            verdict = self.read_feedback(value)
            try:
                taught = lesson(self.rules, prediction, verdict)
            except BadRecord as error:
                outputs += [Refused(FEEDBACK, t, offset, value, error)] if decision is None else []
                continue
            if isinstance(taught, Lesson):
                said[offset] = verdict, taught
                word = Word(offset, author(verdict), taught.label, verdict.senior, decision)
                words.append(word)
            elif decision is None:
                outputs.append(self._outcome(NOTED, verdict, offset))
        return said, Panel(tuple(words), held.disagree), outputs

    def _source(self, offset: int, verdict: Feedback) -> Source:
        said = verdict.feedback_id, verdict.reviewer, verdict.channel
        return Source(FEEDBACK, self.partition, offset, *said)

    def _corrected(self, offsets: Iterable[int]) -> list[Corrected]:
        return [Corrected(FEEDBACK, self.partition, offset) for offset in offsets]

    def _unanswered(self, held: Held, value: bytes, taught: Lesson) -> Output:
        try:
            prediction = self.read_prediction(value)
        except BadRecord as error:
            return Refused(PREDICTIONS, held.t, held.offset, value, error)
        source = Source(PREDICTIONS, self.partition, held.offset, "", None, UNANSWERED)
        return _example(prediction, taught, [source], held.t, None)

    def _review(self, prediction: Prediction, predicted_at: int) -> Review:
        return request(prediction, predicted_at, self.rules.window_ms, self.rules.reviewers)

    def _orphaned(self, key: bytes, given: Given) -> Outcome:
        place = self.partition, given.offset
        return Outcome(key.decode(), given.feedback_id, ORPHANED, None, *place, None, None)

    def _outcome(
        self, status: str, verdict: Feedback, offset: int, detail: str | None = None
    ) -> Outcome:
        place = self.partition, offset
        return Outcome(verdict.event_id, verdict.feedback_id, status, detail, *place, None, None)


def request(
    prediction: Prediction, predicted_at: int, window_ms: int, reviewers: Consensus | None = None
) -> Review:
    """What a person is asked about a prediction, or as many as have to be."""
    return Review(
        event_id=prediction.event_id,
        label=prediction.label,
        scores=prediction.scores,
        confidence=prediction.confidence,
        features=prediction.features,
        text=prediction.text,
        occurred_at=prediction.occurred_at,
        model_key=prediction.model_key,
        model_version=prediction.model_version,
        reason=prediction.reason,
        probability=prediction.probability,
        explanation=prediction.explanation,
        priority=priority_of(prediction.label, prediction.confidence),
        requested_at=predicted_at,
        deadline=predicted_at + window_ms,
        basis=prediction.basis,
        opinions=1 if reviewers is None else reviewers.of,
    )


def _example(
    prediction: Prediction,
    taught: Lesson | TakenBack,
    sources: list[Source],
    predicted_at: int,
    answered_at: int | None,
) -> Example:
    return Example(
        event_id=prediction.event_id,
        model_key=prediction.model_key,
        features=prediction.features,
        label=taught.label if isinstance(taught, Lesson) else None,
        weight=taught.weight if isinstance(taught, Lesson) else 1.0,
        sources=sources,
        predicted=prediction.label,
        scores=prediction.scores,
        model_version=prediction.model_version,
        route=prediction.route,
        reason=prediction.reason,
        probability=prediction.probability,
        predicted_at=predicted_at,
        answered_at=answered_at,
    )
