"""What all commands share: their common options, how they tell things, and how errors end them.

It imports nothing that takes time; see ``cli``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.core.errors import ConfigError, StreamsError

if TYPE_CHECKING:
    from rich.console import Console

    from streams.broker import Broker
    from streams.config import Settings
    from streams.loop import Loop

FAILED, USAGE, INTERRUPTED = 1, 2, 130
HELP: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 120,
    "show_default": True,
}
PIPE_WIDTH = 240

on_loop = click.argument("loop", metavar="LOOP")
as_json = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
on_kafka = click.option(
    "--bootstrap",
    metavar="HOST:PORT",
    envvar="COUNTERPOINT_BOOTSTRAP",
    show_envvar=True,
    help="Kafka servers to start from.",
)


def found(loop: str, bootstrap: str | None) -> tuple[Loop, Settings]:
    """The loop of that name, and the settings."""
    from streams.bootstrap import settings
    from streams.loop import load

    return load(loop), settings(bootstrap)


@contextmanager
def started(data_dir: Path | None, port: int | None, cache_dir: Path) -> Iterator[Broker]:
    """A Kafka of our own, with a spinner until it answers; the download that may come before has a bar of its own."""
    from streams import show
    from streams.broker import Broker
    from streams.jars import fetch, read_lock

    fetch(read_lock(), cache_dir / "jars")
    running = Broker(data_dir, port, cache_dir=cache_dir)
    with show.waiting("waiting for Apache Kafka"):
        running.start()
    with running:
        yield running


def say(message: str) -> None:
    """Tells a person; data goes to stdout, this to stderr."""
    click.echo(message, err=True)


def print_json(value: Any) -> None:
    """Prints a value for programs."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def print_table(table: Any) -> None:
    """Prints something of rich's for people."""
    console().print(table)


def console() -> Console:
    """Stdout as rich knows it; a pipe is wide enough for tables."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


def run(commands: click.Command, args: list[str]) -> int:
    """Runs a command line, tells its errors in words, and returns the exit code."""
    try:
        code = commands.main(args, prog_name="counterpoint", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except ConfigError as error:
        for mistake in error.mistakes:
            say(str(mistake))
        return USAGE
    except StreamsError as error:
        say(str(error))
        return FAILED
    except OSError as error:
        if (
            error.filename is None
        ):  # else it is about a file or folder of the user's, which it names
            raise
        say(f"{error.filename}: {error.strerror}")
        return FAILED
    return code if isinstance(code, int) else 0
