"""The doors of the desk: who is at them, by session, token or a proxy's word, and how often he may knock.

What comes without a token changes something only with the session's own sign, which no other site can know.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.core.errors import ConfigError, Conflict, Mistake, StreamsError
from streams.desk.people import People, Person, csrf_of

COOKIE, CSRF = "counterpoint_session", "x-csrf"
REMEMBERED = 10_000
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


class NotSignedIn(StreamsError):
    """Nobody is known to be there."""


class TooOften(StreamsError):
    """Somebody asks faster than he may.

    Attributes:
        after_s: When to ask again.
    """

    def __init__(self, after_s: float) -> None:
        super().__init__(f"too many requests: try again in {after_s:.0f} seconds")
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Proxy:
    """A reverse proxy that signs people in, and tells who it is in a header.

    Attributes:
        header: Its name.
        trusted: Where the proxy is, as addresses or networks: from anywhere else the header says nothing.
    """

    header: str
    trusted: Sequence[str]

    def __post_init__(self) -> None:
        for each in self.trusted:
            try:
                ip_network(each)
            except ValueError as error:
                raise ConfigError(
                    [Mistake("trusted", each, "an address or network such as 10.0.0.0/8")]
                ) from error

    def tells(self, connection: HTTPConnection) -> str | None:
        """Who it says is there; None if it is not the proxy who asks."""
        name = connection.headers.get(self.header)
        if not name or connection.client is None:
            return None
        try:
            address = ip_address(connection.client.host)
        except ValueError:
            return None
        return name if any(address in ip_network(each) for each in self.trusted) else None


class Rate:
    """How often each may: so many at once, and so many a second after that."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_ms, self._burst = per_s / 1000, burst
        self._left: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, who: str, now: int) -> None:
        """Counts one more.

        Raises:
            TooOften: It is one too many.
        """
        with self._lock:
            left, at = self._left.pop(who, (float(self._burst), now))
            left = min(left + max(now - at, 0) * self._per_ms, self._burst)
            may = left >= 1
            self._left[who] = (left - 1 if may else left, now)
            while len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
        if not may:
            raise TooOften(max((1 - left) / self._per_ms / 1000, 1.0))


class Doors:
    """Finds who is there.

    Args:
        proxy: Whose word is taken for who is there.
        secure: The desk is reached by HTTPS alone: cookies are not to go another way.
    """

    def __init__(
        self,
        people: People,
        clock: Callable[[], int],
        proxy: Proxy | None = None,
        *,
        secure: bool = False,
    ) -> None:
        self.people, self.secure, self._clock, self._proxy = people, secure, clock, proxy
        self._key = secrets.token_urlsafe(32)
        self.sign_ins = Rate(per_s=0.2, burst=10)
        self.writes = Rate(per_s=50.0, burst=500)

    def person(self, connection: HTTPConnection) -> Person:
        """Who is there.

        Raises:
            NotSignedIn: Nobody that we know.
        """
        token = _bearer(connection)
        if token is not None:
            found = self.people.by_token(token)
        elif (name := self._vouched(connection)) is not None:
            found = self.people.named(name)
        else:
            secret = connection.cookies.get(COOKIE)
            found = None if secret is None else self.people.by_session(secret, self._clock())
        if found is None:
            raise NotSignedIn("sign in first: nobody is known by what came with this request")
        return found

    def writer(self, connection: HTTPConnection) -> Person:
        """Who is there, to change something.

        Raises:
            NotSignedIn: Nobody that we know.
            Conflict: The request may come from another site.
            TooOften: He has changed much just now.
        """
        person = self.person(connection)
        if _bearer(connection) is None and not secrets.compare_digest(
            connection.headers.get(CSRF, "").encode(), self.csrf(connection).encode()
        ):
            raise Conflict("this page is out of date: load it again")
        self.writes.take(person.name, self._clock())
        return person

    def caller(self, request: Request) -> Person | None:
        """Who asks the API: a tool by its token, or a page of ours; None if nobody who may.

        Raises:
            HTTPException: He has changed much just now.
        """
        try:
            if request.method in ("GET", "HEAD"):
                return self.person(request)
            return self.writer(request)
        except (NotSignedIn, Conflict):
            return None
        except TooOften as error:
            after = {"retry-after": f"{error.after_s:.0f}"}
            raise HTTPException(429, str(error), after) from error

    def csrf(self, connection: HTTPConnection) -> str:
        """What the page that is given out has to bring along."""
        name = self._vouched(connection)
        if name is not None:
            return csrf_of(f"{self._key}:{name}")
        return csrf_of(connection.cookies.get(COOKIE, self._key))

    def _vouched(self, connection: HTTPConnection) -> str | None:
        return None if self._proxy is None else self._proxy.tells(connection)


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


def _bearer(connection: HTTPConnection) -> str | None:
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None
