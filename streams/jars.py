"""Fetches the Java archives of the embedded broker into a cache, exactly those of ``broker.lock``.

The lock names every archive with its SHA-256, and each is checked at every start: what does not match is fetched once
more, then refused.  ``python -m streams.jars`` writes the lock anew for the versions in ``WANTED`` (see ``make lock``).
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from streams.core.errors import Unavailable

LOCK = Path(__file__).with_name("broker.lock")
WANTED = (
    "org.apache.kafka:kafka_2.13:4.3.0",
    "org.slf4j:slf4j-simple:1.7.36",
)  # slf4j: or the broker has no log
CONNECTIONS = 8
WAY_OUT = "point COUNTERPOINT_BOOTSTRAP (or --bootstrap) at a Kafka that runs"


class Jar(NamedTuple):
    """One archive: where Maven repositories keep it, and what it must be."""

    group: str
    artifact: str
    version: str
    sha256: str
    size: int

    @property
    def path(self) -> Path:
        """Where it lies in a repository or cache."""
        name = f"{self.artifact}-{self.version}.jar"
        return Path(*self.group.split("."), self.artifact, self.version, name)

    def is_in(self, cache: Path) -> bool:
        """Whether the cache has it, whole and unchanged."""
        try:
            with (cache / self.path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except FileNotFoundError:
            return False

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version} {self.sha256} {self.size}"


def read_lock(lock: Path = LOCK) -> list[Jar]:
    """The archives of a lock file: ``group:artifact:version sha256 size`` in each line that is no comment."""
    return [_jar(line) for line in lock.read_text().splitlines() if not line.startswith("#")]


def _jar(line: str) -> Jar:
    coordinates, sha256, size = line.split()
    group, artifact, version = coordinates.split(":")
    return Jar(group, artifact, version, sha256, int(size))


def fetch(jars: Sequence[Jar], cache: Path) -> list[Path]:
    """The paths of these archives, after downloading what the cache lacks; processes take turns.

    Raises:
        Unavailable: They cannot be downloaded, or are not what the lock says.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as turn:
        # Released when the file is closed, however this process ends
        fcntl.flock(turn, fcntl.LOCK_EX)
        missing = [jar for jar in jars if not jar.is_in(cache)]
        if missing:
            _download(missing, cache)
            _refuse_others(missing, cache)
    return [cache / jar.path for jar in jars]


def _refuse_others(jars: Sequence[Jar], cache: Path) -> None:
    wrong = [jar for jar in jars if not jar.is_in(cache)]
    for jar in wrong:
        (cache / jar.path).unlink(missing_ok=True)
    if wrong:
        names = ", ".join(jar.path.name for jar in wrong)
        message = f"what was downloaded as {names} is not what streams/broker.lock expects: try again, or {WAY_OUT}"
        raise Unavailable(message)


def _download(jars: Sequence[Jar], cache: Path) -> None:
    try:
        import requests  # comes with jgo, an extra
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise Unavailable(
            f"the embedded broker needs `pip install 'counterpoint[broker]'`; or {WAY_OUT}"
        ) from error
    with _bar(sum(jar.size for jar in jars)) as told:
        maven = MavenContext(
            resolver=PythonResolver(progress_callback=told),
            repo_cache=cache,
            local_repos=[],
            timeout=60,
        )

        def resolve(jar: Jar) -> None:
            (cache / jar.path).unlink(missing_ok=True)  # damaged, or a download that was cut off
            maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()

        try:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                list(pool.map(resolve, jars))
        # RuntimeError is jgo's "not found in remote repositories"
        except (requests.RequestException, RuntimeError) as error:
            message = f"the embedded broker could not be downloaded ({type(error).__name__}): go online, or {WAY_OUT}"
            raise Unavailable(message) from error


@contextmanager
def _bar(
    size: int,
) -> Iterator[Callable[[str, int], AbstractContextManager[Callable[[int], None]]]]:
    """A progress bar on stderr for all downloads together."""
    from rich.console import Console  # most starts download nothing
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("downloading Apache Kafka, once", total=size)

        @contextmanager
        def told(name: str, of: int) -> Iterator[Callable[[int], None]]:
            yield lambda count: progress.advance(task, count)

        yield told


def write_lock(lock: Path = LOCK) -> None:
    """Resolve ``WANTED`` and write down all that it needs."""
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory() as folder:
        maven = MavenContext(repo_cache=Path(folder), local_repos=[], timeout=60)
        wanted = [maven.create_dependency(coordinates) for coordinates in WANTED]
        inputs, needed = maven.resolver.resolve(wanted)
        artifacts = [
            dependency.artifact for dependency in [*inputs, *needed] if dependency.scope != "test"
        ]
        jars = sorted(
            Jar(it.groupId, it.artifactId, it.version, hashlib.sha256(data).hexdigest(), len(data))
            for it in artifacts
            for data in [it.resolve().read_bytes()]
        )
    lines = [
        f"# {' + '.join(WANTED)} and all they need; written by: python -m streams.jars",
        *map(str, jars),
    ]
    lock.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_lock()
    sys.stderr.write(f"wrote {LOCK}\n")
