"""What all tests share: one real Kafka for the whole run, and names that no other test uses."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from streams.broker import Broker

# Taken out of the environment: a process that a test starts refuses settings that it does not know.
GIVEN = os.environ.pop("COUNTERPOINT_TEST_BOOTSTRAP", None)


class Kafka(NamedTuple):
    """The run's Kafka, whichever it is; a test that kills its broker starts one of its own."""

    bootstrap: str


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
