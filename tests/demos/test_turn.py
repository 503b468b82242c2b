"""After the simulated reviewers, whoever opens the link is the reviewer, of a stream that goes on."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import httpx

from streams import bootstrap
from streams.config import Settings
from streams.demos import digits
from streams.demos.turn import your_turn
from tests.conftest import Kafka


def test_the_link_opens_a_desk_with_something_to_do(broker: Kafka, tmp_path: Path) -> None:
    settings = replace(
        Settings.from_env({"COUNTERPOINT_BOOTSTRAP": broker.bootstrap}),
        state_dir=tmp_path,
        desk_port=0,
    )
    bootstrap.prepare(digits.loop, settings)
    links: list[str] = []
    client = httpx.Client(headers={"accept": "text/html"}, follow_redirects=True)
    held: list[str] = []

    def is_done() -> bool:
        """Opens the link as soon as somebody answers there, and looks at the queue."""
        try:
            page = (
                client.get(links[0].split("/enter/")[0])
                if client.cookies
                else client.post(links[0])
            )
        except httpx.TransportError:  # it starts
            time.sleep(0.05)
            return False
        held[:] = re.findall(r'data-event="([^"]+)"', page.text)
        return len(held) > 1

    events = islice(digits.stream(), 5)
    with client:
        your_turn(digits.loop, settings, events, is_done, links.append)
    assert held[0].startswith("again-image-")
