"""The flow of a run: events at a steady rate, and on some of them verdicts of every kind that people and programs give."""

from __future__ import annotations

import heapq
import json
import random
import threading
import time
from array import array
from collections import Counter
from types import TracebackType
from typing import NamedTuple, Self

from streams.core.events import Feedback, Input
from streams.core.topics import partition_of
from tests.e2e.system import System

WINDOW_S, EARLY_S = 12.0, 6.0
"""The loop's: short, so that verdicts come too late, and are forgotten, while a run lasts."""
REVIEWED = 0.1
CONTRADICTS = "grace"
"""Who says the contrary of what others said."""
PARTITIONS = 4
REGIONS = ("north", "east", "west")
"""The model keys: north and east share a partition of the log, and of two learners each has one."""
KINDS = {
    "soon": 30,
    "early": 8,
    "late": 8,
    "twice": 12,
    "corrected": 10,
    "contradicted": 8,
    "misrouted": 8,
    "labelled": 10,
    "orphaned": 3,
    "expired": 3,
}
"""What verdicts there are, with how often each comes."""
PROGRAM = """
import random
from datetime import timedelta

from river import base, linear_model, preprocessing
from streams import Loop, Source, review


class Ballast(base.Transformer):
    '''Makes snapshots large: three chunks.  It also keeps the region from the scaler.'''

    def __init__(self):
        self._weight = b""

    def learn_one(self, x):
        if x["region"] != "east" and not self._weight:
            self._weight = random.Random(0).randbytes(1_200_000)

    def transform_one(self, x):
        return {{name: value for name, value in x.items() if name != "region"}}


loop = Loop(
    name={name!r},
    task="binary",
    model=Ballast() | preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    inputs=Source(features={{"a": float, "b": float, "c": float, "region": str}}),
    model_key="region",
    review=review.Audit(0.2),
    partitions=4,
    {more}
)
"""


def more_of(labels: str, delivery: str) -> str:
    """What the loop says besides: its window, its topic of labels, how its outputs are delivered."""
    return (
        f"window=timedelta(seconds={WINDOW_S}), early=timedelta(seconds={EARLY_S}), "
        f'labels=[Source("{labels}", event_id="id", label="truth")], delivery="{delivery}",'
    )


class Sending(NamedTuple):
    """One record that is sent.

    Attributes:
        after_s: How long after the event's turn.
        way: ``inputs``, ``feedback``, ``misrouted`` or ``labels``.
        feedback_id: Of a verdict; a label's is its place.
    """

    after_s: float
    way: str
    event_id: str
    feedback_id: str = ""
    label: bool = True
    reviewer: str = "ada"


def event_id_of(number: int) -> str:
    """The id of the event with this number."""
    return f"{number:09}"


def features_of(number: int) -> dict[str, float | str]:
    """What is known of it."""
    draw = random.Random(number)
    known: dict[str, float | str] = {name: draw.uniform(-1, 1) for name in "abc"}
    return {**known, "region": REGIONS[number % 3]}


def truth_of(number: int) -> bool:
    """What people say of it."""
    known = features_of(number)
    return float(known["a"]) + float(known["b"]) > 0.1


def sendings(seed: int, number: int) -> tuple[str | None, list[Sending]]:
    """The kind of verdict that an event gets, if any, and all that is sent about it."""
    draw = random.Random(f"{seed}/{number}")
    event_id, truth = event_id_of(number), truth_of(number)
    asked = Sending(0.0, "inputs", event_id)
    if draw.random() >= REVIEWED:
        return None, [asked]
    kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
    first, second = f"v-{number}", f"w-{number}"
    soon = Sending(draw.uniform(0.1, 2.0), "feedback", event_id, first, truth)
    again = soon._replace(after_s=soon.after_s + draw.choice((0.0, 0.5, 3.0)))
    told: dict[str, list[Sending]] = {
        "soon": [soon],
        "early": [asked._replace(after_s=1.0), soon._replace(after_s=0.0)],
        "late": [soon._replace(after_s=WINDOW_S - 2)],
        "twice": [soon, again],
        "corrected": [soon, again._replace(feedback_id=second, label=not truth)],
        "contradicted": [
            soon,
            soon._replace(feedback_id=second, label=not truth, reviewer=CONTRADICTS),
        ],
        "misrouted": [soon._replace(way="misrouted")],
        "labelled": [soon._replace(way="labels", feedback_id="")],
        "orphaned": [soon._replace(event_id=f"nobody-{number}")],
        "expired": [soon._replace(after_s=WINDOW_S + 2)],
    }
    found = told[kind]
    return kind, found if kind == "early" else [asked, *found]


class Flow:
    """Sends until it is told to stop; then what is still due, and waits until all of it is on the broker.

    Attributes:
        sent_at: By number, when an event was sent.
        feedback_ids: Of the verdicts that were sent.
        kinds: How many events got which kind of verdicts.
    """

    def __init__(self, system: System, labels: str, seed: int, per_s: float) -> None:
        self._system, self._labels, self._seed, self._per_s = system, labels, seed, per_s
        self.sent_at = array("d")
        self.feedback_ids: set[str] = set()
        self.kinds: Counter[str] = Counter()
        self.labels = 0
        self._due: list[tuple[float, int, Sending]] = []
        self._order = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flow")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Sends no more events."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        began, number = time.monotonic(), 0
        while not self._stop.wait(0.02) or self._due:
            now = time.monotonic()
            until = int((now - began) * self._per_s)
            while number < until and not self._stop.is_set():
                self._plan(number, now)
                number += 1
            while self._due and self._due[0][0] <= now:
                self._send(heapq.heappop(self._due)[2])
            self._system.outputs.poll()
            if self._stop.is_set():
                time.sleep(0.02)
        self._system.outputs.flush()

    def _plan(self, number: int, now: float) -> None:
        kind, found = sendings(self._seed, number)
        self.sent_at.append(time.time())
        if kind is not None:
            self.kinds[kind] += 1
        for sending in found:
            self._order += 1
            heapq.heappush(self._due, (now + sending.after_s, self._order, sending))

    def _send(self, sending: Sending) -> None:
        system, key = self._system, sending.event_id.encode()
        if sending.way == "inputs":
            topic, number = system.topic("inputs"), int(sending.event_id)
            self.sent_at[number] = time.time()
            asked = Input(sending.event_id, features_of(number))
            system.outputs.send(topic, system.codec.encode(topic, asked), key)
            return
        if sending.way == "labels":
            told = json.dumps({"id": sending.event_id, "truth": sending.label}).encode()
            system.outputs.send(self._labels, told, key)
            self.labels += 1
            return
        topic = system.topic("feedback")
        verdict = Feedback(
            sending.feedback_id,
            sending.event_id,
            "correct",
            sending.label,
            reviewer=sending.reviewer,
        )
        at = -1
        if sending.way == "misrouted":
            at = (partition_of(key, PARTITIONS) + 1) % PARTITIONS
        headers: list[tuple[str, bytes | None]] = [("feedback_id", sending.feedback_id.encode())]
        system.outputs.send(topic, system.codec.encode(topic, verdict), key, headers, at)
        self.feedback_ids.add(sending.feedback_id)
