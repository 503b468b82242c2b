"""What all tests share: one real Kafka for the whole run, and names that no other test uses.

With two tests at a time (`make test`) the run has two processes, and Kafka belongs to the one that starts them.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from streams.broker import Broker
from tests.desk.postgres import PostgreSQL

TEST_BOOTSTRAP = "COUNTERPOINT_TEST_BOOTSTRAP"
# Taken out of the environment: a process that a test starts refuses settings that it does not know.
GIVEN = os.environ.pop(TEST_BOOTSTRAP, None)
FAULTS = "faults"
SHARED = pytest.StashKey[ExitStack]()


class Kafka(NamedTuple):
    """The run's Kafka, whichever it is; a test that kills its broker starts one of its own."""

    bootstrap: str


def pytest_configure(config: pytest.Config) -> None:
    """Starts Kafka for the processes of a run that has several, before they start."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        shared = config.stash[SHARED] = ExitStack()
        os.environ[TEST_BOOTSTRAP] = GIVEN or _started(shared)


def _started(stack: ExitStack) -> str:
    folder = stack.enter_context(TemporaryDirectory(prefix="counterpoint-tests-"))
    return stack.enter_context(Broker(Path(folder))).bootstrap


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends it."""
    config.stash.get(SHARED, ExitStack()).close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with what takes longest, so that nobody waits for it at the end."""
    items.sort(key=lambda item: FAULTS not in item.path.parts)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server for the whole run."""
    with TemporaryDirectory(prefix="counterpoint-pg-", ignore_cleanup_errors=True) as folder:
        server = PostgreSQL(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """An embedded broker for the whole run, or the Kafka of COUNTERPOINT_TEST_BOOTSTRAP."""
    if GIVEN:
        yield Kafka(GIVEN)
        return
    with Broker(tmp_path_factory.mktemp("kafka")) as embedded:
        yield Kafka(embedded.bootstrap)


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    """A name for this test's loop, topics and groups."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"{words[:40].rstrip('-')}-{uuid.uuid4().hex[:8]}"
