"""What an operator asks of a running loop: how it is, what is on its topics, what could not be used.

Everything is read from the topics, outside of any consumer group.  Kafka is asked first whether it is there at all, and
has the topics: what reads and writes them would wait for longer, and tell less.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic, time
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from streams import bootstrap
from streams.audit import Report as Recount
from streams.config import Settings
from streams.core.errors import BadRecord, ConfigError, Conflict, NotFound, Unavailable
from streams.core.events import DeadLetter, Input, Label, Snapshot, Status
from streams.core.model import seeded
from streams.core.topics import (
    DEAD_LETTERS,
    EXAMPLES,
    FEEDBACK,
    INPUTS,
    MODELS,
    PREDICTIONS,
    STATUS,
    TopicSpec,
    topics,
)
from streams.engine import admin, reader
from streams.engine.codec import Codec
from streams.engine.producer import Outputs
from streams.engine.status import STORED_AT
from streams.files import inputs, rows, value_of
from streams.follower import refusal as is_refused
from streams.loop import Loop
from streams.show import jsonable

Kafka: TypeAlias = Mapping[str, Any]
"""Connection settings, in librdkafka's names."""
TP: TypeAlias = tuple[str, int]

SILENT_MS = 15_000
"""Workers beat every second; one that was not heard of for so long is gone."""
REBUILT_PER_S = 100_000
"""Records that a joiner which lost its disk takes in per second, at least (``make bench``)."""
LOOK_S = 2.0
"""How long a partition's next record is waited for, to tell its age."""
ANSWER_S = 10.0
"""A Kafka that has not answered for so long is not there."""
RETRIED = "retried"
"""Stage of the copy of a dead letter which says that its record was sent again."""


def reach(settings: Settings) -> AdminClient:
    """A client of a Kafka that has answered.

    Raises:
        Unavailable: None does.
    """
    return admin.connect(settings.kafka(), ANSWER_S)


def require(loop: Loop, settings: Settings, *suffixes: str) -> None:
    """Sees that Kafka answers and has these topics of the loop.

    Raises:
        NotFound: One is not there.
        Unavailable: The broker does not answer.
    """
    specs = topics(loop)
    admin.topic_ids(reach(settings), [specs[suffix].name for suffix in suffixes])


class Place(NamedTuple):
    """How far a worker has read a partition.

    Attributes:
        end: The broker's, now.
        behind_s: Age of the oldest record that is still to be read; None if there is none, or nobody looked.
    """

    topic: str
    partition: int
    position: int
    end: int
    behind_s: float | None = None

    @property
    def lag(self) -> int:
        """Records still to be read."""
        return max(self.end - self.position, 0)


class Worker(NamedTuple):
    """A worker by its last heartbeat, and how long ago that was."""

    status: Status
    state: str
    silent_s: float
    places: tuple[Place, ...]


class Model(NamedTuple):
    """A model as the newest heartbeat of a living learner tells of it.

    Attributes:
        snapshot_age_s: How old its newest snapshot is; None if it has none.
    """

    model_key: str
    version: int
    snapshot_age_s: float | None


class Totals(NamedTuple):
    """What there is of a loop in all, by its living workers.

    Attributes:
        lag: Records that are still to be read.
        pending: Predictions that wait for a verdict.
        pending_reviews: Those of them that people were asked about.
        oldest_waiting_s: Age of the oldest of them.
        rebuilds: Models that were rebuilt after a correction, since the learners started.
    """

    lag: int
    pending: int
    pending_reviews: int
    oldest_waiting_s: float | None
    rebuilds: int


class Report(NamedTuple):
    """All workers of a loop, its models, and the partitions that nobody reads."""

    loop: str
    workers: tuple[Worker, ...]
    unread: tuple[TP, ...]
    models: tuple[Model, ...] = ()
    totals: Totals = Totals(0, 0, 0, None, 0)

    def as_json(self) -> dict[str, Any]:
        """The report in plain values."""
        return {
            "loop": self.loop,
            "workers": [_worker_as_json(worker) for worker in self.workers],
            "unread": [f"{topic}-{partition}" for topic, partition in self.unread],
            "models": [model._asdict() for model in self.models],
            **self.totals._asdict(),
        }


def _worker_as_json(worker: Worker) -> dict[str, Any]:
    status = worker.status
    return {
        "role": status.role,
        "worker": status.worker,
        "host": status.host,
        "pid": status.pid,
        "state": worker.state,
        "silent_s": worker.silent_s,
        "versions": dict(status.versions),
        "numbers": {n: v for n, v in status.numbers.items() if not n.startswith(STORED_AT)},
        "notes": list(status.notes),
        "partitions": [{**place._asdict(), "lag": place.lag} for place in worker.places],
    }


def status(loop: Loop, settings: Settings) -> Report:
    """How the workers of a loop are, by the ``status`` topic and the broker's ends.

    Raises:
        NotFound: The loop's topics are not there.
        Unavailable: The broker does not answer.
    """
    require(loop, settings, STATUS)
    specs, kafka, codec = topics(loop), settings.kafka(), bootstrap.codec(settings)
    beats: dict[bytes | None, tuple[int, Status]] = {}
    for message in reader.to_end(kafka, specs[STATUS].name):
        data = message.value()
        if data is not None:
            beats[message.key()] = (message.timestamp()[1], codec.decode_as(Status, data))
    read = [specs[INPUTS].name, specs[PREDICTIONS].name, specs[FEEDBACK].name]
    read += [specs[EXAMPLES].name, *(str(source.topic) for source in loop.labels)]
    now = _broker_now(beats.values())
    found = report(loop.name, list(beats.values()), ends(kafka, read), now)
    return _with_ages(kafka, found, now)


def _with_ages(kafka: Kafka, found: Report, now_ms: int) -> Report:
    """Looks at the next record of each place that has one, for its age."""
    consumer = reader.group_less(kafka)
    try:
        workers = tuple(
            worker._replace(
                places=tuple(
                    place._replace(behind_s=_age(_next_at(consumer, place), now_ms))
                    if place.lag and worker.state == "running"
                    else place
                    for place in worker.places
                )
            )
            for worker in found.workers
        )
    finally:
        consumer.close()
    return found._replace(workers=workers)


def _next_at(consumer: Consumer, place: Place) -> int | None:
    consumer.assign([TopicPartition(place.topic, place.partition, place.position)])
    deadline = monotonic() + LOOK_S
    while monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error() is None:
            return int(message.timestamp()[1])
        if message.error().code() == KafkaError._PARTITION_EOF:
            return None  # marks of transactions, or it was deleted
    return None


def _age(at_ms: float | None, now_ms: int) -> float | None:
    return None if at_ms is None else max(now_ms - at_ms, 0) / 1000


def _broker_now(beats: Iterable[tuple[int, Status]]) -> int:
    """Now, or the newest heartbeat's time where the broker's clock is ahead of ours."""
    return max([int(time() * 1000), *(stamp for stamp, _ in beats)])


def report(
    loop: str, beats: Sequence[tuple[int, Status]], ends: Mapping[TP, int], now_ms: int
) -> Report:
    """What the last heartbeats, each with the broker's time of it, say of a loop."""
    workers = sorted(
        (_worker(stamp, beat, ends, now_ms) for stamp, beat in beats),
        key=lambda worker: (worker.status.role, worker.status.worker),
    )
    living = [worker for worker in workers if worker.state not in ("stopped", "silent")]
    taken = {(place.topic, place.partition) for worker in living for place in worker.places}
    # Who is gone for good and left nothing behind is no news
    told = [worker for worker in workers if worker in living or set(_tps(worker)) - taken]
    unread = tuple(sorted(ends.keys() - taken))
    return Report(loop, tuple(told), unread, _models(living, now_ms), _totals(living, now_ms))


def _models(living: Iterable[Worker], now_ms: int) -> tuple[Model, ...]:
    learners = [worker.status for worker in living if worker.status.role == "learner"]
    found = {
        key: Model(key, version, _age(status.numbers.get(f"{STORED_AT}{key}"), now_ms))
        for status in sorted(learners, key=lambda status: status.at)
        for key, version in status.versions.items()
    }
    return tuple(found[key] for key in sorted(found))


def _totals(living: Sequence[Worker], now_ms: int) -> Totals:
    def numbers(name: str) -> list[float]:
        return [w.status.numbers[name] for w in living if name in w.status.numbers]

    oldest = min(numbers("oldest_waiting_at"), default=None)
    return Totals(
        lag=sum(place.lag for worker in living for place in worker.places),
        pending=int(sum(numbers("pending"))),
        pending_reviews=int(sum(numbers("pending_reviews"))),
        oldest_waiting_s=_age(oldest, now_ms),
        rebuilds=int(sum(numbers("rebuilds"))),
    )


def _tps(worker: Worker) -> list[TP]:
    return [(place.topic, place.partition) for place in worker.places]


def _worker(stamp: int, beat: Status, ends: Mapping[TP, int], now_ms: int) -> Worker:
    silent_ms = max(now_ms - stamp, 0)
    is_silent = beat.state != "stopped" and silent_ms > SILENT_MS
    places = tuple(
        Place(p.topic, p.partition, p.position, max(ends.get((p.topic, p.partition), 0), p.end))
        for p in sorted(beat.positions)
    )
    return Worker(beat, "silent" if is_silent else beat.state, silent_ms / 1000, places)


def ends(kafka: Kafka, names: Iterable[str]) -> dict[TP, int]:
    """The end of every partition of these topics."""
    return {tp: high for tp, (_, high) in bounds(kafka, names).items()}


def bounds(kafka: Kafka, names: Iterable[str]) -> dict[TP, tuple[int, int]]:
    """First offset and end of every partition of these topics.

    Raises:
        Unavailable: The broker does not answer, or has no such topic.
    """
    consumer = reader.group_less(kafka)
    try:
        return {
            (name, partition): reader.watermarks(consumer, name, partition)
            for name in names
            for partition in reader.partitions_of(consumer, name)
        }
    finally:
        consumer.close()


class Rebuild(NamedTuple):
    """What a joiner that lost its disk has to read again."""

    records: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"a joiner that lost its disk would read {self.records:,} predictions and feedback again, "
            f"in about {max(self.seconds, 1):,.0f} s; learners and predictors start from a stored model"
        )


def rebuild(loop: Loop, settings: Settings) -> Rebuild:
    """What a lost disk would take: the joiner's state is rebuilt from predictions and feedback.

    Raises:
        NotFound: These topics are not there.
        Unavailable: The broker does not answer.
    """
    require(loop, settings, PREDICTIONS, FEEDBACK)
    specs = topics(loop)
    found = bounds(settings.kafka(), [specs[PREDICTIONS].name, specs[FEEDBACK].name])
    records = sum(high - low for low, high in found.values())
    return Rebuild(records, records / REBUILT_PER_S)


class Told(NamedTuple):
    """A record of any topic, decoded where that is possible."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: str | None
    kind: str
    fields: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The record in plain values."""
        plain: dict[str, Any] = jsonable(self._asdict())
        return plain


def topic_of(loop: Loop, name: str) -> str:
    """The full name of one of a loop's topics, by its suffix or its full name.

    Raises:
        NotFound: The loop has no such topic.
    """
    specs = topics(loop)
    if name in specs:
        return specs[name].name
    if name in {spec.name for spec in specs.values()}:
        return name
    known = ", ".join(specs)
    message = f"{loop.name} has no topic {name!r}; it has {known}"
    raise NotFound(message)


def tail(
    loop: Loop, settings: Settings, topic: str, *, from_beginning: bool = False
) -> Iterator[Told]:
    """The records of a topic as they come, for ever; those that are there already only if asked for.

    Raises:
        NotFound: The loop has no such topic, or it is not there.
        Unavailable: The broker does not answer, or refuses.
    """
    kafka, codec, name = settings.kafka(), bootstrap.codec(settings), topic_of(loop, topic)
    admin.topic_ids(reach(settings), [name])
    begin = [
        TopicPartition(name, partition, low if from_beginning else high)
        for (_, partition), (low, high) in bounds(kafka, [name]).items()
    ]
    return _followed(kafka, codec, begin)


def _followed(kafka: Kafka, codec: Codec, begin: list[TopicPartition]) -> Iterator[Told]:
    consumer = reader.group_less(kafka)
    try:
        consumer.assign(begin)
        while True:
            for message in consumer.consume(500, 0.2):
                error = message.error()
                if error is None:
                    yield told(codec, message)
                elif is_refused(error):
                    reason = f"{message.topic()} cannot be read: {error.str()}"
                    raise Unavailable(reason)
    finally:
        consumer.close()


def told(codec: Codec, message: Message) -> Told:
    """What a Kafka record says."""
    kind, fields = _opened(codec, message.value())
    key = message.key()
    return Told(
        str(message.topic()),
        int(message.partition() or 0),
        int(message.offset() or 0),
        message.timestamp()[1],
        None if key is None else key.decode(errors="replace"),
        kind,
        fields,
    )


def _opened(codec: Codec, data: bytes | None) -> tuple[str, Mapping[str, Any]]:
    if data is None:
        return "deleted", {}
    try:
        return codec.decode_any(data)
    except BadRecord as unreadable:
        try:
            value = json.loads(data)
        except ValueError:
            return "unreadable", {"why": unreadable.reason, "bytes": data}
        return "json", value if isinstance(value, dict) else {"value": value}


class Letter(NamedTuple):
    """A dead letter, where it stands, and what came of sending its record again."""

    partition: int
    offset: int
    letter: DeadLetter
    retried: str | None

    @property
    def id(self) -> str:
        """What people name it by."""
        return f"{self.partition}-{self.offset}"

    def as_json(self) -> dict[str, Any]:
        """The letter in plain values."""
        plain: dict[str, Any] = jsonable(self.letter)
        return {"id": self.id, "retried": self.retried, **plain}


def dead_letters(loop: Loop, settings: Settings, ids: Sequence[str] = ()) -> list[Letter]:
    """The dead letters of a loop, newest first, or those of these ids, in that order.

    Raises:
        NotFound: There is no dead letter of such an id, or no topic for them.
        Unavailable: The broker does not answer.
    """
    require(loop, settings, DEAD_LETTERS)
    codec = bootstrap.codec(settings)
    found = letters(
        (message.partition() or 0, message.offset() or 0, codec.decode_as(DeadLetter, data))
        for message in reader.to_end(settings.kafka(), topics(loop)[DEAD_LETTERS].name)
        if (data := message.value()) is not None
    )
    return choose(found, ids) if ids else found


def letters(found: Iterable[tuple[int, int, DeadLetter]]) -> list[Letter]:
    """Puts the notes about retries to the letters they are about; newest first."""
    notes, originals = {}, []
    for partition, offset, letter in found:
        if letter.stage == RETRIED:
            notes[letter.topic, letter.partition, letter.offset] = letter.reason
        else:
            originals.append((partition, offset, letter))
    newest_first = sorted(originals, key=lambda each: (each[2].failed_at, each[1]), reverse=True)
    return [
        Letter(
            partition,
            offset,
            letter,
            notes.get((letter.topic, letter.partition, letter.offset)),
        )
        for partition, offset, letter in newest_first
    ]


def choose(found: Sequence[Letter], ids: Sequence[str]) -> list[Letter]:
    """The letters of these ids, in that order.

    Raises:
        NotFound: There is no such letter.
    """
    by_id = {letter.id: letter for letter in found}
    unknown = [each for each in ids if each not in by_id]
    if unknown:
        message = (
            f"no dead letter {', '.join(unknown)}; `counterpoint dead-letters list` shows the ids"
        )
        raise NotFound(message)
    return [by_id[each] for each in ids]


def refusal(letter: Letter, examples: str, feedback: str) -> str:
    """Why a record is not to be sent again; nothing if it may be."""
    if letter.retried is not None:
        return f"dead letter {letter.id} was answered before: {letter.retried}"
    if letter.letter.topic == examples:
        return (
            f"dead letter {letter.id} is a lesson that the model could not take, and its feedback counts as "
            "taken: mend the model, and give a new verdict on the event"
        )
    if letter.letter.topic == feedback and letter.letter.stage == "join":
        return (
            f"dead letter {letter.id} is a verdict that could not be carried out, and its id counts as given: "
            "give another verdict on the event, which gets an id of its own"
        )
    return ""


def retry(loop: Loop, settings: Settings, ids: Sequence[str] = ()) -> list[Letter]:
    """Sends the original records again, to where they came from, and notes that beside each dead letter.

    Without ids: all that can be, in the order in which they failed, since the last verdict on an event counts.  The
    note is written once the records are delivered; after a crash between the two they may be sent again.

    Returns:
        The dead letters whose records were sent.

    Raises:
        NotFound: There is no dead letter of such an id; nothing was sent.
        Conflict: One of those named cannot be sent again; nothing was sent.
        Unavailable: Not everything was delivered.
    """
    names = topics(loop)
    examples, feedback = names[EXAMPLES].name, names[FEEDBACK].name
    found = dead_letters(loop, settings, ids)
    refused = [why for letter in found if (why := refusal(letter, examples, feedback))]
    if ids and refused:
        raise Conflict("; ".join(refused))
    in_order = found if ids else reversed(found)
    chosen = [letter for letter in in_order if not refusal(letter, examples, feedback)]
    outputs = Outputs(settings.kafka())
    for letter in chosen:
        original = letter.letter
        headers = [(name, value) for name, value in original.headers]
        headers.append(("retry-of", letter.id.encode()))
        outputs.send(original.topic, original.value, original.key, headers)
    outputs.flush()
    _note(loop, outputs, bootstrap.codec(settings), chosen)
    return chosen


def _note(loop: Loop, outputs: Outputs, codec: Codec, sent: Iterable[Letter]) -> None:
    topic, now_ms = topics(loop)[DEAD_LETTERS].name, int(time() * 1000)
    for letter in sent:
        note = letter.letter._replace(
            role="operator", stage=RETRIED, reason="sent again", failed_at=now_ms
        )
        headers = [("retry-of", letter.id.encode())]
        outputs.send(topic, codec.encode(topic, note), note.key, headers)
    outputs.flush()


def send(
    loop: Loop,
    settings: Settings,
    file: BinaryIO,
    event_id: str = "event_id",
    tell: Callable[[int], None] = lambda count: None,
) -> int:
    """Sends the events of a file to the loop's own inputs, and returns how many there were; tells each count.

    Raises:
        Conflict: The loop reads a topic of the user's.
        BadRecord: A row cannot be read; those before it were sent.
        NotFound: The loop's inputs are not there.
        Unavailable: The broker does not answer, or did not take them all.
    """
    if loop.inputs.topic is not None:
        message = (
            f"{loop.name} reads {loop.inputs.topic}, which is yours: send your own records there"
        )
        raise Conflict(message)
    require(loop, settings, INPUTS)
    topic, outputs = topics(loop)[INPUTS].name, Outputs(settings.kafka())
    encode, count = bootstrap.codec(settings).encoder(Input, topic), 0
    unbuffered = getattr(file, "raw", file)  # a buffer of a pipe waits until it is full
    try:
        for event in inputs(rows(unbuffered, [event_id]), event_id):
            outputs.send(topic, encode(event), event.event_id.encode())
            outputs.poll()
            count += 1
            tell(count)
    except BadRecord as error:
        message = f"{error}; the {count:,} events before it were sent"
        raise BadRecord(message) from error
    finally:
        outputs.flush()
    return count


def label_of(loop: Loop, text: str) -> Label:
    """The label that was typed.

    Raises:
        NotFound: The loop has no such label.
    """
    if loop.task == "regression":
        number = value_of(text)
        if isinstance(number, bool) or not isinstance(number, int | float):
            message = f"{text!r} is no number; {loop.name} is about numbers"
            raise NotFound(message)
        return float(number)
    by_text = {str(label): label for label in loop.classes}
    by_text |= {"true": True, "false": False} if loop.task == "binary" else {}
    if text not in by_text:
        message = f"{loop.name} has no label {text!r}; it has {', '.join(map(str, loop.classes))}"
        raise NotFound(message)
    return by_text[text]


def specs(loop: Loop, settings: Settings) -> list[TopicSpec]:
    """The topics of a loop, as they are to be."""
    return list(topics(loop, settings.keep()).values())


def check(loop: Loop, settings: Settings) -> None:
    """Compares the topics of a loop with what they are to be.

    Raises:
        ConfigError: With all that is off, each with its mending.
        Unavailable: The broker does not answer.
    """
    mistakes = admin.check(admin.connect(settings.kafka()), specs(loop, settings))
    if mistakes:
        raise ConfigError(mistakes)


def delete(loop: Loop, settings: Settings) -> list[str]:
    """Deletes those of the loop's own topics that are there, and returns their names.

    Raises:
        ConfigError: The broker refuses some.
        Unavailable: The broker does not answer.
    """
    names = [spec.name for spec in specs(loop, settings) if spec.own]
    return admin.delete(admin.connect(settings.kafka()), names)


def feedback(
    loop: Loop,
    settings: Settings,
    event_id: str,
    *,
    wait_s: float = 0,
    label: str | None = None,
    **verdict: Any,
) -> dict[str, Any]:
    """Gives a verdict on an event; tells its feedback id and, if that is waited for, what became of it.

    Raises:
        NotFound: The loop has no such label, or its topics are not there.
        Unavailable: What became of it is not known in time; or the broker does not answer.
    """
    from streams.client import Client

    if label is not None:
        verdict["label"] = label_of(loop, label)
    require(loop, settings, FEEDBACK)
    with Client(loop.name, settings=settings) as client:
        feedback_id = client.send_feedback(event_id, **verdict)
        if not wait_s:
            return {"feedback_id": feedback_id}
        try:
            outcome = client.wait_outcome(feedback_id, wait_s)
        except TimeoutError as error:
            message = (
                f"feedback {feedback_id} was sent, and nothing became of it within {wait_s:g} s: see with "
                f"`counterpoint status` whether joiner and learner run, and with `counterpoint tail` whether event "
                f"{event_id!r} has a prediction, without which it waits, as it does for others where several people have to agree"
            )
            raise Unavailable(message) from error
    return {
        "feedback_id": feedback_id,
        "status": outcome.status,
        "detail": outcome.detail,
        "model_version": outcome.model_version,
    }


def models(loop: Loop, settings: Settings) -> list[Snapshot]:
    """The stored models of a loop, newest first.

    Raises:
        NotFound: There is no topic for them.
        Unavailable: The broker does not answer.
    """
    require(loop, settings, MODELS)
    return bootstrap.models(loop, settings)


def snapshot(loop: Loop, settings: Settings, beginning: str) -> Snapshot:
    """The stored model whose id begins so.

    Raises:
        NotFound: There is none, or more than one.
    """
    found = models(loop, settings)
    chosen = [each for each in found if each.snapshot_id.startswith(beginning)]
    if len(chosen) != 1:
        count = "several stored models begin" if chosen else "no stored model begins"
        message = f"{count} with {beginning!r}; `counterpoint models list` shows them"
        raise NotFound(message)
    return chosen[0]


def prepare(loop: Loop, settings: Settings, echo: Callable[[str], None]) -> None:
    """Creates the topics that are missing, with the first definition of the model, and tells what it chose for the user.

    Raises:
        ConfigError: Topics are not as they must be, or cannot be made.
        Unavailable: The broker does not answer.
    """
    for seed in seeded(loop.model, loop.name)[1]:
        echo(f"{seed} was not set: it is derived from the loop's name")
    bootstrap.prepare(loop, settings, echo)


def adopt(loop: Loop, settings: Settings, mode: str, why: str) -> None:
    """Makes the definition of this code the loop's.

    Raises:
        Conflict: It is the loop's already, or there is nothing to continue.
        NotFound: The loop's topics are not there.
        Unavailable: The broker does not answer.
    """
    reach(settings)
    bootstrap.adopt(loop, settings, mode, why)


def audit(
    loop: Loop, settings: Settings, *, settled: bool, progress: Callable[[str, float], None]
) -> Recount:
    """Recounts the loop's promises from its topics.

    Raises:
        NotFound: The loop's topics are not there.
        Unavailable: The broker does not answer, or no longer.
    """
    reach(settings)
    try:
        return bootstrap.audit(loop, settings, settled, progress)
    except KafkaException as error:
        message = f"the audit could not read on: {error.args[0].str()}; see that Kafka is up, and start it again"
        raise Unavailable(message) from error
