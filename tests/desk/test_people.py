"""Who may come in comes in, with what his role may do and no more; nobody else does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from streams.core.errors import BadRecord, NotFound
from streams.desk import accounts
from streams.desk.people import LINK_S, SESSION_S, People
from streams.desk.store import Store, open_store

PASSWORD = "correct horse"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty one."""
    opened = open_store(f"sqlite:///{tmp_path / 'desk.sqlite'}", "tests")
    yield opened
    opened.close()


@pytest.fixture
def people(store: Store) -> People:
    """Ann, who is a reviewer."""
    made = People(store)
    made.add("ann", "reviewer", 0, PASSWORD)
    return made


def test_a_password_lets_its_owner_in_and_nobody_else(people: People) -> None:
    came = people.by_password("ann", PASSWORD)
    assert came is not None
    assert (came.name, came.role, came.may("answer"), came.may("operate")) == (
        *("ann", "reviewer", True, False),
    )
    assert people.by_password("ann", PASSWORD + "x") is None
    assert people.by_password("bob", PASSWORD) is None
    for name, password in (("ann", "\ud800"), ("\ud800", PASSWORD), ("\x00", PASSWORD)):
        assert people.by_password(name, password) is None


def test_who_has_no_password_is_not_let_in_by_one(people: People) -> None:
    people.add("tool", "reviewer", 0)
    assert people.by_password("tool", "") is None


@pytest.mark.parametrize(
    ("name", "role", "password"),
    [
        ("", "reviewer", PASSWORD),
        ("ann b", "reviewer", PASSWORD),
        ("<script>", "reviewer", PASSWORD),
        ("bob", "king", PASSWORD),
        ("bob", "reviewer", "short"),
    ],
)
def test_what_is_no_account_is_refused_in_words(
    people: People, name: str, role: str, password: str
) -> None:
    with pytest.raises(BadRecord):
        people.add(name, role, 0, password)
    assert [account.name for account in people.accounts()] == ["ann"]


def test_a_token_may_do_what_it_was_made_for(people: People) -> None:
    reads = people.by_token(people.new_token("ann", ["read"], 0))
    assert reads is not None
    assert reads.may("read")
    assert not reads.may("answer")
    with pytest.raises(BadRecord, match="operate: a reviewer may have read, answer"):
        people.new_token("ann", ["operate"], 0)
    with pytest.raises(NotFound, match="reviewers list"):
        people.new_token("bob", ["read"], 0)


def test_a_role_taken_away_takes_its_scopes_from_tokens_too(people: People) -> None:
    people.add("olga", "operator", 0)
    token = people.new_token("olga", ["operate", "read"], 0)
    people.add("olga", "reviewer", 0)
    came = people.by_token(token)
    assert came is not None
    assert came.scopes == {"read"}


def test_a_session_lasts_until_it_ends(people: People) -> None:
    secret = people.new_session("ann", 0)
    assert people.by_session(secret, SESSION_S * 1000 - 1) is not None
    assert people.by_session(secret, SESSION_S * 1000) is None
    people.end_session(secret)
    assert people.by_session(secret, 0) is None


def test_a_new_password_ends_old_sessions_and_links(people: People) -> None:
    secret = people.new_session("ann", 0)
    link = people.new_link("ann", 0)
    people.add("ann", "senior", 1, "another one")
    assert people.by_session(secret, 1) is None
    assert people.use_link(link, 1) is None


def test_a_link_signs_in_once(people: People) -> None:
    secret, late = people.new_link("ann", 0), people.new_link("ann", 0)
    came = people.use_link(secret, 1)
    assert came is not None
    assert came.name == "ann"
    assert people.use_link(secret, 1) is None
    assert people.use_link(late, LINK_S * 1000) is None


def test_who_was_removed_is_out_by_every_door(people: People) -> None:
    token, session = people.new_token("ann", ["read"], 0), people.new_session("ann", 0)
    link = people.new_link("ann", 0)
    people.remove("ann")
    assert people.by_password("ann", PASSWORD) is None
    assert people.by_token(token) is None
    assert people.by_session(session, 0) is None
    assert people.use_link(link, 0) is None
    assert people.named("ann") is None
    with pytest.raises(NotFound):
        people.remove("ann")


def test_no_secret_is_stored(people: People, store: Store) -> None:
    made = [people.new_token("ann", ["read"], 0), people.new_session("ann", 0)]
    made += [people.new_link("ann", 0), PASSWORD]
    with store.reading() as connection:
        tables = (accounts.people, accounts.tokens, accounts.sessions, accounts.links)
        stored = repr([connection.execute(select(table)).all() for table in tables])
    assert not [secret for secret in made if secret in stored]
