from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from sqlalchemy import select

from streams.core.events import ACCEPT, CORRECT
from streams.core.failure import Now
from streams.core.model import Answer
from streams.desk.api import ANSWER, READ, make_api
from streams.desk.tables import outbox
from tests.desk.desks import HOUR_MS, Desk, feedback, outcome, prediction

TOKENS = {
    "of-ann": ("ann", {READ, ANSWER}),
    "of-bob": ("bob", {READ, ANSWER}),
    "of-eve": ("eve", {READ}),
}


@dataclass(frozen=True)
class Named:
    """Somebody with a token of the tests."""

    name: str
    scopes: set[str]

    def may(self, scope: str) -> bool:
        """Whether the token has the scope."""
        return scope in self.scopes


def who(request: Request) -> Named | None:
    """By the token alone."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    return Named(*TOKENS[token]) if token in TOKENS else None


class Tool:
    """What a reviewer's tool does."""

    def __init__(self, client: TestClient, name: str) -> None:
        self._client, self._headers = client, {"Authorization": f"Bearer of-{name}"}

    def get(self, path: str, **query: Any) -> Any:
        """What there is."""
        told = self._client.get(path, params=query, headers=self._headers)
        assert told.status_code == 200, told.text
        return told.json()

    def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """Status and body, whatever they are."""
        told = self._client.request(method, path, headers=self._headers, **more)
        if told.status_code >= 400:
            assert told.headers["content-type"] == "application/problem+json"
            assert told.json()["status"] == told.status_code
        return told.status_code, told.json() if told.content else None

    def say(self, **verdict: Any) -> tuple[int, Any]:
        """Gives a verdict."""
        return self.ask("POST", "/feedback", json=verdict)


@pytest.fixture
def client(desk: Desk) -> Iterator[TestClient]:
    """The API of the desk."""
    with TestClient(make_api(desk.board(), who), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def ann(client: TestClient) -> Tool:
    """Ann's tool."""
    return Tool(client, "ann")


def test_a_tool_takes_an_item_and_answers_it(desk: Desk, client: TestClient, ann: Tool) -> None:
    desk.ask("a", "b")
    status, (item,) = ann.ask("POST", "/leases", json={})
    assert (status, item["event_id"], item["features"]) == (200, "a", {"a": 1.0})
    assert [each["held_by"] for each in ann.get("/reviews")] == ["ann", None]
    status, renewed = ann.ask("PUT", f"/leases/{item['lease']}")
    assert (status, renewed["reviewer"]) == (200, "ann")
    status, told = ann.say(event_id="a", verdict=CORRECT, label=False, lease=item["lease"])
    assert (status, told["repeated"], told["delivered_at"]) == (201, False, None)
    with desk.store.reading() as connection:
        said = connection.execute(select(outbox)).one()
    assert (said.feedback_id, said.reviewer, said.channel) == (told["feedback_id"], "ann", "api")
    status, (other,) = Tool(client, "bob").ask("POST", "/leases", json={"event_id": "b"})
    assert (status, other["event_id"]) == (200, "b")
    assert Tool(client, "bob").ask("DELETE", f"/leases/{other['lease']}")[0] == 204


def test_feedback_is_one_verdict_however_often_it_is_sent(desk: Desk, ann: Tool) -> None:
    desk.take(prediction("a"))
    verdict = {"event_id": "a", "verdict": ACCEPT, "feedback_id": "mine"}
    assert [ann.say(**verdict)[0] for _ in range(3)] == [201, 200, 200]
    assert ann.say(**{**verdict, "verdict": "reject"})[0] == 409
    assert desk.outbox.undelivered() == 1


def test_an_event_tells_why_the_model_failed(desk: Desk, ann: Tool) -> None:
    desk.take(prediction("one"), prediction("two"), feedback("one", ACCEPT))
    assert [ann.get("/events", event_id=each)["failure"] for each in ("one", "two")] == [None, None]
    desk.take(feedback("two", CORRECT, False))
    desk.model_of_now = Now(40, Answer(False, {"False": 0.62, "True": 0.38}, 0.62))
    told = ann.get("/events", event_id="two")["failure"]
    assert told["now"] == {"model_version": 40, "label": False, "confidence": 0.62}
    assert (told["alike"], told["has_learned"]) == (1, True)
    assert told["words"][-1] == "version 40 has learned it: False 0.62, was True 0.70"


def test_what_was_predicted_and_said_can_be_read(desk: Desk, ann: Tool) -> None:
    said = feedback("a/b?c=\"d'", ACCEPT)
    desk.take(prediction(said.event_id, text="<script>"), prediction("b", False), said)
    desk.take(outcome(said, 0))
    assert [row["event_id"] for row in ann.get("/predictions", label="false")["rows"]] == ["b"]
    page = ann.get("/predictions", limit=1)
    assert len(ann.get("/predictions", after=page["after"])["rows"]) == 1
    story = ann.get("/events", event_id=said.event_id)
    assert story["opinions"][0]["status"] == "learned"
    assert [moment["kind"] for moment in story["moments"]] == ["prediction", "feedback", "outcome"]
    assert ann.get("/quality")["asked"] == 0
    assert ann.get("/trouble") == {"letters": [], "lost": [], "disputes": []}
    assert ann.get("/health")["ready"] is True


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"event_id": "unknown", "verdict": ACCEPT}, 404, "no event 'unknown'"),
    ({"event_id": "a", "verdict": CORRECT, "label": "spam"}, 422, "not a class of this loop"),
    ({"event_id": "a", "verdict": CORRECT}, 422, "needs the true label"),
    ({"event_id": "a", "verdict": CORRECT, "label": 10**400}, 422, "label"),
    ({"event_id": "a", "verdict": "maybe"}, 422, "verdict"),
    ({"event_id": "a", "verdict": ACCEPT, "comment": "x" * 1_000_000}, 422, "comment"),
    ({"event_id": "a", "verdict": ACCEPT, "remark": "x"}, 422, "remark"),
    ({"event_id": "a", "verdict": ACCEPT, "lease": "0" * 32}, 409, "has ended"),
    ({"event_id": "a/'\"\\", "verdict": ACCEPT}, 404, "no event"),
    ({"event_id": "\x00", "verdict": ACCEPT}, 422, "event_id"),
]


NO_TEXT = (
    b"\xff\xfe",
    b'{"event_id": "\xff"}',
    b'{"event_id": "a", "verdict": "accept", "comment": "\\ud800"}',
    b"{",
    b"[]",
)


def test_bad_input_is_refused_in_words_and_changes_nothing(desk: Desk, ann: Tool) -> None:
    desk.ask("a")
    for given, status, words in BAD:
        told = ann.say(**given)
        assert told[0] == status, told
        assert words in told[1]["detail"]
    for body in NO_TEXT:
        status, told = ann.ask("POST", "/feedback", content=body)
        assert 400 <= status < 500, told
    assert desk.outbox.undelivered() == 0


def test_times_that_are_over_are_told(desk: Desk, client: TestClient, ann: Tool) -> None:
    desk.ask("a")
    _, (item,) = ann.ask("POST", "/leases", json={"count": 1})
    status, told = Tool(client, "bob").say(event_id="a", verdict=ACCEPT)
    assert (status, "held by ann" in told["detail"]) == (409, True)
    desk.now = item["until"]
    assert ann.say(event_id="a", verdict=ACCEPT, lease=item["lease"])[0] == 409
    assert ann.ask("PUT", f"/leases/{item['lease']}")[0] == 409
    desk.now += HOUR_MS
    status, told = ann.say(event_id="a", verdict=ACCEPT)
    assert (status, "expired" in told["detail"]) == (409, True)


def test_who_has_no_right_is_told_so(desk: Desk, client: TestClient) -> None:
    desk.take(prediction("a"))
    anybody, eve = Tool(client, "nobody"), Tool(client, "eve")
    assert anybody.ask("GET", "/predictions")[0] == 401
    assert anybody.ask("POST", "/feedback", json={"event_id": "a", "verdict": ACCEPT})[0] == 401
    assert eve.ask("GET", "/predictions")[0] == 200
    assert eve.say(event_id="a", verdict=ACCEPT)[0] == 403
    assert eve.ask("POST", "/dead-letters/0/1/retry")[0] == 403
    assert eve.ask("POST", "/feedback/0/1/again")[0] == 403
    assert eve.ask("GET", f"/{quote('../nothing')}")[0] == 404
    assert desk.outbox.undelivered() == 0
