"""A real PostgreSQL for tests, on 127.0.0.1 alone, with its data in a folder of the test run.

It does not run as root: as root it runs as the user that its package made.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

READY_S = 30.0
PASSWORD = "of-the-tests"


def binaries() -> Path:
    """Where the newest PostgreSQL of this machine is; as root it is installed if there is none."""
    if not _found() and os.geteuid() == 0 and shutil.which("apt-get"):
        with (Path(tempfile.gettempdir()) / "counterpoint-tests-apt.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two processes of a run may both want it
            if not _found():
                _install()
    found = _found()
    assert found, "there is no PostgreSQL: install it (Debian: apt-get install postgresql)"
    return found[-1]


def _install() -> None:
    config = Path("/etc/postgresql-common/createcluster.conf")
    config.parent.mkdir(exist_ok=True)
    if not config.exists():  # else the package starts a server of its own
        config.write_text("create_main_cluster = false\n")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ("update", "install -y --no-install-recommends postgresql"):
        argv = ["apt-get", "-q", *command.split()]
        subprocess.run(argv, env=environ, check=True, stdout=subprocess.DEVNULL)


def _found() -> list[Path]:
    return [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))]


class PostgreSQL:
    """A server on one port, that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._bin = folder, binaries()
        self._data = folder / "data"
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._environ = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(folder)}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        if not self._data.exists():
            secret = self._folder / "password"
            secret.write_text(PASSWORD)
            secret.chmod(0o644)
            options = f"-U tests -A scram-sha-256 --pwfile {secret} -E UTF8 --locale=C.UTF-8 -N"
            self._run("initdb", "-D", str(self._data), *options.split())
        fast = {"fsync": "off", "full_page_writes": "off", "listen_addresses": "127.0.0.1"}
        fast |= {"unix_socket_directories": "", "max_connections": "200"}
        more = [f"--{name}={value}" for name, value in fast.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-p", str(self.port), *more],
                env=self._environ,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **self._as,
            )
        deadline = time.monotonic() + READY_S
        while self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), check=False):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, f"PostgreSQL is not ready in {READY_S} s"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it, whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)
            self._process = None

    def database(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"tests_{self._made}"
        login = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "tests"]
        self._run("createdb", *login, name)
        return f"postgresql://tests:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *argv: str, check: bool = True) -> int:
        return subprocess.run(
            [self._bin / program, *argv],
            env={**self._environ, "PGPASSWORD": PASSWORD},
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            check=check,
            **self._as,
        ).returncode
