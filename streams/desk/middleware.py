"""What is around all that the desk serves: headers for browsers, and a limit to what is sent to it.

It knows neither pages nor the API, nor who is there.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.desk.problems import problem

MOST_BYTES = 256 << 10
"""Of a request."""
TOO_MUCH = f"this is more than the {MOST_BYTES >> 10} kB that are taken at once"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class SecurityHeaders:
    """Adds to every answer what tells a browser to run nothing but our own script."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, answer)


class BodyLimit:
    """Refuses a request with too large a body, before anybody has looked at it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        is_too_much = told.isdecimal() and int(told) > MOST_BYTES
        came: list[Message] = []
        size, more = 0, True
        while more and not is_too_much:
            message = await receive()
            came.append(message)
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            is_too_much = size > MOST_BYTES
        if is_too_much:
            refused = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_MUCH)
            await refused(scope, receive, send)
            return

        async def again() -> Message:
            return came.pop(0) if came else await receive()

        await self._app(scope, again, send)
