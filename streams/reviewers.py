"""The commands about who may come to a loop's desk: see ``cli``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from streams.terminal import as_json, found, on_loop, print_json, print_table, say

if TYPE_CHECKING:
    from streams.desk.people import People

ROLES = ("reviewer", "senior", "operator")
SCOPES = ("read", "answer", "operate")


@contextmanager
def _people(loop: str) -> Iterator[People]:
    """The accounts of a loop's desk; it may run meanwhile."""
    from streams.desk.people import People
    from streams.desk.store import open_store
    from streams.opening import desk_url

    the_loop, settings = found(loop, None)
    with closing(open_store(desk_url(the_loop, settings), the_loop.name)) as store:
        yield People(store)


@click.group()
def reviewers() -> None:
    """Add, list and remove the people who may come to the desk.

    Changes the desk's database; the desk may run meanwhile.

    Example: counterpoint reviewers add phishing ann
    """


@reviewers.command("add")
@on_loop
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default=ROLES[0], help="What he may do.")
@click.option("--no-password", is_flag=True, help="He comes by token, link or proxy alone.")
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from stdin, not the terminal."
)
def reviewers_add(loop: str, name: str, role: str, no_password: bool, password_stdin: bool) -> None:
    """Add a reviewer, or give him another role and password.

    Asks for the password. Who is signed in has to sign in again; tokens stay.

    Example: counterpoint reviewers add phishing ann --role senior
    """
    from streams.desk.board import now_ms

    password = None
    if password_stdin:
        password = click.get_text_stream("stdin").readline().rstrip("\r\n")
    elif not no_password:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    with _people(loop) as people:
        people.add(name, role, now_ms(), password)
    say(f"{name} is a {role}")


@reviewers.command("list")
@on_loop
@as_json
def reviewers_list(loop: str, as_json: bool) -> None:
    """List who may come to the desk.

    Reads the desk's database.

    Example: counterpoint reviewers list phishing
    """
    from dataclasses import asdict

    from streams import show

    with _people(loop) as people:
        accounts = people.accounts()
    if as_json:
        print_json([asdict(account) for account in accounts])
        return
    made = show.table("name", "role", "password", "tokens", "added", numbers=["tokens"])
    for each in accounts:
        has = "yes" if each.has_password else "no"
        show.row(made, each.name, each.role, has, str(each.tokens), show.time_of(each.added_at))
    print_table(made)


@reviewers.command("remove")
@on_loop
@click.argument("name")
def reviewers_remove(loop: str, name: str) -> None:
    """Let somebody in no more.

    Ends his sessions, tokens and links; what he said stays.

    Example: counterpoint reviewers remove phishing ann
    """
    with _people(loop) as people:
        people.remove(name)
    say(f"{name} is not let in any more")


@reviewers.command("token")
@on_loop
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="What it is good for; several may be given.",
    default=SCOPES[:2],
)
@click.option("--revoke", is_flag=True, help="Make all his tokens worthless instead.")
def reviewers_token(loop: str, name: str, scopes: tuple[str, ...], revoke: bool) -> None:
    """Make a token for a reviewer's tools.

    Prints it, this once: the desk keeps its hash alone.

    Example: counterpoint reviewers token phishing ann --scope read
    """
    from streams.desk.board import now_ms

    with _people(loop) as people:
        if revoke:
            say(f"{people.revoke_tokens(name)} tokens of {name} are worthless now")
        else:
            click.echo(people.new_token(name, scopes, now_ms()))


@reviewers.command("link")
@on_loop
@click.argument("name")
def reviewers_link(loop: str, name: str) -> None:
    """Make a link that signs a reviewer in, once.

    Prints it; it lasts a day.

    Example: counterpoint reviewers link phishing ann
    """
    from streams.opening import link

    click.echo(link(*found(loop, None), name))
