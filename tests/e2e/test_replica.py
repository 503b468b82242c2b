"""Replicas of the fold: predictors on other machines, started anew, beside two learners, and with a model for each key."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.core.events import Example, Outcome, Prediction, Snapshot, Status
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that, lesson

OTHER_CPU = "glibc.cpu.hwcaps=-FMA,-AVX2"
COUNTRIES = ("at", "ch", "de", "li")
LOSSY = """
from river import compose, linear_model, preprocessing
from streams import Loop, Source

loop = Loop(
    name={name!r},
    task="binary",
    model=preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    partitions=2,
    {more}
)
"""
BY_COUNTRY = """
from river import compose, linear_model
from streams import Loop

loop = Loop(
    name={name!r},
    task="binary",
    model=compose.Discard("country") | linear_model.LogisticRegression(),
    model_key="country",
    partitions=2,
    {more}
)
"""


@pytest.fixture
def make(broker: Kafka, tmp_path: Path, unique: str) -> Iterator[Callable[..., System]]:
    """Makes the test's system, of the source and with the settings that it wants."""
    made: list[System] = []

    def of(source: str = PHISHING, **settings: float) -> System:
        system = System(broker.bootstrap, tmp_path, source, unique, "", **settings)
        made.append(system)
        system.prepare()
        return system

    yield of
    for system in made:
        with system:
            pass
