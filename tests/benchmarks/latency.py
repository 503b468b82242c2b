"""How soon a prediction comes, and how soon a verdict makes the next ones better: all roles as processes, as they come.

One thread sends inputs and verdicts at a steady pace, one reads predictions and outcomes; both are this process's, so
that one clock tells all times.
"""

from __future__ import annotations

import gc
import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import NamedTuple

from confluent_kafka import Consumer, Producer, TopicPartition

from streams import corrections
from streams.core.events import EXCLUDE, LEARNED, Outcome, Prediction, Snapshot
from streams.core.topics import FEEDBACK, INPUTS, MODELS, OUTCOMES, PREDICTIONS, topics
from streams.corrections import Choice
from streams.engine.reader import to_end
from streams.engine.snapshots import parse_key
from streams.loop import Loop
from tests.benchmarks import loops, material
from tests.benchmarks.lab import Child, Lab
from tests.benchmarks.report import Figure

INPUTS_PER_S = 500
VERDICTS_PER_S = 50
WARM_S = 6.0
MEASURED_S = 20.0
BURST = 10_000
LATER = 10**8
"""Ids of the events that a burst is about start here."""
ROLES = ("predictor", "joiner", "learner")


class Served(NamedTuple):
    """What a steady stretch showed, in milliseconds."""

    predictions: list[float]
    verdicts: list[float]


def measure(lab: Lab) -> list[Figure]:
    """A logistic regression, then a forest, then the forest under a burst."""
    with Running(lab, loops.named(loops.asked, lab.name("latency")), "asked") as system:
        linear = system.steady()
        rolled_back_ms = system.roll_back()
    _tell(lab, "logistic regression", linear)
    with Running(lab, loops.named(loops.trees, lab.name("forest")), "trees") as system:
        forest = system.steady()
        _tell(lab, "forest", forest)
        burst, learned_s = system.burst(lab.count(BURST))
    _tell(lab, f"burst, learned after {learned_s:.1f} s", Served(burst, []))
    return [
        Figure("input_to_prediction_ms_p50", percentile(linear.predictions, 50)),
        Figure("input_to_prediction_ms_p99", percentile(linear.predictions, 99)),
        Figure("verdict_to_served_ms_p50", percentile(linear.verdicts, 50)),
        Figure("verdict_to_served_ms_p99", percentile(linear.verdicts, 99)),
        Figure("rolled_back_ms", rolled_back_ms),
        Figure("input_to_prediction_forest_ms_p99", percentile(forest.predictions, 99)),
        Figure("verdict_to_served_forest_ms_p50", percentile(forest.verdicts, 50)),
        Figure("verdict_to_served_forest_ms_p99", percentile(forest.verdicts, 99)),
        Figure("burst_prediction_ms_p99", percentile(burst, 99)),
        Figure("burst_learned_s", learned_s),
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share (in %) of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share / 100), len(ordered) - 1)]


class Seen:
    """What came out, and when: filled by a thread that reads predictions and outcomes."""

    def __init__(self, bootstrap: str, loop: Loop) -> None:
        names = topics(loop)
        self._predictions, self._outcomes = names[PREDICTIONS], names[OUTCOMES]
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "bench-seen",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 2,
            }
        )
        self._consumer.assign(
            [
                TopicPartition(spec.name, partition, 0)
                for spec in (self._predictions, self._outcomes)
                for partition in range(spec.partitions)
            ]
        )
        self.predicted: dict[str, float] = {}
        self.versions: list[tuple[float, int]] = []
        self.learned: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seen", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poll, decode, predictions = (
            self._consumer.poll,
            material.CODEC.decode,
            self._predictions.name,
        )
        while not self._stop.is_set():
            message = poll(0.1)
            if message is None or message.error() is not None:
                continue
            now = time.perf_counter()
            record = decode(message.value())
            if message.topic() == predictions:
                assert type(record) is Prediction
                self.predicted.setdefault(record.event_id, now)
                self.versions.append((now, record.model_version))
            elif type(record) is Outcome and record.status == LEARNED:
                self.learned[record.feedback_id] = record.model_version or 0
        self._consumer.close()

    def close(self) -> None:
        """Stops reading."""
        self._stop.set()
        self._thread.join()


class Running:
    """All roles of a loop, running."""

    def __init__(self, lab: Lab, loop: Loop, attribute: str) -> None:
        self._lab, self._loop = lab, loop
        lab.prepare(loop)
        self._children: list[Child] = [lab.role(role, loop, attribute) for role in ROLES]
        lab.await_running(*self._children)
        names = topics(loop)
        self._inputs, self._feedback = names[INPUTS].name, names[FEEDBACK].name
        self._seen = Seen(lab.bootstrap, loop)
        self._producer = Producer(
            {
                "bootstrap.servers": lab.bootstrap,
                "partitioner": "murmur2_random",
                "linger.ms": 0,
                "log_level": 2,
            }
        )
        self._sent: dict[str, float] = {}
        self._given: dict[str, float] = {}
        self._events = self._verdicts = 0

    def __enter__(self) -> Running:
        gc.collect()
        gc.disable()  # a collection of ours would pass for a latency of theirs
        return self

    def __exit__(self, *_: object) -> None:
        gc.enable()
        self._seen.close()
        for child in self._children:
            child.end()

    def steady(self) -> Served:
        """Inputs and verdicts at their pace; the first seconds do not count."""
        lab = self._lab
        self._send_for(max(WARM_S * lab.scale, 2.0))
        since = time.perf_counter()
        self._send_for(max(MEASURED_S * lab.scale, 2.0))
        self._await_all()
        return Served(self._answered(since), self._improved(since))

    def burst(self, verdicts: int) -> tuple[list[float], float]:
        """Many verdicts at once while inputs go on: latencies until all of them are learned and served, and that time."""
        lab, seen = self._lab, self._seen
        lab.feed(self._inputs, material.inputs(LATER, verdicts))
        rows = list(material.feedback(LATER, verdicts))
        ids = [f"verdict-{LATER + n:09d}" for n in range(verdicts)]
        last = material.event_id(LATER + verdicts - 1)
        lab.await_that(
            lambda: last in seen.predicted and len(seen.predicted) >= self._events + verdicts,
            self._children,
            "the events of the burst are predicted",
        )
        self._send_for(2.0)
        since = time.perf_counter()
        feeder = threading.Thread(target=lab.feed, args=(self._feedback, rows), name="burst")
        feeder.start()
        while not self._has_served(ids) and time.perf_counter() - since < 120:
            self._send_for(0.2, verdicts=False)
        feeder.join()
        seconds = time.perf_counter() - since
        self._await_all()
        return self._answered(since), seconds

    def roll_back(self) -> float:
        """How long after the snapshot of a rollback predictions by the model from before it still come, in milliseconds.

        By the broker's clock, which stamps both.
        """
        lab, loop = self._lab, self._loop
        settings, names = lab.settings(loop.name), topics(loop)
        half_way = Choice(after=self._seen.versions[len(self._seen.versions) // 2][1])
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(corrections.record, loop, settings, EXCLUDE, half_way)
            while not asked.done():
                self._send_for(0.2)
        (made,) = asked.result()
        self._send_for(1.0)
        self._await_all()
        kafka = settings.kafka()
        published = min(
            message.timestamp()[1]
            for message in to_end(kafka, names[MODELS].name)
            if message.value() is not None
            and parse_key(message.key() or b"").chunk is None
            and material.CODEC.decode_as(Snapshot, message.value() or b"").version >= made.version
        )
        outdated = [
            message.timestamp()[1]
            for message in to_end(kafka, names[PREDICTIONS].name)
            if material.CODEC.decode_as(Prediction, message.value() or b"").model_version
            < made.version
        ]
        return float(max(max(outdated) - published, 0))

    def _has_served(self, ids: Sequence[str]) -> bool:
        learned, versions = self._seen.learned, self._seen.versions
        if any(feedback_id not in learned for feedback_id in ids):
            return False
        return versions[-1][1] >= max(learned[feedback_id] for feedback_id in ids)

    def _send_for(self, seconds: float, verdicts: bool = True) -> None:
        """Sends for so long; a verdict is on the event of a second ago."""
        many = int(seconds * INPUTS_PER_S)
        inputs = list(material.inputs(self._events, many))
        every = INPUTS_PER_S // VERDICTS_PER_S
        produce, poll, clock = self._producer.produce, self._producer.poll, time.perf_counter
        start = clock()
        for n, (key, value) in enumerate(inputs):
            wait = start + n / INPUTS_PER_S - clock()
            if wait > 0:
                time.sleep(wait)
            name = key.decode()
            self._sent[name] = clock()
            produce(self._inputs, value, key)
            about = self._events + n - INPUTS_PER_S
            if verdicts and n % every == 0 and material.event_id(about) in self._seen.predicted:
                ((event_key, verdict),) = material.feedback(about, 1)
                self._given[f"verdict-{about:09d}"] = clock()
                produce(self._feedback, verdict, event_key)
            poll(0)
        self._events += many

    def _await_all(self) -> None:
        lab, seen = self._lab, self._seen
        lab.await_that(
            lambda: self._sent.keys() <= seen.predicted.keys(), self._children, "predictions"
        )
        lab.await_that(
            lambda: self._given.keys() <= seen.learned.keys(), self._children, "outcomes"
        )
        self._send_for(0.2, verdicts=False)  # so that the last version is seen to serve
        lab.await_that(
            lambda: self._sent.keys() <= seen.predicted.keys(), self._children, "predictions"
        )

    def _answered(self, since: float) -> list[float]:
        predicted = self._seen.predicted
        return [(predicted[name] - at) * 1000 for name, at in self._sent.items() if at >= since]

    def _improved(self, since: float) -> list[float]:
        """From the verdict to the first prediction by a model that has learned it."""
        arrived = [at for at, _ in self._seen.versions]
        best = list(accumulate((version for _, version in self._seen.versions), max))
        found = []
        for feedback_id, at in self._given.items():
            first = bisect_left(best, self._seen.learned[feedback_id])
            if at >= since and first < len(arrived):
                found.append((arrived[first] - at) * 1000)
        return found


def _tell(lab: Lab, what: str, served: Served) -> None:
    for name, values in (
        ("prediction", served.predictions),
        ("verdict to served", served.verdicts),
    ):
        if values:
            told = ", ".join(f"p{share} {percentile(values, share):.1f}" for share in (50, 95, 99))
            lab.say(f"{what}: {name} {told}, worst {max(values):.1f} ms of {len(values):,}")
