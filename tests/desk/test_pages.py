"""The pages: who may see them, what they show, what they refuse, and that everything stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from streams.core.events import CORRECT, Basis, Contribution, Drift, Score
from streams.core.failure import Now
from streams.core.model import Answer
from streams.desk.doors import COOKIE, Doors, Proxy
from streams.desk.middleware import MOST_BYTES
from streams.desk.people import People
from streams.desk.store import open_store
from streams.desk.views import card
from streams.opening import application
from tests.desk.desks import Desk, feedback, outcome, prediction, review

PASSWORD = "correct horse"
EVIL = "<script>alert('x')</script>\"/../'"
HTML = {"accept": "text/html"}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """One on SQLite: what differs with PostgreSQL is below the pages."""
    store = open_store(f"sqlite:///{tmp_path / 'desk.sqlite'}", "tests")
    yield Desk(store)
    store.close()


@pytest.fixture
def doors(desk: Desk) -> Doors:
    """Ann is a reviewer, Olga an operator, and a proxy is trusted."""
    people = People(desk.store)
    people.add("ann", "reviewer", 0, PASSWORD)
    people.add("olga", "operator", 0)
    return Doors(people, lambda: desk.now, Proxy("x-user", ["10.0.0.0/8"]))


@pytest.fixture
def client(desk: Desk, doors: Doors) -> Iterator[TestClient]:
    """A browser that nobody has signed in with."""
    with TestClient(application(desk.board(), doors), headers=HTML) as opened:
        opened.app_state["doors"] = doors
        yield opened


def sign_in(client: TestClient, name: str = "ann") -> TestClient:
    """The browser, signed in."""
    client.cookies.set(COOKIE, client.app_state["doors"].people.new_session(name, 1_000))
    return client


def post(client: TestClient, path: str, body: Any, **headers: str) -> Any:
    """What a page's script sends."""
    token = re.search(r'data-csrf="(\w+)"', client.get("/queue").text)
    assert token is not None
    return client.post(path, json=body, headers={"x-csrf": token[1], **headers})


def test_nobody_sees_a_page_before_signing_in(client: TestClient) -> None:
    for path in ("/queue", "/browse", "/event?id=a", "/quality", "/trouble"):
        answer = client.get(path, follow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/sign-in?to=%2F")
    assert client.get("/live").status_code == 200  # the form to sign in
    assert client.get("/live", headers={"accept": "text/event-stream"}).status_code == 401
    assert client.post("/undo", json={}, headers={"accept": "*/*"}).status_code == 401


def test_signing_in_leads_where_one_wanted_to_go_and_nowhere_else(client: TestClient) -> None:
    form = {"name": "ann", "password": PASSWORD}
    for to, reached in (("/browse?text=a", "/browse?text=a"), ("//evil.example", "/queue")):
        answer = client.post("/sign-in", data={**form, "to": to}, follow_redirects=False)
        assert answer.headers["location"] == reached
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie


def test_a_wrong_password_is_refused_and_soon_no_more_are_tried(client: TestClient) -> None:
    form = {"name": "ann", "password": "wrong"}
    assert client.post("/sign-in", data=form).status_code == 403
    codes = [client.post("/sign-in", data=form).status_code for _ in range(10)]
    assert codes[-1] == 429


def test_a_link_signs_in_once(client: TestClient, doors: Doors) -> None:
    secret = doors.people.new_link("ann", 0)
    for _ in range(2):  # a mail program looks at it first
        assert '<form method="post"' in client.get(f"/enter/{secret}").text
    assert client.post(f"/enter/{secret}").url.path == "/queue"
    client.cookies.clear()
    assert client.post(f"/enter/{secret}").status_code == 404


def test_a_proxy_is_believed_from_where_it_is_alone(desk: Desk, doors: Doors) -> None:
    app, header = application(desk.board(), doors), {"x-user": "ann", **HTML}
    near = TestClient(app, headers=header, client=("10.1.2.3", 1))
    assert "Sign out" in near.get("/queue").text
    assert post(near, "/undo", {"feedback_id": "x"}).status_code == 404  # it is known
    far = TestClient(app, headers=header, client=("11.1.2.3", 1))
    assert far.get("/queue").url.path == "/sign-in"


def test_an_item_tells_how_many_are_asked_where_that_is_more_than_one(
    desk: Desk, client: TestClient
) -> None:
    desk.ask("one")
    assert "Asked of" not in sign_in(client).get("/queue").text
    said = prediction("two", route="review")
    asked = review(said, desk.now, desk.now + 60_000, priority=1.0)
    desk.take(said, asked._replace(opinions=3))
    assert "3 people; 0 looked at it before you" in client.get("/queue").text


def test_a_token_of_the_proxys_own_does_not_hide_who_it_vouches_for(
    desk: Desk, doors: Doors
) -> None:
    desk.ask("one")
    app = application(desk.board(), doors)
    header = {"x-user": "ann", "authorization": "Bearer of-another-system"}
    near = TestClient(app, headers={**header, **HTML}, client=("10.1.2.3", 1))
    assert "Sign out" in near.get("/queue").text
    body = {"verdicts": [{"event_id": "one", "kind": "reject"}]}
    assert near.post("/verdicts", json=body).status_code == 409  # it still has to be our page
    assert post(near, "/verdicts", body).json()["told"][0]["saved"]
    ours = {"authorization": f"Bearer {doors.people.new_token('olga', ['read'], 0)}"}
    assert "olga" in near.get("/queue", headers=ours).text
    far = TestClient(app, headers={**header, **HTML}, client=("11.1.2.3", 1))
    far.cookies.set(COOKIE, doors.people.new_session("ann", 0))
    assert far.get("/queue").url.path == "/sign-in"


def test_a_page_that_a_proxy_let_in_can_write_after_the_desk_was_restarted(desk: Desk) -> None:
    desk.ask("one")

    def started() -> TestClient:
        doors = Doors(People(desk.store), lambda: desk.now, Proxy("x-user", ["10.0.0.0/8"]))
        app = application(desk.board(), doors)
        return TestClient(app, headers={"x-user": "ann", **HTML}, client=("10.1.2.3", 1))

    People(desk.store).add("ann", "reviewer", 0)
    token = re.search(r'data-csrf="(\w+)"', started().get("/queue").text)
    assert token is not None
    body = {"verdicts": [{"event_id": "one", "kind": "reject"}]}
    told = started().post("/verdicts", json=body, headers={"x-csrf": token[1]})
    assert told.json()["told"][0]["saved"]


def test_nobody_locks_out_another_by_trying_his_name(desk: Desk, doors: Doors) -> None:
    app = application(desk.board(), doors)
    right, wrong = {"name": "ann", "password": PASSWORD}, {"name": "ann", "password": "wrong"}

    def from_there(address: str) -> TestClient:
        """A browser behind the proxy, which says anything about where others are."""
        told = {"x-forwarded-for": f"127.0.0.1, {address}", **HTML}
        return TestClient(app, headers=told, client=("10.1.2.3", 1))

    guesser = from_there("198.51.100.7")
    codes = [guesser.post("/sign-in", data=wrong).status_code for _ in range(11)]
    assert codes == [403] * 10 + [429]
    assert from_there("198.51.100.8").post("/sign-in", data=right).url.path == "/queue"
    codes = [
        from_there(f"no address {n}").post("/sign-in", data=wrong).status_code for n in range(11)
    ]
    assert codes[-1] == 429


def test_verdicts_are_counted_however_many_come_at_once(desk: Desk, client: TestClient) -> None:
    sign_in(client)
    many = {"verdicts": [{"event_id": "none", "kind": "reject"}] * 200}
    codes = [post(client, "/verdicts", many).status_code for _ in range(3)]
    assert codes == [200, 200, 429]


def test_every_answer_forbids_scripts_but_our_own(client: TestClient) -> None:
    for path in ("/queue", "/none", "/static/desk.js", "/api/v1/reviews", "/healthz"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_a_verdict_is_kept_once_and_the_next_item_follows(desk: Desk, client: TestClient) -> None:
    desk.ask("one", "two")
    sign_in(client)
    shown = re.findall(r'data-event="(\w+)" data-lease="(\w+)"', client.get("/queue").text)
    assert [event for event, _ in shown] == ["one", "two"]
    said = {"event_id": "one", "kind": "accept", "label": True, "lease": shown[0][1]}
    said["feedback_id"] = "f-1"
    for _ in range(2):
        told = post(client, "/verdicts", {"verdicts": [said]}).json()["told"]
        assert told == [{"saved": True, "event_id": "one", "feedback_id": "f-1"}]
    assert desk.outbox.undelivered() == 1
    assert 'data-event="one"' not in client.get("/queue").text
    assert 'data-undo="f-1"' in client.get("/queue").text
    for _ in range(2):
        told = post(client, "/undo", {"feedback_id": "f-1"}).json()
        assert (told["event_id"], told["last"]) == ("one", None)
    assert 'data-undo=""' in client.get("/queue").text
    assert post(client, "/undo", {}).status_code == 422


def test_a_postponement_that_is_refused_says_whether_the_item_is_gone(
    desk: Desk, client: TestClient
) -> None:
    desk.ask("one")
    sign_in(client)
    lease = re.search(r'data-lease="(\w+)"', client.get("/queue").text)
    assert lease is not None
    for asked, gone in (({"lease": lease[1], "seconds": 0}, False), ({"lease": "old"}, True)):
        told = post(client, "/postpone", {"seconds": 60, **asked}).json()
        assert (told["saved"], told["gone"]) == (False, gone)


def test_what_changes_something_has_to_come_from_our_page(desk: Desk, client: TestClient) -> None:
    desk.ask("one")
    sign_in(client)
    body = {"verdicts": [{"event_id": "one", "kind": "reject"}]}
    assert client.post("/verdicts", json=body, headers={"x-csrf": "0"}).status_code == 409
    assert client.post("/sign-out", data={"csrf": ""}).status_code == 409
    assert desk.outbox.undelivered() == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"event_id": "none", "kind": "accept", "label": True}, "no event"),
        ({"event_id": "one", "kind": "correct", "label": "maybe"}, "maybe"),
        ({"event_id": "one", "kind": "correct", "typed": "maybe"}, "none of false, true"),
        ({"event_id": "one", "kind": "correct", "label": ["x"]}, "not a list"),
        ({"event_id": "one", "kind": "praise"}, "praise"),
        ({"event_id": 7, "kind": "accept"}, "event_id has to be text"),
        ({"event_id": "one", "kind": "reject", "comment": "x" * 5000}, "5,000 characters"),
        ({"event_id": "one", "kind": "reject", "comment": "a\0b"}, "zero"),
        ({"event_id": "one", "kind": "reject", "lease": "old"}, "lease"),
        ("nothing", "object"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_words_and_changes_nothing(
    desk: Desk, client: TestClient, said: Any, words: str
) -> None:
    desk.ask("one")
    sign_in(client)
    (told,) = post(client, "/verdicts", {"verdicts": [said]}).json()["told"]
    assert not told["saved"]
    assert words in told["detail"]
    assert desk.outbox.undelivered() == 0


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[]", b'{"verdicts": []}', b"{"])
def test_a_body_that_is_none_is_refused_in_words(
    desk: Desk, client: TestClient, body: bytes
) -> None:
    sign_in(client)
    token = re.search(r'data-csrf="(\w+)"', client.get("/queue").text)
    assert token is not None
    answer = client.post("/verdicts", content=body, headers={"x-csrf": token[1]})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


@pytest.mark.parametrize("path", ["/verdicts", "/sign-in", "/api/v1/feedback"])
def test_a_body_that_is_too_large_is_refused_before_anybody_looks_at_it(
    client: TestClient, path: str
) -> None:
    pieces = iter([b"x" * MOST_BYTES, b"x"])
    for answer in (
        client.post(path, content=b"x" * (MOST_BYTES + 1)),
        client.post(path, content=pieces),
    ):
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert "256 kB" in answer.json()["detail"]


def test_everything_stays_text(desk: Desk, client: TestClient) -> None:
    desk.ask(EVIL, text=EVIL, features={EVIL: EVIL})
    desk.say("olga", EVIL, "reject")
    sign_in(client)
    told = post(client, "/verdicts", {"verdicts": [{"event_id": EVIL, "kind": "undo"}]})
    assert EVIL not in told.text or told.headers["content-type"] == "application/json"
    desk.ask(EVIL + "2", text=EVIL, features={EVIL: EVIL})
    params = {"id": EVIL}
    for answer in (
        client.get("/queue"),
        client.get("/browse", params={"text": EVIL}),
        client.get("/event", params=params),
        client.get("/event", params={"id": EVIL + "3"}),
        client.get("/sign-in", params={"to": "/" + EVIL}),
    ):
        assert "<script>alert" not in answer.text
        assert "&lt;script&gt;alert" in answer.text


def test_only_an_operator_retries(desk: Desk, client: TestClient) -> None:
    assert post(sign_in(client), "/trouble/retry", {"place": "0-1"}).status_code == 409
    assert post(sign_in(client, "olga"), "/trouble/retry", {"place": "0-1"}).json() == {
        "said": "sent"
    }
    assert post(client, "/trouble/retry", {"place": "0-x"}).status_code == 422


def test_only_an_operator_has_an_orphaned_verdict_said_again(
    desk: Desk, client: TestClient
) -> None:
    said = feedback("one", CORRECT, False, "eve", "f-1")
    desk.take(said, outcome(said, 0, "orphaned", None), prediction("one"))
    assert "an operator can" in sign_in(client).get("/trouble").text
    assert post(client, "/trouble/again", {"place": "0-0"}).status_code == 409
    olga = sign_in(client, "olga")
    assert 'data-again="0-0"' in olga.get("/trouble").text
    assert post(olga, "/trouble/again", {"place": "0-0"}).json() == {"said": "f-1/again"}
    assert post(olga, "/trouble/again", {"place": "0-7"}).status_code == 404


@pytest.mark.parametrize(
    ("query", "found"),
    [("text=on", ["one"]), ("label=true", ["one", "two"]), ("confidence_from=0.9", [])],
)
def test_browse_shows_what_was_asked_for(
    desk: Desk, client: TestClient, query: str, found: list[str]
) -> None:
    desk.ask("one", "two")
    page = sign_in(client).get(f"/browse?{query}").text
    assert sorted(re.findall(r'checkbox" value="(\w+)"', page)) == found


def test_a_filter_that_is_none_is_refused_on_a_page(client: TestClient) -> None:
    for query in ("confidence_from=x", "model_version=1e99", "label=%22%5Cud800%22", "text=%00"):
        answer = sign_in(client).get(f"/browse?{query}")
        assert answer.status_code == 422
        assert "<h1>This cannot be used</h1>" in answer.text


def test_quality_is_drawn_of_nothing_and_of_something(desk: Desk, client: TestClient) -> None:
    assert "Nothing was learned yet." in sign_in(client).get("/quality").text
    desk.ask("one", "two")
    desk.take(feedback("one", "correct", True), feedback("two", "correct", False))
    metrics = {"accuracy.rolling": 0.75, "accuracy.frozen": 0.5, "accuracy.baseline": 0.5}
    desk.take(Score("", 7, 4, metrics, 0, []), Score("", 8, 5, metrics, 0, []))
    assert "No drift so far." in client.get("/quality/body").text
    desk.take(Score("", 9, 6, metrics, 0, [Drift("ADWIN", 8, 5, 0.4, 0)]))
    page = client.get("/quality").text
    assert "<title>drift after 5 lessons</title>" in page
    assert "<td>ADWIN</td><td>40% wrong</td>" in page
    assert "accuracy after 6 lessons: model 75%, frozen 50%, baseline 50%" in page
    assert "70% sure: 50% right of 2" in page
    assert page.count('<th scope="row">ann</th>') == 1


def test_quality_lets_one_choose_among_several_models(desk: Desk, client: TestClient) -> None:
    for version, key in enumerate(("a&b", "c", "c"), start=1):
        desk.take(Score(key, version, version, {"accuracy.rolling": 0.5}, 0, []))
    page = sign_in(client).get("/quality").text
    assert "Accuracy of model c, over" in page
    assert "<option selected>c</option>" in page
    page = client.get("/quality?model=a%26b").text
    assert "Accuracy of model a&amp;b, over" in page
    assert 'data-live="/quality/body?model=a%26b"' in page
    assert client.get("/quality?model=%00").status_code == 422


def test_a_loop_chooses_which_features_are_seen_and_in_which_order() -> None:
    said = prediction("one", features={"a": 1.0, "secret": 2.0, "b": 3.0})
    assert [row.feature for row in card(said, ("b", "a", "c")).rows] == ["b", "a"]
    assert [row.feature for row in card(said).rows] == ["a", "secret", "b"]


def test_an_event_tells_why_the_model_failed(desk: Desk, client: TestClient) -> None:
    told = [Contribution("a", 1.0, 0.5), Contribution("b", 2.0, -0.1)]
    basis = Basis("linear", "logit", True, None, 0.1, 0.0)
    desk.take(prediction("one")._replace(explanation=told, basis=basis))
    page = sign_in(client).get("/event?id=one").text
    assert "Why it failed" not in page
    desk.take(feedback("one", "correct", False))
    page = client.get("/event?id=one").text
    assert "said True 0.70, and the verdict is False" in page
    assert "what pushed the wrong way: a=1 +0.5<" in page
    assert "1 learned verdict says False where it said True" in page
    assert "the model cannot be asked what it says now" in page
    desk.model_of_now = Now(40, Answer(False, {"False": 0.62, "True": 0.38}, 0.62))
    page = client.get("/event?id=one").text
    assert "version 40 has learned it: False 0.62, was True 0.70" in page


def test_browse_leads_on_to_what_is_older_in_each_lane(desk: Desk, client: TestClient) -> None:
    for number in range(120):
        desk.take(
            prediction(
                f"{'un' * (number % 2)}sure-{number:03}", confidence=0.9 - 0.4 * (number % 2)
            )
        )
    page = sign_in(client).get("/browse?label=true").text
    assert ("unsure-119" in page, "unsure-001" in page) == (True, False)
    assert "Newest" not in page
    (older,) = re.findall(r'href="([^"]*)" aria-label="Unsure: older ones"', page)
    page = client.get(older.replace("&amp;", "&")).text
    assert ("unsure-001" in page, "unsure-119" in page) == (True, False)
    assert ('"sure-118"' in page, '"sure-000"' in page) == (True, False)
    assert "label=true" in older
    (newest,) = re.findall(r'href="([^"]*)" aria-label="Unsure: the newest"', page)
    assert "unsure-119" in client.get(newest.replace("&amp;", "&")).text
