"""Where benchmarks run: a broker of their own, processes that are watched from outside, and the broker's clock.

It measures nothing by itself: ``Lab`` starts what is measured, ``Child`` knows what a process cost, ``Topics`` when
records were written.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeAlias

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams import bootstrap
from streams.config import Settings
from streams.leash import leashed
from streams.loop import Loop

ROOT = Path(__file__).resolve().parents[2]
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# Between the slowest machine that is worth measuring on and a run that hangs.
PATIENCE_S = 240.0
LOOK_BACK = 10  # so many offsets at a partition's end hold a record

Row: TypeAlias = tuple[bytes, bytes]
Headers: TypeAlias = Sequence[tuple[str, bytes]]


class BenchmarkError(Exception):
    """A benchmark did not come to its end: what was waited for, and what the processes said."""


class Span(NamedTuple):
    """What was written to a topic: how many records, and over how long by the broker's clock."""

    records: int
    seconds: float

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.records / max(self.seconds, 0.001)


class Child:
    """A process that is measured; its output is in ``log``."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                leashed(argv),
                env=dict(env),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.pid = self._process.pid

    def cpu_s(self) -> float:
        """Processor time that it has used, in user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def rss_mb(self) -> float:
        """Memory that it holds now."""
        return self._status_mb("VmRSS")

    def peak_rss_mb(self) -> float:
        """The most memory that it has held."""
        return self._status_mb("VmHWM")

    def _status_mb(self, field: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
        raise BenchmarkError(f"{self.name}: the system tells no {field}")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Keeps it from running: what is fed meanwhile is there, all of it, when it goes on."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def check(self) -> None:
        """Fails if it has ended."""
        code = self._process.poll()
        if code is not None:
            raise BenchmarkError(f"{self.name} ended with {code}:\n{self.tail()}")

    def wait(self) -> None:
        """Waits until it ends by itself, with success."""
        code = self._process.wait(PATIENCE_S)
        if code != 0:
            raise BenchmarkError(f"{self.name} ended with {code}:\n{self.tail()}")

    def tail(self) -> str:
        """The end of what it has printed."""
        return self.log.read_text(errors="replace")[-3000:]

    def end(self) -> None:
        """Asks it to end; kills it if it does not."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Lab:
    """A broker to talk to, a folder to write to, and the processes that were started; all end with it."""

    def __init__(
        self, bootstrap_servers: str, folder: Path, say: Callable[[str], None], scale: float = 1.0
    ) -> None:
        self.bootstrap, self.folder, self.say, self.scale = bootstrap_servers, folder, say, scale
        self._children: list[Child] = []
        self._names = 0
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "bench-clock",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 2,
            }
        )
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "partitioner": "murmur2_random",
                "compression.type": "zstd",
                "linger.ms": 20,
                "queue.buffering.max.messages": 500_000,
                "delivery.report.only.error": True,
                "log_level": 2,  # the end of the broker, which ends first, is no news
            }
        )
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2})

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in self._children:
            child.end()
        self._consumer.close()

    def count(self, full: int, least: int = 100) -> int:
        """How many of something a run of this scale takes."""
        return max(int(full * self.scale), least)

    def name(self, about: str) -> str:
        """A loop's name that was not used before."""
        self._names += 1
        return f"bench-{about}-{self._names}"

    # Processes

    def environ(self, name: str) -> dict[str, str]:
        """The environment of the processes of a loop: the settings are the defaults but for where things are."""
        given = {k: v for k, v in os.environ.items() if not k.startswith("COUNTERPOINT_")}
        return {
            **given,
            "BENCH_LOOP": name,
            "COUNTERPOINT_BOOTSTRAP": self.bootstrap,
            "COUNTERPOINT_STATE_DIR": str(self.folder / "state"),
            "COUNTERPOINT_CACHE_DIR": str(self.folder / "cache"),
            "COUNTERPOINT_SECRET": "of-the-benchmarks",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": str(ROOT),
        }

    def prepare(self, loop: Loop) -> None:
        """Creates a loop's topics and its first definition."""
        bootstrap.prepare(loop, self.settings(loop.name))

    def settings(self, name: str) -> Settings:
        """The settings of a loop's processes."""
        return Settings.from_env(self.environ(name))

    def role(self, role: str, loop: Loop, attribute: str) -> Child:
        """Starts a role of a loop of ``tests.benchmarks.loops``."""
        argv = ["-m", "streams.cli", "run", role, f"tests.benchmarks.loops:{attribute}"]
        return self.child(f"{loop.name}-{role}", loop.name, *argv)

    def child(self, label: str, loop_name: str, *argv: str) -> Child:
        """Starts a Python process."""
        log = self.folder / f"{label}-{len(self._children)}.log"
        child = Child(label, [sys.executable, *argv], self.environ(loop_name), log)
        self._children.append(child)
        return child

    def await_running(self, *children: Child) -> None:
        """Waits until roles have been assigned their partitions."""
        self.await_that(
            lambda: all("counterpoint.worker assigned" in child.tail() for child in children),
            children,
            "the roles run",
        )

    def await_that(
        self, claim: Callable[[], bool], children: Iterable[Child], what: str, pause_s: float = 0.05
    ) -> None:
        """Waits for a claim to come true, while processes are there to make it so."""
        deadline = time.monotonic() + PATIENCE_S
        while not claim():
            for child in children:
                child.check()
            if time.monotonic() > deadline:
                tails = "\n".join(f"{child.name}:\n{child.tail()}" for child in children)
                raise BenchmarkError(f"not within {PATIENCE_S:g} s: {what}\n{tails}")
            time.sleep(pause_s)

    # Topics

    def create(self, topic: str, partitions: int) -> str:
        """Creates a topic whose records are stamped by the broker."""
        new = NewTopic(topic, partitions, 1, config={"message.timestamp.type": "LogAppendTime"})
        self.admin.create_topics([new])[topic].result(30)
        return topic

    def feed(self, topic: str, rows: Iterable[Row], headers: Headers = ()) -> None:
        """Writes records, as (key, value), as fast as it goes, and waits until they are there."""
        producer, told = self._producer, list(headers)
        produce = producer.produce
        for number, (key, value) in enumerate(rows):
            while True:
                try:
                    produce(topic, value, key, headers=told)
                    break
                except BufferError:
                    producer.poll(0.05)
            if number % 10_000 == 0:
                producer.poll(0)
        if producer.flush(PATIENCE_S):
            raise BenchmarkError(f"{topic}: not everything could be written")

    def ends(self, topic: str) -> dict[int, int]:
        """The end of each partition of a topic."""
        found = self._consumer.list_topics(topic, timeout=30).topics[topic]
        return {partition: self._end(topic, partition) for partition in found.partitions}

    def _end(self, topic: str, partition: int) -> int:
        deadline = time.monotonic() + 30
        while True:
            try:
                found = self._consumer.get_watermark_offsets(TopicPartition(topic, partition))
            except KafkaException:
                if time.monotonic() > deadline:  # a new topic has no leader for a moment
                    raise
                time.sleep(0.05)
            else:
                high: int = found[1]
                return high

    def size(self, topic: str) -> int:
        """How many records a topic holds; one that is not compacted."""
        return sum(self.ends(topic).values())

    def await_written(
        self, topic: str, before: Mapping[int, int], records: int, children: Sequence[Child]
    ) -> None:
        """Waits until a topic has so many records more than before."""
        wanted = sum(before.values()) + records
        self.await_that(
            lambda: self.size(topic) >= wanted,
            children,
            f"{records} more records on {topic}, there are {self.size(topic) - sum(before.values())}",
        )

    def span(self, topic: str, before: Mapping[int, int]) -> Span:
        """What was written since, from the first to the last record by the broker's clock."""
        after = self.ends(topic)
        written = {p: (before[p], end) for p, end in after.items() if end > before[p]}
        firsts = [self._time(topic, p, start) for p, (start, _) in written.items()]
        lasts = [self._last_time(topic, p, end) for p, (_, end) in written.items()]
        records = sum(end - start for start, end in written.values())
        return Span(records, (max(lasts) - min(firsts)) / 1000)

    def _last_time(self, topic: str, partition: int, end: int) -> int:
        """When the last record was written; a mark that ends a transaction may follow it, and is none."""
        self._consumer.assign([TopicPartition(topic, partition, max(end - LOOK_BACK, 0))])
        last = -1
        deadline = time.monotonic() + 30
        try:
            while time.monotonic() < deadline:
                message = self._consumer.poll(1.0)
                if message is not None and message.error() is None:
                    last = message.timestamp()[1]
                elif last >= 0 and message is not None:
                    return last
        finally:
            self._consumer.unassign()
        raise BenchmarkError(f"{topic}-{partition}: the records before {end} cannot be read")

    def _time(self, topic: str, partition: int, offset: int) -> int:
        self._consumer.assign([TopicPartition(topic, partition, offset)])
        deadline = time.monotonic() + 30
        try:
            while time.monotonic() < deadline:
                message = self._consumer.poll(1.0)
                if message is not None and message.error() is None:
                    at: int = message.timestamp()[1]
                    return at
        finally:
            self._consumer.unassign()
        raise BenchmarkError(f"{topic}-{partition}: the record at {offset} cannot be read")
