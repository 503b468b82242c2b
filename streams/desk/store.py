"""Where the desk keeps its tables: SQLite files in its state directory, or PostgreSQL by URL.

With SQLite the projection has a file of its own beside that of the desk, so that a large batch from Kafka holds up
nobody who answers.  It does not know what the tables mean.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    delete,
    event,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import QueuePool

from streams.core.errors import ConfigError, Conflict, Mistake, Unavailable
from streams.desk import tables

T = TypeVar("T")

SQLITE, POSTGRESQL = "sqlite", "postgresql"
BUSY_S = 30
EXPECTED = "sqlite:///file, or postgresql://user:password@host:port/database"
CONNECTIONS = 20
WRITES = "writes"
OWN, PROJECTION = "own tables", "projection"
"""Under which names it is noted how the tables were made."""


class _Job:
    """Something to be written, and what came of it."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self._work = work
        self.done = False
        self._made: Any = None
        self._error: BaseException | None = None

    def run(self, connection: Connection) -> None:
        connection.exec_driver_sql("SAVEPOINT job")
        try:
            self._made = self._work(connection)
        except BaseException as error:  # noqa: BLE001  whoever asked is told
            self._error = error
            connection.exec_driver_sql("ROLLBACK TO job")
        connection.exec_driver_sql("RELEASE job")

    def fail(self, error: BaseException) -> None:
        self._error = self._error or error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._made


class Store:
    """Connections to the tables, by what is to be done with them.

    With SQLite one thread writes at a time: its own waiting is unfair, and people would notice.
    """

    def __init__(self, own: Engine, projection: Engine, *, one_writer: bool) -> None:
        self._own = own
        self._written = own.execution_options(**{WRITES: True})
        self._projection = projection.execution_options(**{WRITES: True})
        self.is_sqlite = one_writer
        self._writing = threading.Lock() if one_writer else None
        self._jobs: deque[_Job] = deque()
        self._projecting = threading.Lock() if one_writer else None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """To read both, as they were at one moment."""
        with self._own.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """To change the desk's own tables, all at once or not at all; the projection can be read."""
        with _held(self._writing), self._written.begin() as connection:
            yield connection

    def write(self, work: Callable[[Connection], T]) -> T:
        """Changes the desk's own tables, all at once or not at all, and gives what the work gives.

        With SQLite what many want to write at the same time goes to the disk together: a disk takes some hundred
        transactions a second, whatever is in them.
        """
        if self._writing is None:
            with self._written.begin() as connection:
                return work(connection)
        job = _Job(work)
        self._jobs.append(job)
        with self._writing:
            if not job.done:
                self._run_jobs()
        made: T = job.result()
        return made

    def _run_jobs(self) -> None:
        jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
        try:
            with self._written.begin() as connection:
                for job in jobs:
                    job.run(connection)
        except BaseException as error:  # noqa: BLE001  nothing of it was kept, and each who asked is told
            for job in jobs:
                job.fail(error)
        for job in jobs:
            job.done = True

    @contextmanager
    def projecting(self) -> Iterator[Connection]:
        """To change the projection, all at once or not at all; the desk's own tables are out of reach with SQLite."""
        with _held(self._projecting), self._projection.begin() as connection:
            yield connection

    def empty_projection(self) -> None:
        """Makes the projection's tables anew; those of the desk stay as they are."""
        with self.projecting() as connection:
            tables.projection.drop_all(connection)
            tables.projection.create_all(connection)

    def renew_projection(self) -> bool:
        """Makes the projection's tables anew if another version of this program made them; whether it did."""
        made = tables.shape(tables.projection, self._projection.dialect)
        if _noted(self, PROJECTION) == made:
            return False
        self.empty_projection()
        _note(self, PROJECTION, made)
        return True

    def close(self) -> None:
        """Lets go of all connections."""
        self._own.dispose()
        self._projection.dispose()


def _held(lock: threading.Lock | None) -> AbstractContextManager[Any]:
    return nullcontext() if lock is None else lock


def open_store(url: str, loop: str) -> Store:
    """The store of a loop's desk; the tables that are missing are made.

    Raises:
        ConfigError: The URL is none that we know.
        Conflict: It is another loop's, or another version's.
        Unavailable: The database does not answer, or cannot be written.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError([Mistake("COUNTERPOINT_DESK_URL", "(hidden)", EXPECTED)]) from error
    kind = parsed.get_backend_name()
    if kind == SQLITE and parsed.database:
        store = _sqlite(Path(parsed.database))
    elif kind == POSTGRESQL:
        store = _postgresql(parsed.set(drivername="postgresql+psycopg"))
    else:
        raise ConfigError([Mistake("COUNTERPOINT_DESK_URL", "(hidden)", EXPECTED)])
    try:
        with store.projecting() as connection:
            tables.projection.create_all(connection)
        with store.writing() as connection:
            tables.own.create_all(connection)
        _claim(store, loop)
    except OperationalError as error:
        store.close()
        message = f"the desk's database cannot be used: {error.orig}"
        raise Unavailable(message) from error
    except Conflict:
        store.close()
        raise
    return store


def _claim(store: Store, loop: str) -> None:
    with store.reading() as connection:
        made = tables.shape(tables.own, connection.dialect)
    for name, value in (("loop", loop), (OWN, made)):
        found = _noted(store, name)
        if found is None:
            _note(store, name, value)
        elif found != value and name == OWN:
            message = (
                "this desk's accounts and verdicts were stored by another version of Counterpoint, in other tables: "
                "run that version until the desk says that nothing is undelivered, then give this one a database of "
                "its own"
            )
            raise Conflict(message)
        elif found != value:
            message = (
                f"this database is the desk's of loop {found!r}, not of {loop!r}: give each its own"
            )
            raise Conflict(message)


def _noted(store: Store, name: str) -> str | None:
    with store.reading() as connection:
        return connection.scalar(select(tables.about.c.value).where(tables.about.c.name == name))


def _note(store: Store, name: str, value: str) -> None:
    with store.writing() as connection:
        connection.execute(delete(tables.about).where(tables.about.c.name == name))
        connection.execute(insert(tables.about).values(name=name, value=value))


def _sqlite(path: Path) -> Store:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"no folder for the desk's database: {error}"
        raise Unavailable(message) from error
    beside = path.with_name(f"{path.stem}-projection{path.suffix}").absolute()
    # What was confirmed on screen survives the machine; what can be read from the topics again need not.
    # Read only: else a transaction would lock the projection, too, for as long as it takes.
    own = _sqlite_engine(str(path), "FULL", f"{beside.as_uri()}?mode=ro")
    projection = _sqlite_engine(":memory:", "NORMAL", beside.as_uri())
    return Store(own, projection, one_writer=True)


def _sqlite_engine(path: str, durable: str, projection: str) -> Engine:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=BUSY_S, check_same_thread=False, uri=True, isolation_level=None
        )
        connection.execute("ATTACH DATABASE ? AS projection", (projection,))
        for schema in ("main",) if projection.endswith("=ro") else ("projection",):
            connection.execute(f"PRAGMA {schema}.journal_mode = WAL")
            connection.execute(f"PRAGMA {schema}.synchronous = {durable}")
        connection.execute("PRAGMA projection.cache_size = -65536")
        return connection

    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=CONNECTIONS,
        max_overflow=CONNECTIONS,
    )

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: Any) -> Store:
    engine = create_engine(url, pool_size=CONNECTIONS, pool_pre_ping=True)
    try:
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS projection"))
    except OperationalError as error:
        engine.dispose()
        message = f"PostgreSQL does not answer, or refuses: {error.orig}"
        raise Unavailable(message) from error
    return Store(engine, engine, one_writer=False)
