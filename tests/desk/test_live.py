from __future__ import annotations

import asyncio
import json
import threading

import pytest

from streams.desk.api import changes
from streams.desk.live import Pulse
from streams.desk.store import open_store
from tests.desk.desks import Desk


def test_who_listens_is_woken_by_each_change_and_by_the_end() -> None:
    pulse, woken = Pulse(), list[str]()
    with pulse.listening(lambda: woken.append("x")):
        pulse.beat(["reviews"])
        pulse.end()
    pulse.beat(["reviews"])
    assert len(woken) == 2
    assert pulse.counts()["reviews"] == 2
    assert pulse.ended


@pytest.mark.asyncio
async def test_the_stream_tells_what_changed_and_ends_with_the_desk(tmp_path: object) -> None:
    desk = Desk(open_store(f"sqlite:///{tmp_path}/desk.sqlite", "tests"))
    stream = changes(desk.board())
    first = await anext(stream)
    assert first["event"] == "changed"
    threading.Timer(0.05, desk.pulse.beat, [["verdicts"]]).start()
    told = await asyncio.wait_for(anext(stream), 10)
    assert json.loads(told["data"]) == {"verdicts": 1}
    threading.Timer(0.05, desk.pulse.end).start()
    assert [each async for each in stream] == []
    desk.store.close()
