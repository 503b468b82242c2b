"""The HTTP API for reviewer tooling, ``/api/v1``: a thin shell around the board.

Who asks is told by ``who``, which knows tokens and sessions; what may be said is decided by the outbox and the queue.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Any, Literal, Protocol

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.security import HTTPBearer
from sse_starlette import EventSourceResponse

from streams.desk import problems
from streams.desk.board import Board
from streams.desk.contract import (
    LONG,
    TEXT,
    ConfirmedOut,
    EventId,
    ItemOut,
    Lease,
    LeaseOut,
    PageOut,
    Say,
    StoryOut,
    TroubleOut,
    WaitingOut,
    Wanted,
    plain,
)
from streams.desk.filters import SURE_FROM, Filter
from streams.desk.outbox import Verdict
from streams.desk.quality import quality
from streams.desk.reads import MOST, PAGE
from streams.desk.rows import label_of

READ, ANSWER, OPERATE = "read", "answer", "operate"
"""What a caller may do: look; hold items and give verdicts; send again what failed."""
CHANNEL = "api"
SSE_PING_S, SSE_PAUSE_S = 15, 0.1
Text = Annotated[str, Query(max_length=200, pattern=TEXT)]


class Caller(Protocol):
    """Who asks."""

    @property
    def name(self) -> str: ...

    def may(self, scope: str) -> bool:
        """Whether a scope is his."""


Who = Callable[[Request], Caller | None]


def make_api(board: Board, who: Who) -> FastAPI:
    """The application to mount at ``/api/v1``.

    Args:
        who: Tells who makes a request; None if nobody who may.
    """
    api = FastAPI(
        title=f"Counterpoint: reviews of {board.about.name}",
        version="1",
        description="Items to look at, predictions, verdicts. Times are milliseconds since the epoch.",
        responses=problems.responses(401, 403, 413, 422, 503),
        docs_url=None,
        redoc_url=None,
    )
    problems.install(api)
    _reading(api, board, who)
    _answering(api, board, who)
    _operating(api, board, who)
    _with_problem(api)
    return api


def _may(who: Who, scope: str) -> Any:
    def checked(request: Request) -> Caller:
        caller = who(request)
        if caller is None:
            detail = "say who you are: Authorization: Bearer TOKEN"
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})
        if not caller.may(scope):
            raise HTTPException(403, f"this token may not {scope}: ask an operator for another")
        return caller

    return checked


BEARER = Depends(HTTPBearer(auto_error=False, description="An API token."))


def _reading(api: FastAPI, board: Board, who: Who) -> None:
    reader = Depends(_may(who, READ))

    @api.get("/reviews", dependencies=[BEARER, reader])
    def list_reviews(limit: Annotated[int, Query(ge=1, le=MOST)] = PAGE) -> list[WaitingOut]:
        """What waits to be looked at, most urgent first, and who holds it."""
        return [WaitingOut.of(each) for each in board.reads.waiting(board.clock(), limit)]

    @api.get("/predictions", dependencies=[BEARER, reader])
    def list_predictions(
        label: Annotated[
            Text | None, Query(description="As JSON: true, 3, &quot;spam&quot;; or as text.")
        ] = None,
        confidence_from: Annotated[float | None, Query(ge=0, le=1)] = None,
        confidence_to: Annotated[float | None, Query(ge=0, le=1)] = None,
        model_version: Annotated[int | None, Query(ge=0, lt=LONG)] = None,
        route: Literal["auto", "review"] | None = None,
        channel: Text | None = None,
        reviewer: Text | None = None,
        text: Text | None = None,
        answered: bool | None = None,
        lane: Literal["sure", "unsure"] | None = None,
        sure_from: Annotated[float, Query(ge=0, le=1)] = SURE_FROM,
        after: Annotated[str | None, Query(max_length=2_000, pattern=TEXT)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST)] = PAGE,
    ) -> PageOut:
        """Predictions, newest first, with the verdicts that stand on them."""
        wanted = Filter(
            label=None if label is None else _label(label),
            confidence_from=confidence_from,
            confidence_to=confidence_to,
            model_version=model_version,
            route=route,
            channel=channel,
            reviewer=reviewer,
            text=text,
            answered=answered,
            lane=lane,
            sure_from=sure_from,
        )
        return PageOut.of(board.reads.browse(wanted, after, limit))

    @api.get("/events", dependencies=[BEARER, reader], responses=problems.responses(404))
    def tell_event(event_id: Annotated[EventId, Query()]) -> StoryOut:
        """All that is known of one event, in order of time."""
        story = board.reads.story(event_id)
        return StoryOut.of(story, board.failure(story))

    @api.get("/quality", dependencies=[BEARER, reader])
    def tell_quality(
        model: Annotated[
            Text | None, Query(description="Whose history; by default, who learned last.")
        ] = None,
    ) -> dict[str, Any]:
        """How right the model is, raw and weighted, how far people agree, how long things take."""
        told: dict[str, Any] = plain(quality(board.store, board.clock(), model))
        return told

    @api.get("/trouble", dependencies=[BEARER, reader])
    def tell_trouble() -> TroubleOut:
        """Dead letters, verdicts that taught nothing, and events about which people disagree."""
        return TroubleOut.of(board.reads.trouble())

    @api.get("/health", dependencies=[BEARER, reader])
    def tell_health() -> dict[str, Any]:
        """How far the desk has read, and what is wrong."""
        told: dict[str, Any] = plain(board.health())
        return told

    @api.get(
        "/stream",
        dependencies=[BEARER, reader],
        response_class=EventSourceResponse,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "Server-sent events."}
        },
    )
    async def follow() -> EventSourceResponse:
        """Server-sent events ``changed``: by kind, how often something of it has changed."""
        return EventSourceResponse(changes(board), ping=SSE_PING_S)


async def changes(board: Board) -> AsyncIterator[dict[str, str]]:
    """What has changed, as server-sent events, until the desk stops."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it whoever listened
            loop.call_soon_threadsafe(woken.set)

    with board.pulse.listening(wake):
        before = board.pulse.counts()
        yield {"event": "changed", "data": json.dumps(before)}
        while not board.pulse.ended:
            await woken.wait()
            woken.clear()
            counts = board.pulse.counts()
            told = {kind: n for kind, n in counts.items() if n != before[kind]}
            if told:
                yield {"event": "changed", "data": json.dumps(told)}
            before = counts
            await asyncio.sleep(SSE_PAUSE_S)  # what changes often is told ten times a second


def _answering(api: FastAPI, board: Board, who: Who) -> None:
    answerer = Depends(_may(who, ANSWER))
    refusals = problems.responses(404, 409)

    @api.post("/leases", dependencies=[BEARER], responses=refusals)
    def lease(wanted: Wanted, caller: Caller = answerer) -> list[ItemOut]:
        """Holds the next items, or a certain one, for the caller alone; those he holds already come first."""
        if wanted.event_id is not None:
            items = [board.work.lease(caller.name, wanted.event_id, board.clock())]
        else:
            items = board.work.next(caller.name, board.clock(), wanted.count)
        board.pulse.beat(["held"])
        return [ItemOut.of(item) for item in items]

    @api.put("/leases/{lease}", dependencies=[BEARER], responses=refusals)
    def renew(lease: Lease, caller: Caller = answerer) -> LeaseOut:
        """Holds an item for longer."""
        return LeaseOut.of(board.work.renew(caller.name, lease, board.clock()))

    @api.delete("/leases/{lease}", dependencies=[BEARER], status_code=204, responses=refusals)
    def release(lease: Lease, caller: Caller = answerer) -> Response:
        """Gives an item back."""
        board.work.release(caller.name, lease, board.clock())
        board.pulse.beat(["held"])
        return Response(status_code=204)

    @api.post(
        "/feedback",
        dependencies=[BEARER],
        status_code=201,
        responses={
            **refusals,
            200: {"model": ConfirmedOut, "description": "It was stored before."},
        },
    )
    def say(given: Say, response: Response, caller: Caller = answerer) -> ConfirmedOut:
        """Stores a verdict, which then is delivered and learned once, however often it is sent under its id."""
        verdict = Verdict(
            event_id=given.event_id,
            kind=given.verdict,
            label=given.label,
            comment=given.comment,
            lease=given.lease,
            feedback_id=given.feedback_id,
            channel=CHANNEL,
        )
        confirmed = board.outbox.confirm(caller.name, verdict, board.clock())
        response.status_code = 200 if confirmed.repeated else 201
        return ConfirmedOut.of(confirmed)


def _operating(api: FastAPI, board: Board, who: Who) -> None:
    operator = Depends(_may(who, OPERATE))

    @api.post(
        "/dead-letters/{partition}/{offset}/retry",
        dependencies=[BEARER, operator],
        responses=problems.responses(404, 409),
    )
    def retry(
        partition: Annotated[int, Path(ge=0, lt=2**31)],
        offset: Annotated[int, Path(ge=0, lt=LONG)],
    ) -> dict[str, str]:
        """Sends a record that could not be used to where it came from, again."""
        return {"said": board.retry(partition, offset)}

    @api.post(
        "/feedback/{partition}/{offset}/again",
        dependencies=[BEARER, operator],
        responses=problems.responses(404, 409),
    )
    def again(
        partition: Annotated[int, Path(ge=0, lt=2**31)],
        offset: Annotated[int, Path(ge=0, lt=LONG)],
    ) -> dict[str, str]:
        """Says an orphaned verdict once more, now that its event was predicted; by its place on the loop's feedback."""
        return {"said": board.again(partition, offset)}


def _label(text: str) -> Any:
    """A label as JSON, or as the text it is."""
    try:
        found = label_of(text)
    except ValueError:
        return text
    return found if isinstance(found, bool | int | float | str) else text


def _with_problem(api: FastAPI) -> None:
    """The schema of problems, which the responses refer to, is in the document."""
    made = api.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemas = document["components"]["schemas"]
        schemas["Problem"] = problems.Problem.model_json_schema()
        return document

    api.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's own guide does
