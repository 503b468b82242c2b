"""What the tests of the desk share: a store of each kind, real ones, and a desk without Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.desk.store import Store, open_store
from tests.desk.desks import Desk
from tests.desk.postgres import PostgreSQL


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that the desk can have."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'desk.sqlite'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store in it."""
    opened = open_store(url, "tests")
    yield opened
    opened.close()


@pytest.fixture
def desk(store: Store) -> Desk:
    """A desk in it."""
    return Desk(store)
