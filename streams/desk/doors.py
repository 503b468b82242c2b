"""The doors of the desk: who is at them, by session, token or a proxy's word, and how often he may knock.

What comes without a token changes something only with the session's own sign, which no other site can know.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from streams.core.errors import ConfigError, Conflict, Mistake, StreamsError
from streams.desk.people import People, Person, csrf_of

COOKIE, CSRF = "counterpoint_session", "x-csrf"
REMEMBERED = 10_000


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
    """A reverse proxy, which tells for which address it asks, and may sign people in.

    Attributes:
        header: In which it tells who it is; None if it signs nobody in.
        trusted: Where the proxy is, as addresses or networks: from anywhere else the headers say nothing.
    """

    header: str | None
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
        name = None if self.header is None else connection.headers.get(self.header)
        return name if name and self._is_trusted(_host(connection)) else None

    def address(self, connection: HTTPConnection) -> str:
        """From where somebody asks: the proxy tells for whom it does."""
        address = _host(connection)
        # The last was added by the proxy itself; those before may be anybody's invention.
        told = ",".join(connection.headers.getlist("x-forwarded-for"))
        for each in reversed(told.split(",")):
            if not self._is_trusted(address) or _address(each.strip()) is None:
                break
            address = each.strip()
        return address

    def _is_trusted(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(address in ip_network(each) for each in self.trusted)


class Rate:
    """How often each may: so many at once, and so many a second after that."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_ms, self._burst = per_s / 1000, burst
        self._left: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, who: str, now: int, many: int = 1) -> None:
        """Counts one more, or many.

        Raises:
            TooOften: It is too many; then none is counted.
        """
        with self._lock:
            left, at = self._left.pop(who, (float(self._burst), now))
            left = min(left + max(now - at, 0) * self._per_ms, self._burst)
            may = left >= many
            self._left[who] = (left - many if may else left, now)
            while len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
        if not may:
            raise TooOften(max((many - left) / self._per_ms / 1000, 1.0))


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
        self._key = people.key()
        self._guesses = Rate(per_s=0.2, burst=10)
        self._knocks = Rate(per_s=2.0, burst=60)
        self.writes = Rate(per_s=50.0, burst=500)

    def knock(self, connection: HTTPConnection, name: str | None = None) -> None:
        """Counts who tries to sign in: by where he is, and there by name, so that nobody locks out others.

        Raises:
            TooOften: He has tried much just now.
        """
        address = _host(connection) if self._proxy is None else self._proxy.address(connection)
        self._knocks.take(address, self._clock())
        if name is not None:
            self._guesses.take(f"{name[:64]} at {address}", self._clock())

    def person(self, connection: HTTPConnection) -> Person:
        """Who is there.

        Raises:
            NotSignedIn: Nobody that we know.
        """
        return self._known(connection)[0]

    def _known(self, connection: HTTPConnection) -> tuple[Person, bool]:
        """Who is there, and whether he came by a token: then no browser sends the request on behalf of another site.

        A token that is none of ours may be the proxy's own, and does not gainsay what the proxy tells.
        """
        token = _bearer(connection)
        found = None if token is None else self.people.by_token(token)
        if found is not None:
            return found, True
        if (name := self._vouched(connection)) is not None:
            found = self.people.named(name)
        elif token is None and (secret := connection.cookies.get(COOKIE)) is not None:
            found = self.people.by_session(secret, self._clock())
        if found is None:
            raise NotSignedIn("sign in first: nobody is known by what came with this request")
        return found, False

    def writer(self, connection: HTTPConnection) -> Person:
        """Who is there, to change something.

        Raises:
            NotSignedIn: Nobody that we know.
            Conflict: The request may come from another site.
            TooOften: He has changed much just now.
        """
        person, by_token = self._known(connection)
        if not by_token and not secrets.compare_digest(
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


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _host(connection: HTTPConnection) -> str:
    return "" if connection.client is None else connection.client.host


def _bearer(connection: HTTPConnection) -> str | None:
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None
