"""Who may come in, and what for: named people with a role, their passwords, tokens, sessions and one-time links.

A secret leaves this module once, when it is made; what is stored is its hash.  It knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from sqlalchemy import Connection, Table, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from streams.core.errors import BadRecord, Conflict, NotFound
from streams.desk.accounts import links, people, sessions, tokens
from streams.desk.store import Store
from streams.desk.tables import about, own

REVIEWER, SENIOR, OPERATOR = "reviewer", "senior", "operator"
ROLES = (REVIEWER, SENIOR, OPERATOR)
"""Each may do what those before it may."""
READ, ANSWER, OPERATE = "read", "answer", "operate"
SCOPES = (READ, ANSWER, OPERATE)
"""What a token is good for: to look, to take items and give verdicts, to retry what failed."""
NAME = re.compile(r"[\w.@+-]{1,64}")
PASSWORD = (8, 1_000)
KEY = "key"
SESSION_S, LINK_S = 12 * 3_600, 24 * 3_600
_HASHER = PasswordHasher()


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who came in.

    Attributes:
        scopes: What he may do here: all that his role may, or less with a token.
    """

    name: str
    role: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether he may do that."""
        return scope in self.scopes


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may come in."""

    name: str
    role: str
    has_password: bool
    tokens: int
    added_at: int


def scopes_of(role: str) -> frozenset[str]:
    """What a role may do.

    >>> sorted(scopes_of("reviewer"))
    ['answer', 'read']
    """
    return frozenset(SCOPES if role == OPERATOR else (READ, ANSWER))


class People:
    """The accounts in a store; their tables are made where they are missing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._nobody: str | None = None
        with store.writing() as connection:
            own.create_all(connection, [people, tokens, sessions, links])

    def key(self) -> str:
        """A secret of this desk, made once: what it signs is good after a restart, too."""
        made = {"name": KEY, "value": secrets.token_urlsafe(32)}
        into: Any = (sqlite if self._store.is_sqlite else postgresql).insert(about)
        with self._store.writing() as connection:
            connection.execute(into.values(made).on_conflict_do_nothing())
            return str(connection.scalar(select(about.c.value).where(about.c.name == KEY)))

    def add(self, name: str, role: str, now: int, password: str | None = None) -> None:
        """Adds somebody, or gives him another role and password; his sessions end, and his links.

        Raises:
            BadRecord: The name, the role or the password is none that we take.
        """
        _check(name, role)
        row = {"role": role, "password": None if password is None else _hashed(password)}
        with self._store.writing() as connection:
            changed = connection.execute(update(people).where(people.c.name == name).values(row))
            if changed.rowcount == 0:
                connection.execute(insert(people).values(name=name, added_at=now, **row))
            for table in (sessions, links):
                connection.execute(delete(table).where(table.c.name == name))

    def ensure(self, name: str, role: str, now: int) -> None:
        """Adds somebody unless he is there: he keeps what he has."""
        _check(name, role)
        with self._store.writing() as connection:
            if _role(connection, name) is None:
                row = {"name": name, "role": role, "password": None, "added_at": now}
                connection.execute(insert(people).values(row))

    def remove(self, name: str) -> None:
        """Lets somebody in no more: not by password, token, session or link.

        Raises:
            NotFound: There is no such person.
        """
        with self._store.writing() as connection:
            if connection.execute(delete(people).where(people.c.name == name)).rowcount == 0:
                raise _nobody(name)
            for table in (tokens, sessions, links):
                connection.execute(delete(table).where(table.c.name == name))

    def accounts(self) -> list[Account]:
        """All, by name."""
        with self._store.reading() as connection:
            rows = connection.execute(select(people).order_by(people.c.name)).all()
            held = connection.execute(select(tokens.c.name)).scalars().all()
        return [
            Account(
                row.name, row.role, row.password is not None, held.count(row.name), row.added_at
            )
            for row in rows
        ]

    def named(self, name: str) -> Person | None:
        """Somebody whom others vouch for, such as a proxy that signs people in."""
        with self._store.reading() as connection:
            role = _role(connection, name)
        return None if role is None else Person(name, role, scopes_of(role))

    def by_password(self, name: str, password: str) -> Person | None:
        """Whose password this is; it takes as long where there is no such person."""
        with self._store.reading() as connection:
            sought = select(people).where(people.c.name == name)
            row = connection.execute(sought).first() if NAME.fullmatch(name) else None
        known = None if row is None else row.password
        right = _verified(known or self._dummy(), password[: PASSWORD[1]])
        if row is None or known is None or not right:
            return None
        return Person(row.name, row.role, scopes_of(row.role))

    def new_token(self, name: str, scopes: Sequence[str], now: int) -> str:
        """A token for tools; it is told this once.

        Raises:
            NotFound: There is no such person.
            BadRecord: A scope is none, or more than the role may.
        """
        with self._store.writing() as connection:
            role = _role(connection, name)
            if role is None:
                raise _nobody(name)
            wrong = sorted(set(scopes) - scopes_of(role))
            if wrong or not scopes:
                allowed = ", ".join(each for each in SCOPES if each in scopes_of(role))
                reason = f"scopes {', '.join(wrong) or '(none)'}: a {role} may have {allowed}"
                raise BadRecord(reason)
            token = secrets.token_urlsafe(32)
            row = {"name": name, "scopes": " ".join(sorted(set(scopes))), "made_at": now}
            connection.execute(insert(tokens).values(hash=_digest(token), **row))
        return token

    def revoke_tokens(self, name: str) -> int:
        """Makes all tokens of somebody worthless; how many there were."""
        with self._store.writing() as connection:
            return connection.execute(delete(tokens).where(tokens.c.name == name)).rowcount

    def by_token(self, token: str) -> Person | None:
        """Whose token this is, with its scopes."""
        with self._store.reading() as connection:
            row = connection.execute(
                select(people.c.name, people.c.role, tokens.c.scopes)
                .join_from(tokens, people, tokens.c.name == people.c.name)
                .where(tokens.c.hash == _digest(token))
            ).first()
        if row is None:
            return None
        return Person(row.name, row.role, scopes_of(row.role) & frozenset(row.scopes.split()))

    def new_session(self, name: str, now: int) -> str:
        """A session's secret, for a cookie."""
        with self._store.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.until <= now))
            return _issue(connection, sessions, name, now + SESSION_S * 1000)

    def by_session(self, secret: str, now: int) -> Person | None:
        """Whose session this is, while it lasts."""
        with self._store.reading() as connection:
            row = connection.execute(
                select(people.c.name, people.c.role)
                .join_from(sessions, people, sessions.c.name == people.c.name)
                .where(sessions.c.hash == _digest(secret), sessions.c.until > now)
            ).first()
        return None if row is None else Person(row.name, row.role, scopes_of(row.role))

    def end_session(self, secret: str) -> None:
        """Signs out."""
        with self._store.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.hash == _digest(secret)))

    def new_link(self, name: str, now: int) -> str:
        """The secret of a link that signs somebody in, once.

        Raises:
            NotFound: There is no such person.
        """
        with self._store.writing() as connection:
            if _role(connection, name) is None:
                raise _nobody(name)
            return _issue(connection, links, name, now + LINK_S * 1000)

    def use_link(self, secret: str, now: int) -> Person | None:
        """Whom a link signs in; from now on, nobody."""
        with self._store.writing() as connection:
            whose = (links.c.hash == _digest(secret), links.c.until > now)
            name = connection.scalar(select(links.c.name).where(*whose))
            # Of two at once one deletes it, and he is in.
            if name is None or connection.execute(delete(links).where(*whose)).rowcount == 0:
                return None
            role = _role(connection, name)
        return None if role is None else Person(name, role, scopes_of(role))

    def _dummy(self) -> str:
        if self._nobody is None:
            self._nobody = _HASHER.hash(secrets.token_urlsafe(16))
        return self._nobody


def csrf_of(session: str) -> str:
    """What a form of a session has to bring along, which no other site can know."""
    return _digest(f"csrf:{session}")


def check_scopes(person: Person, wanted: Iterable[str]) -> None:
    """Refuses what somebody may not do.

    Raises:
        Conflict: In words.
    """
    for scope in wanted:
        if not person.may(scope):
            message = f"{person.name} ({person.role}) may not {scope}: ask an operator"
            raise Conflict(message)


def _check(name: str, role: str) -> None:
    if not NAME.fullmatch(name):
        reason = "a reviewer's name has up to 64 letters, digits and . _ @ + -, and no spaces"
        raise BadRecord(reason)
    if role not in ROLES:
        raise BadRecord(f"role {role!r} is none of {', '.join(ROLES)}")


def _issue(connection: Connection, table: Table, name: str, until: int) -> str:
    secret = secrets.token_urlsafe(32)
    connection.execute(insert(table).values(hash=_digest(secret), name=name, until=until))
    return secret


def _role(connection: Connection, name: str) -> str | None:
    return connection.scalar(select(people.c.role).where(people.c.name == name))


def _nobody(name: str) -> NotFound:
    return NotFound(f"no reviewer is called {name!r}: `counterpoint reviewers list` shows all")


def _digest(secret: str) -> str:
    """Enough for secrets that are random; passwords are not."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _hashed(password: str) -> str:
    least, most = PASSWORD
    if not least <= len(password) <= most:
        raise BadRecord(f"a password has {least} to {most:,} characters")
    return _HASHER.hash(password)


def _verified(known: str, password: str) -> bool:
    try:
        return _HASHER.verify(known, password)
    except (Argon2Error, InvalidHashError, UnicodeError):
        return False
