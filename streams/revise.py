"""The commands that change what was learned, or look back at it.  ``cli`` puts them into the group ``models``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streams.terminal import as_json, found, on_kafka, on_loop, print_json, print_table, say

if TYPE_CHECKING:
    from streams.corrections import Choice

F = TypeVar("F", bound=Callable[..., Any])
CHOICES = ("reviewer", "channel", "between", "feedback", "after")

on_model_key = click.option(
    "--model-key", metavar="KEY", help="Of this model, where there are several."
)


def choosing(command: F) -> F:
    """The options that say which sources are meant, and how it goes on record."""
    options = (
        click.option("--reviewer", metavar="NAME", help="Verdicts that this person gave."),
        click.option("--channel", metavar="NAME", help="Verdicts that came this way."),
        click.option(
            "--between", nargs=2, metavar="T1 T2", help="Verdicts that came then (ISO 8601, UTC)."
        ),
        click.option("--feedback", metavar="ID", help="This very verdict."),
        click.option("--after", type=int, metavar="VERSION", help="All learned after a version."),
        on_model_key,
        click.option("--why", default="", metavar="TEXT", help="The reason, for the record."),
        click.option("--who", metavar="NAME", help="Who asks; by default the user."),
        click.option("--dry-run", is_flag=True, help="Record nothing; tell what would change."),
        as_json,
        on_kafka,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _chosen(selectors: dict[str, Any]) -> Choice:
    from streams.corrections import Choice, time_of

    if all(selectors[name] is None for name in CHOICES):
        message = f"say which: {', '.join(f'--{name}' for name in CHOICES)}"
        raise click.UsageError(message)
    between = selectors.pop("between")
    if between is not None:
        between = tuple(map(time_of, between))
    return Choice(between=between, **selectors)


def _change(
    kind: str,
    loop: str,
    bootstrap: str | None,
    why: str,
    who: str | None,
    dry_run: bool,
    as_json: bool,
    selectors: dict[str, Any],
) -> None:
    from streams import corrections, show

    choice = _chosen(selectors)
    the_loop, settings = found(loop, bootstrap)
    if dry_run:
        with show.waiting("folding the log both ways"):
            effects = corrections.preview(the_loop, settings, kind, choice)
        if as_json:
            print_json([effect.as_json() for effect in effects])
        else:
            print_table(show.effects(effects))
        return
    with show.waiting("reading the log") as words:
        told = corrections.record(the_loop, settings, kind, choice, who=who, why=why, say=words)
    if as_json:
        print_json([each.as_json() for each in told])
        return
    for each in told:
        model = f" of model {each.model_key!r}" if each.model_key else ""
        state = "published" if each.published else "recorded: a learner that starts will do it"
        done = "taken out" if kind == "exclude" else "put back"
        say(f"{each.sources:,} sources{model} {done} as of version {each.version}; {state}")


@click.command("exclude")
@on_loop
@choosing
def exclude(
    loop: str,
    why: str,
    who: str | None,
    dry_run: bool,
    as_json: bool,
    bootstrap: str | None,
    **selectors: Any,
) -> None:
    """Take verdicts out of what was learned.

    Several options mean what all of them mean. The model becomes the one that never saw these verdicts, and --after VERSION is a rollback. Reads examples, writes one control record for each model there, and waits for the learner to publish the model.

    Example: counterpoint models exclude phishing --reviewer ann --why "she read the wrong column" --dry-run
    """
    _change("exclude", loop, bootstrap, why, who, dry_run, as_json, selectors)


@click.command("include")
@on_loop
@choosing
def include(
    loop: str,
    why: str,
    who: str | None,
    dry_run: bool,
    as_json: bool,
    bootstrap: str | None,
    **selectors: Any,
) -> None:
    """Put verdicts back that were taken out.

    Each is learned where it first stood. Reads examples, writes one control record for each model there, and waits for the learner to publish the model.

    Example: counterpoint models include phishing --reviewer ann
    """
    _change("include", loop, bootstrap, why, who, dry_run, as_json, selectors)


@click.command("affected")
@on_loop
@click.argument("first", type=int, metavar="FROM")
@click.argument("last", type=int, metavar="TO")
@on_model_key
@click.option("--review", is_flag=True, help="Ask people about them once more.")
@as_json
@on_kafka
def affected(
    loop: str,
    first: int,
    last: int,
    model_key: str | None,
    review: bool,
    as_json: bool,
    bootstrap: str | None,
) -> None:
    """List the predictions by the versions after FROM, up to TO.

    Reads predictions. --review writes reviews, for those on which a verdict still counts.

    Example: counterpoint models affected phishing 1200 1250 --review
    """
    from streams import show, versions

    the_loop, settings = found(loop, bootstrap)
    with show.waiting("reading the predictions"):
        told = versions.affected(the_loop, settings, first, last, model_key=model_key)
    if as_json:
        print_json([each.as_json() for each in told])
    elif told:
        print_table(show.affected(told))
    else:
        say("no prediction was made by these versions")
    if review:
        count = versions.review_again(the_loop, settings, told)
        say(f"asked for {count:,} reviews; of {len(told) - count:,} the window has passed")


@click.command("at")
@on_loop
@click.argument("version", type=int, metavar="VERSION")
@on_model_key
@click.option("--features", metavar="JSON", help="An event, for the model to answer.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file for the pickled River model.",
)
@as_json
@on_kafka
def at(
    loop: str,
    version: int,
    model_key: str | None,
    features: str | None,
    out: Path | None,
    as_json: bool,
    bootstrap: str | None,
) -> None:
    """Make the model of any version again.

    It is the model as it was then: without what was out at that version. Reads models and examples.

    Example: counterpoint models at phishing 1200 --out model.pkl
    """
    from streams import show, versions

    asked = None if features is None else versions.features_of(features)
    the_loop, settings = found(loop, bootstrap)
    with show.waiting(f"making version {version}"):
        made = versions.at(
            the_loop, settings, version, model_key=model_key, features=asked, out=out
        )
    if as_json:
        print_json(made.as_json())
    else:
        print_table(show.fields(made.as_json()))


COMMANDS = (exclude, include, affected, at)
