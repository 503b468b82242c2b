"""Who is added on the command line can come in, and who is removed cannot."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streams.cli import commands
from streams.desk.people import People
from streams.desk.store import open_store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The desk's database."""
    return f"sqlite:///{tmp_path / 'desk.sqlite'}"


def reviewers(url: str, command: str, *words: str, typed: str = "") -> Result:
    """What ``counterpoint reviewers`` does."""
    env = {"COUNTERPOINT_DESK_URL": url}
    return CliRunner().invoke(
        commands, ["reviewers", command, "phishing", *words], input=typed, env=env
    )


def test_who_is_added_can_come_in_until_he_is_removed(url: str) -> None:
    reviewers(url, "add", "ann", "--role", "senior", typed="correct horse\ncorrect horse\n")
    reviewers(url, "add", "bob", "--password-stdin", typed="another horse\n")
    reviewers(url, "add", "tool", "--no-password")
    token = reviewers(url, "token", "tool", "--scope", "read").output.strip()
    link = reviewers(url, "link", "ann").output.strip()
    listed = json.loads(reviewers(url, "list", "--json").output)
    assert [(each["name"], each["role"], each["tokens"]) for each in listed] == [
        *(("ann", "senior", 0), ("bob", "reviewer", 0), ("tool", "reviewer", 1)),
    ]
    with closing(open_store(url, "phishing")) as store:
        people = People(store)
        assert people.by_password("ann", "correct horse")
        assert people.by_password("bob", "another horse")
        assert people.by_token(token)
        assert reviewers(url, "remove", "ann").exit_code == 0
        assert people.by_password("ann", "correct horse") is None
        assert people.use_link(link.rpartition("/")[2], 0) is None


def test_what_cannot_be_is_told_in_words(url: str) -> None:
    assert "no spaces" in str(reviewers(url, "add", "a b", "--no-password").exception)
    assert "8 to 1,000" in str(
        reviewers(url, "add", "bob", "--password-stdin", typed="short\n").exception
    )
    assert "reviewers list" in str(reviewers(url, "remove", "nobody").exception)
    assert "reviewers list" in str(reviewers(url, "link", "nobody").exception)
