"""The desk's pages: signing in, the queue, browsing, the story of an event, trouble, and the writes they make.

Each takes what the desk's parts tell and shows it by a template; what is refused is told in words, on a page to those
who look at one and as problem details to scripts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from streams.core.errors import BadRecord, Conflict, NotFound, StreamsError, Unavailable
from streams.desk import charts, views
from streams.desk.asked import FILTERS, PLACES, filter_of, form_of, json_of, path_of, verdict_of
from streams.desk.board import Board
from streams.desk.doors import COOKIE, CSRF, Doors, NotSignedIn, TooOften
from streams.desk.live import HELD
from streams.desk.outbox import Confirmed
from streams.desk.people import ANSWER, OPERATE, READ, SESSION_S, Person, check_scopes
from streams.desk.quality import quality
from streams.desk.reads import Story
from streams.desk.templating import Templates

HERE = Path(__file__).parent
AHEAD = 3
"""Items that a browser holds: the one on screen, and the next."""
MOST_AT_ONCE = 200
LOOKS_S, STILL_S = 0.1, 15.0
PROBLEMS: Mapping[type[Exception], tuple[int, str]] = {
    NotSignedIn: (401, "Sign in first"),
    TooOften: (429, "Too many requests"),
    BadRecord: (422, "This cannot be used"),
    NotFound: (404, "There is no such thing"),
    Conflict: (409, "This is in the way"),
    Unavailable: (503, "Something does not answer"),
}


def pages(board: Board, doors: Doors) -> Starlette:
    """The application that serves the pages."""
    return _Pages(board, doors).app()


class _Pages:
    def __init__(self, board: Board, doors: Doors) -> None:
        self._board, self._doors = board, doors
        self._choices = views.choices(board.about.classes)
        self._templates = Templates(board.about)

    def app(self) -> Starlette:
        gets: dict[str, Callable[[Request, Person], Response]] = {
            "/queue": self._queue,
            "/queue/items": self._items,
            "/browse": self._browse,
            "/browse/lanes": self._lanes,
            "/event": self._event,
            "/event/line": self._line,
            "/quality": self._quality,
            "/quality/body": self._quality_body,
            "/trouble": self._trouble,
            "/trouble/body": self._trouble_body,
            "/health-line": self._health_line,
        }
        posts: dict[str, Callable[[Person, Mapping[str, Any]], Mapping[str, Any]]] = {
            "/verdicts": self._give,
            "/undo": self._undo,
            "/postpone": self._postpone,
            "/trouble/retry": self._retry,
            "/trouble/again": self._again,
        }
        return Starlette(
            routes=[
                Route("/", lambda request: RedirectResponse("/queue")),
                Route("/sign-in", self._show_sign_in),
                Route("/sign-in", self._sign_in, methods=["POST"]),
                Route("/sign-out", self._sign_out, methods=["POST"]),
                Route("/enter/{secret}", self._show_enter),
                Route("/enter/{secret}", self._enter, methods=["POST"]),
                Route("/live", self._live),
                *(Route(path, self._shown(page)) for path, page in gets.items()),
                *(
                    Route(path, self._written(work), methods=["POST"])
                    for path, work in posts.items()
                ),
                Mount("/static", StaticFiles(directory=HERE / "static")),
            ],
            exception_handlers={
                StreamsError: self._refused,
                HTTPException: self._refused,
                500: self._refused,
            },
        )

    # Signing in

    def _show_sign_in(self, request: Request) -> Response:
        return self._render(
            request,
            "sign_in.html",
            None,
            to=path_of(request.query_params.get("to", "")),
            refused=None,
        )

    async def _sign_in(self, request: Request) -> Response:
        form = await form_of(request)
        name, password = form.get("name", ""), form.get("password", "")
        to = path_of(form.get("to", ""))
        person = await run_in_threadpool(self._checked, request, name, password)
        if person is None:
            refused = "That is not a name and its password."
            return self._render(request, "sign_in.html", None, 403, to=to, refused=refused)
        return await run_in_threadpool(self._let_in, person, to)

    def _checked(self, request: Request, name: str, password: str) -> Person | None:
        self._doors.knock(request, name)
        return self._doors.people.by_password(name, password)

    def _show_enter(self, request: Request) -> Response:
        """Uses nothing up: mail programs look at links before people do."""
        return self._render(request, "enter.html", None)

    def _enter(self, request: Request) -> Response:
        self._doors.knock(request)
        person = self._doors.people.use_link(request.path_params["secret"], self._board.clock())
        if person is None:
            raise NotFound(
                "this link was used before, or is too old: sign in, or ask for a new one"
            )
        return self._let_in(person, "/queue")

    def _let_in(self, person: Person, to: str) -> Response:
        secret = self._doors.people.new_session(person.name, self._board.clock())
        answer = RedirectResponse(to, status_code=303)
        answer.set_cookie(
            COOKIE,
            secret,
            max_age=SESSION_S,
            httponly=True,
            secure=self._doors.secure,
            samesite="lax",
        )
        return answer

    async def _sign_out(self, request: Request) -> Response:
        form = await form_of(request)
        if form.get("csrf") != self._doors.csrf(request):
            raise Conflict("this page is out of date: load it again")
        await run_in_threadpool(self._end, request)
        answer = RedirectResponse("/sign-in", status_code=303)
        answer.delete_cookie(COOKIE)
        return answer

    def _end(self, request: Request) -> None:
        person = self._doors.person(request)
        self._board.work.release_all(person.name)
        self._doors.people.end_session(request.cookies.get(COOKIE, ""))
        self._board.pulse.beat([HELD])

    # Pages

    def _queue(self, request: Request, person: Person) -> Response:
        cards = self._cards(person) if person.may(ANSWER) else []
        last = self._board.outbox.last(person.name)
        return self._render(request, "queue.html", person, cards=cards, last=last)

    def _items(self, request: Request, person: Person) -> Response:
        check_scopes(person, [ANSWER])
        event_id = request.query_params.get("event", "")
        return self._render(request, "items.html", person, cards=self._cards(person, event_id))

    def _cards(self, person: Person, event_id: str = "") -> list[views.Card]:
        board = self._board
        if not event_id:
            items = board.work.next(person.name, board.clock(), AHEAD)
            return [views.item_card(item, board.about.view) for item in items]
        try:
            item = board.work.lease(person.name, event_id, board.clock())
        except (Conflict, NotFound):  # it is another's by now, or its verdict is still on its way
            return []
        return [views.item_card(item, board.about.view)]

    def _browse(self, request: Request, person: Person) -> Response:
        return self._render(request, "browse.html", person, **self._found(request))

    def _lanes(self, request: Request, person: Person) -> Response:
        return self._render(request, "lanes.html", person, **self._found(request))

    def _found(self, request: Request) -> dict[str, Any]:
        """The two lanes, what was asked for, and the searches that show what is older in each of them."""
        asked = {name: request.query_params.get(name, "") for name in (*FILTERS, *PLACES)}
        sure, unsure = (asked[name] or None for name in PLACES)
        lanes = self._board.reads.lanes(filter_of(asked), sure, unsure)
        ends = zip(PLACES, (lanes.sure.after, lanes.unsure.after), strict=True)
        return {
            "lanes": lanes,
            "query": asked,
            "search": _search(asked),
            "older": [_search(asked | {name: end or ""}) for name, end in ends],
            "newest": [_search(asked | {name: ""}) if asked[name] else None for name in PLACES],
        }

    def _event(self, request: Request, person: Person) -> Response:
        story = self._board.reads.story(request.query_params.get("id", ""))
        said = story.prediction or story.review
        card = None if said is None else views.card(said, self._board.about.view)
        return self._render(
            request, "event.html", person, story=story, card=card, **self._time_line(story)
        )

    def _line(self, request: Request, person: Person) -> Response:
        story = self._board.reads.story(request.query_params.get("id", ""))
        return self._render(request, "line.html", person, **self._time_line(story))

    def _time_line(self, story: Story) -> dict[str, Any]:
        held = self._board.work.holder(story.event_id, self._board.clock())
        failed = self._board.failure(story)
        told = [views.happened(each) for each in story.moments]
        return {"moments": told, "held": held, "why": [] if failed is None else failed.words()}

    def _quality(self, request: Request, person: Person) -> Response:
        return self._render(request, "quality.html", person, **self._figures(request))

    def _quality_body(self, request: Request, person: Person) -> Response:
        return self._render(request, "quality_body.html", person, **self._figures(request))

    def _figures(self, request: Request) -> dict[str, Any]:
        task = self._board.about.task
        wanted = request.query_params.get("model")
        found = quality(self._board.store, self._board.clock(), wanted)
        metric = charts.main_metric(task)
        return {"quality": found, "drawn": charts.drawn(found, task), "metric": metric.capitalize()}

    def _trouble(self, request: Request, person: Person) -> Response:
        return self._render(request, "trouble.html", person, trouble=self._board.reads.trouble())

    def _trouble_body(self, request: Request, person: Person) -> Response:
        found = self._board.reads.trouble()
        return self._render(request, "trouble_body.html", person, trouble=found)

    def _health_line(self, request: Request, person: Person) -> Response:
        return self._render(request, "health.html", person)

    async def _live(self, request: Request) -> Response:
        person = await run_in_threadpool(self._doors.person, request)
        check_scopes(person, [READ])
        return StreamingResponse(self._changes(), media_type="text/event-stream")

    async def _changes(self) -> AsyncIterator[str]:
        """What has changed, as it does; a word now and then, so that nobody takes the line for dead."""
        pulse, still = self._board.pulse, 0.0
        before = pulse.counts()
        yield "retry: 1000\n\n"
        while not pulse.ended:
            await asyncio.sleep(LOOKS_S)
            still += LOOKS_S
            now = pulse.counts()
            kinds = [kind for kind, count in now.items() if count != before[kind]]
            before = now
            if kinds:
                still = 0.0
                yield f"event: change\ndata: {' '.join(kinds)}\n\n"
            elif still >= STILL_S:
                still = 0.0
                yield ": still here\n\n"

    # Writes

    def _give(self, person: Person, body: Mapping[str, Any]) -> Mapping[str, Any]:
        check_scopes(person, [ANSWER])
        given = body.get("verdicts")
        if not isinstance(given, list) or not 0 < len(given) <= MOST_AT_ONCE:
            raise BadRecord(f"verdicts has to be a list of 1 to {MOST_AT_ONCE}")
        self._doors.writes.take(person.name, self._board.clock(), len(given) - 1)
        told = [_told(partial(self._said, person, each)) for each in given]
        self._board.pulse.beat([HELD])
        return {"told": told}

    def _said(self, person: Person, given: object) -> Mapping[str, Any]:
        verdict = verdict_of(given, self._choices)
        return _saved(self._board.outbox.confirm(person.name, verdict, self._board.clock()))

    def _undo(self, person: Person, body: Mapping[str, Any]) -> Mapping[str, Any]:
        check_scopes(person, [ANSWER])
        feedback_id = body.get("feedback_id")
        if not isinstance(feedback_id, str):
            raise BadRecord("feedback_id has to be that of the verdict to take back")
        outbox = self._board.outbox
        done = outbox.undo(person.name, feedback_id, self._board.clock())
        return {**_saved(done), "last": outbox.last(person.name)}

    def _postpone(self, person: Person, body: Mapping[str, Any]) -> Mapping[str, Any]:
        check_scopes(person, [ANSWER])
        lease, seconds = body.get("lease"), body.get("seconds")
        if not isinstance(lease, str) or type(seconds) is not int:
            raise BadRecord("lease has to be text, and seconds a whole number")
        now = self._board.clock()

        def postponed() -> Mapping[str, Any]:
            self._board.work.postpone(person.name, lease, now + seconds * 1000, now)
            self._board.pulse.beat([HELD])
            return {"saved": True}

        return _told(postponed)

    def _retry(self, person: Person, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"said": self._board.retry(*_place(person, body))}

    def _again(self, person: Person, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"said": self._board.again(*_place(person, body))}

    # What is common

    def _shown(self, page: Callable[[Request, Person], Response]) -> Callable[[Request], Response]:
        def show(request: Request) -> Response:
            person = self._doors.person(request)
            check_scopes(person, [READ])
            return page(request, person)

        return show

    def _written(
        self, work: Callable[[Person, Mapping[str, Any]], Mapping[str, Any]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def write(request: Request) -> Response:
            person = await run_in_threadpool(self._doors.writer, request)
            body = await json_of(request)
            return JSONResponse(await run_in_threadpool(work, person, body))

        return write

    def _render(
        self, request: Request, name: str, person: Person | None, status: int = 200, **given: Any
    ) -> Response:
        shown = self._templates.render(
            name,
            person=person,
            here=request.url.path,
            csrf=self._doors.csrf(request),
            choices=self._choices,
            health=None if person is None else self._board.health(),
            now=self._board.clock(),
            **given,
        )
        return HTMLResponse(shown, status)

    def _refused(self, request: Request, error: Exception) -> Response:
        status, title = next(
            (told for kind, told in PROBLEMS.items() if isinstance(error, kind)),
            (500, "The desk has failed"),
        )
        detail = str(error) if isinstance(error, StreamsError) else "its log tells more"
        if isinstance(error, HTTPException):
            status, title, detail = error.status_code, error.detail, "the desk has no such page"
        headers = {"retry-after": f"{error.after_s:.0f}"} if isinstance(error, TooOften) else {}
        if CSRF in request.headers or "text/html" not in request.headers.get("accept", ""):
            problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
            media = "application/problem+json"
            return JSONResponse(problem, status, headers, media)
        if isinstance(error, NotSignedIn):
            asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/sign-in?to={quote(asked, safe='')}", status_code=303)
        try:
            person = self._doors.person(request)
        except StreamsError:
            person = None
        shown = self._render(request, "error.html", person, status, title=title, detail=detail)
        shown.headers.update(headers)
        return shown


def _told(work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What came of it, or why it was refused; what is gone is of no use to who asks, and may leave his screen."""
    try:
        return work()
    except (BadRecord, NotFound, Conflict) as error:
        return {"saved": False, "detail": str(error), "gone": not isinstance(error, BadRecord)}


def _search(asked: Mapping[str, str]) -> str:
    return urlencode({name: value for name, value in asked.items() if value})


def _place(person: Person, body: Mapping[str, Any]) -> tuple[int, int]:
    """Partition and offset of what an operator wants sent again."""
    check_scopes(person, [OPERATE])
    partition, _, offset = str(body.get("place")).partition("-")
    if not (partition.isdecimal() and offset.isdecimal() and len(offset) < 19):
        raise BadRecord("place has to be partition-offset, such as 0-17")
    return int(partition), int(offset)


def _saved(done: Confirmed) -> Mapping[str, Any]:
    return {"saved": True, "event_id": done.event_id, "feedback_id": done.feedback_id}
