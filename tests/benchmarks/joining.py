"""How fast the joiner is, how much memory it takes, and how soon it is back without its disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator

from confluent_kafka import Consumer, TopicPartition

from streams.core.topics import EXAMPLES, FEEDBACK, PREDICTIONS, REVIEWS, partition_of, topics
from streams.loop import Loop
from tests.benchmarks import loops, material
from tests.benchmarks.lab import Child, Lab, Row
from tests.benchmarks.report import Figure

WAITING = 1_000_000
MORE = 300_000
VERDICTS = 150_000
MOST_WAITING = 5_000_000
UNASKED, ASKED = [("route", b"auto")], [("route", b"review")]


def measure(lab: Lab) -> list[Figure]:
    """One joiner, from an empty state to the largest, and from no disk to all of it again."""
    loop = loops.named(loops.linear, lab.name("joiner"))
    lab.prepare(loop)
    joiner = Joiner(lab, loop)
    return [*joiner.taken_in(), *joiner.joined(), *joiner.rebuilt()]


class Joiner:
    """A joiner's process and its topics."""

    def __init__(self, lab: Lab, loop: Loop) -> None:
        self._lab, self._loop = lab, loop
        names = topics(loop)
        self._predictions, self.feedback = names[PREDICTIONS].name, names[FEEDBACK].name
        self._reviews, self.examples = names[REVIEWS].name, names[EXAMPLES].name
        self.folder = lab.folder / "state" / loop.name / "joiner"
        self.answered = 0
        self._child = self.start()
        lab.await_running(self._child)
        self._fed = 0
        self._marked = 10**8  # ids of their own

    def start(self) -> Child:
        """Starts its process."""
        self._child = self._lab.role("joiner", self._loop, "linear")
        return self._child

    def end(self) -> None:
        """Ends its process in order."""
        self._child.end()

    def taken_in(self) -> list[Figure]:
        """Predictions, while many wait already.

        Nothing comes out for a prediction that nobody is asked about, so in each partition the first and the last one
        go to a person: their reviews tell when.
        """
        lab, child = self._lab, self._child
        self.feed(lab.count(WAITING))
        self.await_read()
        more = lab.count(MORE)
        before = lab.ends(self._reviews)
        with child.stopped():
            self._mark()
            self.feed(more)
            self._mark()
            cpu = child.cpu_s()
        lab.await_written(self._reviews, before, 2 * self._loop.partitions, [child])
        cpu = child.cpu_s() - cpu
        rate = more / lab.span(self._reviews, before).seconds
        lab.say(f"taken in {rate:,.0f}/s with {self._fed:,} waiting ({cpu / more * 1e6:.1f} µs)")
        return [Figure("joiner_in_per_s", rate), Figure("joiner_in_cpu_us", cpu / more * 1e6)]

    def joined(self) -> list[Figure]:
        """Feedback, to predictions from all over the state."""
        lab, child = self._lab, self._child
        verdicts = min(lab.count(VERDICTS), self._fed)
        before = lab.ends(self.examples)
        with child.stopped():
            lab.feed(self.feedback, _scattered(self._fed, verdicts))
            cpu = child.cpu_s()
        lab.await_written(self.examples, before, verdicts, [child])
        cpu = child.cpu_s() - cpu
        rate = lab.span(self.examples, before).rate
        lab.say(
            f"joined {rate:,.0f}/s ({cpu / verdicts * 1e6:.1f} µs);"
            f" it holds {child.rss_mb():,.0f} MB, at most {child.peak_rss_mb():,.0f} MB"
        )
        return [
            Figure("joiner_joined_per_s", rate),
            Figure("joiner_joined_cpu_us", cpu / verdicts * 1e6),
        ]

    def rebuilt(self) -> list[Figure]:
        """A disk lost with the most waiting: read again what the group's offsets say was read."""
        lab = self._lab
        self.await_read()
        self._child.end()
        self.feed(lab.count(MOST_WAITING) - self._fed)
        ends = {topic: lab.ends(topic) for topic in (self._predictions, self.feedback)}
        self._commit(ends)
        shutil.rmtree(self.folder)
        records = sum(end for of_topic in ends.values() for end in of_topic.values())
        child = self.start()
        lab.await_that(lambda: "records into the state" in child.tail(), [child], "it reads", 0.01)
        began, cpu = time.monotonic(), child.cpu_s()
        lab.await_running(child)
        seconds, cpu = time.monotonic() - began, child.cpu_s() - cpu
        self._mark()  # it works
        self.await_read()
        rss, peak = child.rss_mb(), child.peak_rss_mb()
        child.end()
        lab.say(
            f"rebuilt {records:,} records at {records / seconds:,.0f}/s ({cpu / records * 1e6:.1f} µs);"
            f" it holds {rss:,.0f} MB, at most {peak:,.0f} MB"
        )
        return [
            Figure("joiner_rebuild_per_s", records / seconds),
            Figure("joiner_rss_mb", rss),
            Figure("joiner_peak_rss_mb", peak),
        ]

    def feed(self, many: int) -> None:
        """Adds predictions that nobody is asked about."""
        self._lab.feed(self._predictions, material.predictions(self._fed, many), UNASKED)
        self._fed += many

    def _mark(self) -> None:
        self._lab.feed(self._predictions, self._marks(), ASKED)

    def _marks(self) -> Iterator[Row]:
        """One prediction for each partition."""
        open_ = set(range(self._loop.partitions))
        while open_:
            for row in material.predictions(self._marked, 1):
                where = partition_of(row[0], self._loop.partitions)
                if where in open_:
                    open_.remove(where)
                    yield row
            self._marked += 1

    def await_read(self) -> None:
        """Waits until all predictions are committed as read."""
        consumer = self._group()
        wanted = self._lab.ends(self._predictions)
        asked = [TopicPartition(self._predictions, partition) for partition in wanted]

        def read() -> bool:
            found = consumer.committed(asked, timeout=30)
            return all(place.offset >= wanted[place.partition] for place in found)

        try:
            self._lab.await_that(read, [self._child], "the predictions are read", 0.2)
        finally:
            consumer.close()

    def _commit(self, ends: dict[str, dict[int, int]]) -> None:
        """Makes the group's offsets those of a joiner that had read everything."""
        consumer = self._group()
        places = [
            TopicPartition(topic, p, end) for topic, of in ends.items() for p, end in of.items()
        ]
        try:
            consumer.commit(offsets=places, asynchronous=False)
        finally:
            consumer.close()

    def _group(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._lab.bootstrap,
                "group.id": f"{self._loop.name}.joiner",
                "log_level": 2,
            }
        )


def _scattered(waiting: int, many: int) -> Iterable[Row]:
    """Verdicts on events that are far from each other in the state, as people's are."""
    step = waiting // many
    return (row for n in range(many) for row in material.feedback(n * step, 1))
