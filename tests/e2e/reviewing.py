"""People who review over the desk's API, as a tool of theirs would."""

from __future__ import annotations

import socket
import uuid
from contextlib import closing
from typing import Any

import httpx

from streams.desk.board import now_ms
from streams.desk.people import People
from streams.desk.store import open_store
from streams.opening import desk_url
from tests.e2e.system import System, await_that


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Reviewer:
    """A tool that takes items and answers them; sends a verdict again, under its id, until it is confirmed."""

    def __init__(self, system: System, name: str, token: str) -> None:
        self.name, self.confirmed = name, dict[str, str]()
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{system.settings.desk_port}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
        )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What the desk says, however often it has to be asked."""

        def answer() -> httpx.Response | None:
            try:
                return self._http.request(method, path, json=body)
            except httpx.TransportError:  # it was killed, and is started again
                return None

        told = await_that(answer, 60.0, f"{method} {path}")
        assert told.status_code < 300, told.text
        return told.json()

    def answer_next(self) -> bool:
        """Takes an item and answers it; whether there was one."""
        items = self.ask("POST", "/leases", {})
        if not items:
            return False
        event_id = items[0]["event_id"]
        self.answer(event_id, event_id[-1] in "02468")
        return True

    def answer(self, event_id: str, label: bool) -> None:
        """Says what the label of an event is."""
        verdict = {"event_id": event_id, "verdict": "correct", "label": label}
        feedback_id = str(uuid.uuid4())
        self.ask("POST", "/feedback", {**verdict, "feedback_id": feedback_id})
        self.confirmed[event_id] = feedback_id

    def close(self) -> None:
        """Lets go of the connection."""
        self._http.close()


def reviewers(system: System, *names: str, role: str = "reviewer") -> list[Reviewer]:
    """People with tokens."""
    store = open_store(desk_url(system.loop, system.settings), system.name)
    with closing(store):
        people = People(store)
        for name in names:
            people.add(name, role, now_ms())
        tokens = [people.new_token(name, ["read", "answer"], now_ms()) for name in names]
    return [Reviewer(system, *each) for each in zip(names, tokens, strict=True)]
