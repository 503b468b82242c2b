"""What is told to happen at a failpoint happens there, that many times; what makes no sense is refused at start."""

from __future__ import annotations

import asyncio
import errno
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.config import Settings
from streams.core.errors import ConfigError, Unavailable
from streams.failpoints import POINTS, arm, failpoint, failpoint_in_loop, is_armed, parse

STREAMS = Path(__file__).parents[1] / "streams"
POINT = "commit.prepared"


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    arm(())


def test_without_being_told_nothing_happens() -> None:
    failpoint(POINT)
    assert not is_armed(POINT)


def test_a_step_fails_the_nth_time_and_no_other() -> None:
    arm(parse(f"{POINT}=raise@2"))
    failpoint(POINT)
    with pytest.raises(Unavailable, match=r"commit\.prepared=raise@2"):
        failpoint(POINT)
    failpoint(POINT)


def test_the_disk_is_full_every_time() -> None:
    arm(parse(f"{POINT}=full@*"))
    for _ in range(2):
        with pytest.raises(OSError, match="No space") as caught:
            failpoint(POINT)
        assert caught.value.errno == errno.ENOSPC


def test_a_delay_on_the_event_loop_lets_the_loop_go_on() -> None:
    arm(parse(f"{POINT}=delay:0.05"))
    order: list[str] = []

    async def delayed() -> None:
        await failpoint_in_loop(POINT)
        order.append("delayed")

    async def other() -> None:
        order.append("other")

    async def both() -> None:
        await asyncio.gather(delayed(), other())

    began = time.monotonic()
    asyncio.run(both())
    assert order == ["other", "delayed"]
    assert time.monotonic() - began >= 0.05


def test_a_kill_is_one_that_nothing_outlives() -> None:
    program = (
        "from streams.failpoints import *\n"
        f"arm(parse('{POINT}=kill'))\n"
        "try:\n"
        f"    failpoint('{POINT}')\n"
        "finally:\n"
        "    print('still here')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")


@pytest.mark.parametrize(
    "text",
    ["nowhere=kill", f"{POINT}=explode", f"{POINT}=delay", f"{POINT}=kill@soon", f"{POINT}=kill:1"],
)
def test_what_makes_no_sense_is_refused_at_start(text: str) -> None:
    with pytest.raises(ConfigError, match=r"COUNTERPOINT_FAILPOINTS.*point=action@nth"):
        Settings.from_env({"COUNTERPOINT_FAILPOINTS": text})


def test_a_setting_is_shown_as_it_is_written() -> None:
    told = f"{POINT}=kill@3;batch.begun=delay:0.4@*"
    settings = Settings.from_env({"COUNTERPOINT_FAILPOINTS": told})
    shown = {field.name: field.value for field in settings.fields()}
    assert shown["COUNTERPOINT_FAILPOINTS"] == told


def test_every_point_is_in_the_code_and_nothing_else_is() -> None:
    found = [
        name
        for path in STREAMS.rglob("*.py")
        for name in re.findall(r"failpoint(?:_in_loop)?\(\"([^\"]+)\"\)", path.read_text())
    ]
    assert set(found) == set(POINTS)
