"""Starts the roles of a loop as real processes on a real broker, and ends them by pid; writes and reads its topics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from streams import bootstrap
from streams.config import Settings
from streams.core.errors import BadRecord
from streams.core.events import CORRECT, Example, Feedback, Input, Label, Source, Status
from streams.core.topics import topic_name, topics
from streams.engine import admin
from streams.engine.codec import Codec, Record
from streams.engine.producer import Outputs
from streams.engine.reader import group_less, partitions_of
from streams.loop import Loop, load
from tests.nursery import nursery

PHISHING = """
from datetime import timedelta

from river import linear_model, preprocessing
from streams import Loop, Source, review

loop = Loop(
    name={name!r},
    task="binary",
    model=preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    {more}
)
"""
T = TypeVar("T")
R = TypeVar("R", bound=Record)


def await_that(claim: Callable[[], T | None], within_s: float = 30.0, what: str = "") -> T:
    """Waits for a claim to come true and gives what it said; fails with the sentence otherwise."""
    deadline = time.monotonic() + within_s
    while not (said := claim()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or claim}"
        time.sleep(0.05)
    return said


class Process(Protocol):
    """What is used of a ``Popen``."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, if it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended; the exit code."""

    def send_signal(self, number: int, /) -> None:
        """Sends a signal."""

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""


class Seen(NamedTuple):
    """A record that was read from a topic; None if it is none of ours."""

    message: Message
    record: Any

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset."""
        return int(self.message.partition()), int(self.message.offset())


class Topic:
    """All records of a topic, read once each."""

    def __init__(self, kafka: Mapping[str, str], name: str, codec: Codec) -> None:
        self._codec, self._seen = codec, list[Seen]()
        self._consumer = group_less(kafka, **{"fetch.wait.max.ms": 10})
        partitions = partitions_of(self._consumer, name)
        self._consumer.assign([TopicPartition(name, partition, 0) for partition in partitions])
        self._reading, self._ended = set(partitions), set[int]()

    def seen(self) -> list[Seen]:
        """Everything up to now: reads on until each partition has told its end."""
        unread = set(self._reading) - self._ended  # a first read has to connect: it takes its time
        deadline = time.monotonic() + (10.0 if unread else 0.5)
        open_ends = set(self._reading)  # an end that was told before is not told again
        while open_ends and time.monotonic() < deadline:
            came = self._consumer.consume(10_000, 0.05)
            for message in came:
                if message.error() is None:
                    self._seen.append(Seen(message, self._decoded(message.value())))
                else:
                    open_ends.discard(message.partition())
                    self._ended.add(message.partition())
            if not came and self._ended.issuperset(self._reading):
                break
        return self._seen

    def _decoded(self, value: bytes | None) -> Any:
        try:
            return self._codec.decode(value)
        except BadRecord:  # sent on purpose
            return None

    def close(self) -> None:
        """Lets go of the consumer."""
        self._consumer.close()


class System:
    """A loop of its own on a broker; ``settings`` are given to its processes."""

    def __init__(
        self,
        bootstrap_servers: str,
        folder: Path,
        source: str = PHISHING,
        name: str = "",
        more: str = "",
        **settings: object,
    ) -> None:
        self.folder, self.name = folder, name
        self.reference = f"loop_{name.replace('-', '_')}:loop"
        self.environ = {
            **os.environ,
            "COUNTERPOINT_BOOTSTRAP": bootstrap_servers,
            "COUNTERPOINT_STATE_DIR": str(folder / "state"),
            "COUNTERPOINT_CACHE_DIR": str(folder.parent / "cache"),
            "COUNTERPOINT_SECRET": "of-the-tests",
            "COUNTERPOINT_SESSION_TIMEOUT_S": "6",
            "COUNTERPOINT_DESK_PORT": "0",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parents[2])]),
            **{f"COUNTERPOINT_{key.upper()}": str(value) for key, value in settings.items()},
        }
        self.settings = Settings.from_env(self.environ)
        self.kafka = self.settings.kafka()
        self.codec = Codec()
        self.processes: dict[str, Process] = {}
        self._begins: dict[str, int] = {}
        self._topics: dict[str, Topic] = {}
        self.write_loop(source, more)

    def write_loop(self, source: str = PHISHING, more: str = "") -> None:
        """Writes the loop's module, in place of the one before."""
        module = self.reference.partition(":")[0]
        text = textwrap.dedent(source).format(name=self.name, more=more)
        (self.folder / f"{module}.py").write_text(text)
        sys.modules.pop(module, None)
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        self.loop: Loop = load(self.reference)

    def prepare(self) -> None:
        """Creates the topics and the first definition."""
        bootstrap.prepare(self.loop, self.settings)

    def create_topics(self) -> None:
        """Creates the topics that are missing, and writes nothing."""
        admin.create(self.admin, topics(self.loop, self.settings.keep()).values(), 1)

    def command(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command of the command line to its end."""
        with TemporaryDirectory() as folder:
            given, out, err = (Path(folder) / name for name in ("in", "out", "err"))
            given.write_text(stdin)
            code = nursery().start(argv, self.environ, self.folder, out, err, given).wait(60)
            return subprocess.CompletedProcess(argv, code, out.read_text(), err.read_text())

    # Processes -------------------------------------------------------------------------------------------------------

    def start(self, role: str, worker: str | None = None, *options: str, **environ: str) -> str:
        """Starts a worker; its log goes to a file beside the loop."""
        worker = worker or f"{role}-1"
        argv = ["run", role, self.reference, "--worker", worker, *options]
        log, given = self.begin_log(worker), {**self.environ, **environ}
        self.processes[worker] = nursery().start(argv, given, self.folder, log, log)
        return worker

    def run(self, worker: str, argv: list[str], **environ: str) -> str:
        """Starts any program as a worker."""
        path = self.begin_log(worker)
        with path.open("ab") as log:
            self.processes[worker] = subprocess.Popen(
                argv, env={**self.environ, **environ}, cwd=self.folder, stdout=log, stderr=log
            )
        return worker

    def begin_log(self, worker: str) -> Path:
        """The file of a worker's log; what is in it already is of an earlier start."""
        path = self.folder / f"{worker}.log"
        path.touch()
        self._begins[worker] = path.stat().st_size
        return path

    def start_all(self) -> None:
        """Starts one worker of each role, and waits until they run."""
        roles = ["predictor", "joiner", "learner", *(["intake"] if self.loop.labels else [])]
        self.await_running(*map(self.start, roles))

    def await_running(self, *workers: str, within_s: float = 60.0) -> None:
        """Waits until these workers have partitions, or know that there are none for them."""

        def running() -> bool:
            for worker in workers:
                code = self.processes[worker].poll()
                assert code is None, f"{worker} ended with {code}:\n{self.log(worker)}"
            return all("counterpoint.worker assigned" in self.log(worker) for worker in workers)

        await_that(running, within_s, f"{workers} run:\n" + "\n".join(map(self.log, workers)))

    def log(self, worker: str) -> str:
        """What a worker has printed since its last start."""
        with (self.folder / f"{worker}.log").open() as log:
            log.seek(self._begins[worker])
            return log.read()

    def send_signal(self, worker: str, number: signal.Signals) -> None:
        """Sends a signal to a worker."""
        self.processes[worker].send_signal(number)

    def end(
        self, worker: str, number: signal.Signals = signal.SIGTERM, within_s: float = 10.0
    ) -> int:
        """Ends a worker and gives its exit code."""
        process = self.processes.pop(worker)
        process.send_signal(number)
        return process.wait(within_s)

    def await_end(self, worker: str, within_s: float = 30.0) -> tuple[int, str]:
        """Waits until a worker ends by itself; its exit code, and what it printed."""
        try:
            code = self.processes[worker].wait(within_s)
        except subprocess.TimeoutExpired:
            message = f"{worker} runs on after {within_s} s:\n{self.log(worker)}"
            raise AssertionError(message) from None
        del self.processes[worker]
        return code, self.log(worker)

    # Records ---------------------------------------------------------------------------------------------------------

    def topic(self, suffix: str) -> str:
        """The name of one of the loop's topics."""
        return topic_name(self.name, suffix)

    @cached_property
    def admin(self) -> AdminClient:
        """Changes topics and groups."""
        return admin.connect(self.kafka)

    @cached_property
    def outputs(self) -> Outputs:
        """The producer of the tests."""
        return Outputs(self.kafka, log_level=0)

    def write(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: list[tuple[str, bytes | None]] | None = None,
        partition: int = -1,
    ) -> tuple[int, int]:
        """Writes a record and gives its partition and offset."""
        written = self.outputs.deliver(topic, value, key, headers, partition)
        return int(written.partition()), int(written.offset())

    def send(self, suffix: str, records: Iterable[Record], key: str = "event_id") -> None:
        """Writes records to one of the loop's topics, by their event ids, and waits until they are there."""
        topic = self.topic(suffix)
        for record in records:
            value = self.codec.encode(topic, record)
            headers = None
            if isinstance(record, Feedback):
                headers = [("feedback_id", record.feedback_id.encode())]
            self.outputs.send(topic, value, str(getattr(record, key)).encode(), headers)
        self.outputs.flush(30)

    def send_inputs(self, ids: Iterable[str], **features: Any) -> None:
        """Sends events whose features follow from their ids, but for those that are given."""
        self.send("inputs", (event(event_id, **features) for event_id in ids))

    def seen(self, suffix: str) -> list[Seen]:
        """All records that are on one of the loop's topics now."""
        topic = self._topics.get(suffix)
        if topic is None:
            name = self.topic(suffix)
            topic = self._topics[suffix] = Topic(self.kafka, name, self.codec)
        return topic.seen()

    def records(self, suffix: str, cls: type[R]) -> list[R]:
        """The records of one kind that are on one of the loop's topics now."""
        return [seen.record for seen in self.seen(suffix) if isinstance(seen.record, cls)]

    def await_ids(
        self, suffix: str, ids: Iterable[str], field: str = "event_id", within_s: float = 30.0
    ) -> None:
        """Waits until each of these ids is on a topic."""
        missing = set(ids)

        def there() -> bool:
            missing.difference_update(
                getattr(seen.record, field, None) for seen in self.seen(suffix)
            )
            return not missing

        try:
            await_that(there, within_s)
        except AssertionError:
            logs = "\n".join(map(self.log, self.processes))
            some = ", ".join(sorted(missing)[:5])
            raise AssertionError(
                f"{len(missing)} {field}s not on {suffix} within {within_s} s ({some}, ...):\n{logs}"
            ) from None

    def status(self, worker: str) -> Status | None:
        """The last heartbeat of a worker."""
        beats = [beat for beat in self.records("status", Status) if beat.worker == worker]
        return beats[-1] if beats else None

    def committed(self, role: str, suffix: str) -> dict[int, int]:
        """What the group of a role has committed, by partition; nothing for those without."""
        topic = self.topic(suffix)
        consumer = Consumer({**self.kafka, "group.id": f"{self.name}.{role}"})
        try:
            partitions = [TopicPartition(topic, p) for p in partitions_of(consumer, topic)]
            found = consumer.committed(partitions, timeout=10)
        except KafkaException:
            return {}
        finally:
            consumer.close()
        return {each.partition: each.offset for each in found if each.offset >= 0}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for topic in self._topics.values():
            topic.close()
        sys.path.remove(str(self.folder))


def event(event_id: str, **features: Any) -> Input:
    """An event whose features follow from its id, but for those that are given."""
    number = int.from_bytes(event_id.encode()[-4:], "big")
    made = {"a": number % 17 / 7 - 1, "b": number % 5 / 3, "c": number % 3 - 1.0}
    return Input(event_id, {**made, **features})


def verdict(
    event_id: str, label: Label | None, feedback_id: str = "", kind: str = CORRECT
) -> Feedback:
    """A verdict on an event, by default with the id ``f-<event id>``."""
    return Feedback(feedback_id or f"f-{event_id}", event_id, kind, label)


def lesson(number: int, model_key: str = "", partition: int = 0, **features: Any) -> Example:
    """A lesson as a joiner writes it; its label follows from its features."""
    asked = event(f"{number:06}", **features)
    sources = [Source("feedback", partition, number, f"f-{number}", None, "client")]
    return Example(
        event_id=asked.event_id,
        model_key=model_key,
        features=asked.features,
        label=(number * 7 % 13) / 6 > 1,
        weight=1.0,
        sources=sources,
        predicted=True,
        scores={"True": 0.5, "False": 0.5},
        model_version=0,
        route="review",
        reason="all",
        probability=1.0,
        predicted_at=1,
        answered_at=2,
    )
