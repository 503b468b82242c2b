"""The command line: each command reads its words, calls one function, and prints what it returns.

Whatever takes time to import is imported inside a command: ``counterpoint --help`` is to be there at once.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import ExitStack
from itertools import islice
from typing import Any

import click

from streams import administer, revise, terminal
from streams.core.errors import Unavailable
from streams.reviewers import reviewers
from streams.terminal import HELP, as_json, found, on_kafka, on_loop, print_json, print_table, say

ROLES = ("predictor", "joiner", "learner", "intake")
DESK = "desk"
WAIT_S = 30.0


class InOrder(click.Group):
    """Lists its commands as they were added: in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(context_settings=HELP, cls=InOrder)
@click.version_option(package_name="counterpoint")
def commands() -> None:
    """Predict on a Kafka stream, and learn each human verdict exactly once.

    LOOP is `module:attribute`, or the name of a demo: phishing, digits, trump. Data goes to stdout, messages to
    stderr. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

    Example: counterpoint demo phishing
    """


@commands.command()
@click.argument("name")
@click.option("--headless", is_flag=True, help="No live view.")
@as_json
@on_kafka
def demo(name: str, headless: bool, as_json: bool, bootstrap: str | None) -> int:
    """Watch a loop learn from reviewers, on real data.

    The reviewers are simulated. Starts a Kafka of its own unless told of one, and all roles; writes demo-NAME.png. In a terminal it is your turn
    then: the stream goes on, a link opens the desk, Ctrl-C ends it. Else it ends by itself.

    Example: counterpoint demo phishing
    """
    from streams.demos.run import run

    return run(name, bootstrap, headless=headless, as_json=as_json)


@commands.command()
@on_loop
@on_kafka
def up(loop: str, bootstrap: str | None) -> int:
    """Run all roles of a loop in this terminal.

    Creates the topics that are missing; the roles read and write the loop's topics, and what crashes is started
    again. Ctrl-C ends all.

    Example: counterpoint up phishing
    """
    from streams import operate, show
    from streams.supervisor import Supervisor, once_all, print_lines, workers

    the_loop, settings = found(loop, bootstrap)
    roles = [role for role in ROLES if role != "intake" or the_loop.labels] + [DESK]
    env = {**os.environ, "COUNTERPOINT_BOOTSTRAP": settings.bootstrap}
    with ExitStack() as shown:
        words = shown.enter_context(show.waiting("preparing the topics"))
        operate.prepare(the_loop, settings, say)
        words(f"starting {', '.join(roles)}")
        lines = once_all(roles, shown.close, print_lines(roles))
        return Supervisor(workers(loop, roles), env, say=lines).run()


@commands.command()
@click.argument("role", type=click.Choice([*ROLES, DESK]))
@on_loop
@click.option("--worker", metavar="NAME", help="Names its state and its place in the group.")
@click.option("--standby", is_flag=True, help="Joiner: keep copies of what others own.")
@click.option(
    "--rewind", is_flag=True, help="Go on where the group's offsets are, though they were set back."
)
@on_kafka
def run(
    role: str,
    loop: str,
    worker: str | None,
    standby: bool,
    rewind: bool,
    bootstrap: str | None,
) -> int:
    """Run one role of a loop in this process.

    Predictor: reads inputs and examples, writes predictions. Joiner: reads predictions and feedback, writes reviews,
    examples, outcomes. Learner: reads examples, writes models, scores, outcomes. Intake: label topics to feedback. Several processes of a
    role share the partitions. Desk: where people review, at COUNTERPOINT_DESK_PORT; reads all that is about predictions, writes feedback.

    Example: counterpoint run predictor phishing --worker predictor-1
    """
    from streams.bootstrap import run_role, settings

    if role == DESK and not standby:
        from streams.opening import run_desk

        return run_desk(loop, worker, settings(bootstrap))
    if standby and role != "joiner":
        message = "--standby is for the joiner: the other roles have nothing to copy"
        raise click.UsageError(message)
    return run_role(role, loop, worker, settings(bootstrap), standby=standby, rewind=rewind)


@commands.command()
@on_loop
@click.argument("file", type=click.File("rb"))
@click.option("--event-id", default="event_id", metavar="COLUMN", help="Where the event's id is.")
@on_kafka
def send(loop: str, file: Any, event_id: str, bootstrap: str | None) -> None:
    """Send the events of a file to a loop.

    Writes inputs. The file is CSV, JSON lines or Avro; - is stdin. In CSV, 12 is an integer, 1.5 a float, true a boolean, nothing is null, the rest is text; the columns
    text and occurred_at are the event's own, all others its features.

    Example: counterpoint send phishing events.csv --event-id url
    """
    from streams import operate, show

    the_loop, settings = found(loop, bootstrap)
    with show.reading(file) as (watched, tell):
        count = operate.send(the_loop, settings, watched, event_id, tell)
    say(f"sent {count:,} events")


@commands.command()
@on_loop
@click.argument("event_id", metavar="EVENT_ID")
@click.option("--label", help="The right answer.")
@click.option("--accept", is_flag=True, help="The prediction is right.")
@click.option("--reject", is_flag=True, help="The prediction is wrong.")
@click.option("--abstain", is_flag=True, help="Nobody can tell.")
@click.option("--retract", is_flag=True, help="What this reviewer said before is taken back.")
@click.option("--reviewer", metavar="NAME", help="Who says so.")
@click.option("--comment", metavar="TEXT", help="Why.")
@click.option("--wait", is_flag=True, help="Wait for what becomes of it, up to 30 s.")
@as_json
@on_kafka
def feedback(
    loop: str, event_id: str, wait: bool, as_json: bool, bootstrap: str | None, **verdict: Any
) -> None:
    """Give a verdict on an event.

    It is one of --label, --accept, --reject, --abstain, --retract. Writes feedback and prints its id; with --wait, reads outcomes and prints what became of it.

    Example: counterpoint feedback phishing site-0001 --label true --reviewer ann --wait
    """
    from streams import operate

    if [bool(verdict[kind]) for kind in ("accept", "reject", "abstain", "retract")].count(True) != (
        verdict["label"] is None
    ):
        message = "give one of --label, --accept, --reject, --abstain, --retract"
        raise click.UsageError(message)
    wait_s = WAIT_S if wait else 0
    told = operate.feedback(*found(loop, bootstrap), event_id, wait_s=wait_s, **verdict)
    if as_json:
        print_json(told)
    else:
        click.echo(" ".join(str(value) for value in told.values() if value is not None))


@commands.command()
@on_loop
@click.argument("topic")
@as_json
@click.option("--from-beginning", is_flag=True, help="What is there already, too.")
@click.option("--max", "most", type=click.IntRange(1), metavar="N", help="End after N records.")
@on_kafka
def tail(
    loop: str,
    topic: str,
    as_json: bool,
    from_beginning: bool,
    most: int | None,
    bootstrap: str | None,
) -> None:
    """Print the records of a topic as they come.

    Reads the topic, by its short name (inputs, predictions, outcomes, ...) or its full one, and decodes it; Ctrl-C ends it.

    Example: counterpoint tail phishing predictions --from-beginning --max 5
    """
    from streams import operate, show

    records = operate.tail(*found(loop, bootstrap), topic, from_beginning=from_beginning)
    for record in islice(records, most):
        if as_json:
            print_json(record.as_json())
        else:
            click.echo(show.line(record))


@commands.command()
@on_loop
@click.argument("event_id", metavar="EVENT_ID")
@as_json
@on_kafka
def history(loop: str, event_id: str, as_json: bool, bootstrap: str | None) -> None:
    """Tell the whole story of an event.

    Input, prediction and why, who said what and what became of it, the version that learned it, and what the model of
    today says: reads inputs, predictions, reviews, feedback, examples, outcomes, dead-letters and models.

    Example: counterpoint history phishing site-0001
    """
    from streams import show, trace

    with show.waiting(f"looking for {event_id}"):
        story = trace.history(*found(loop, bootstrap), event_id)
    if as_json:
        print_json(story.as_json())
    else:
        print_table(show.story(story))


@commands.command()
@on_loop
@as_json
@on_kafka
def status(loop: str, as_json: bool, bootstrap: str | None) -> None:
    """Show how the workers of a loop are.

    Lag, model versions, snapshots that are old or were refused, what waits and for how long, rates: reads status, and
    the ends of the topics that the roles read.

    Example: counterpoint status phishing
    """
    from streams import operate, show

    report = operate.status(*found(loop, bootstrap))
    if as_json:
        print_json(report.as_json())
    else:
        print_table(show.report(report))
        if report.models:
            print_table(show.models(report))
        click.echo(show.totals(report))
        if report.unread:
            say(show.unread(report))


@commands.command()
@on_loop
@click.option("--settled", is_flag=True, help="Nothing is under way: what is missing is lost.")
@as_json
@on_kafka
def audit(loop: str, settled: bool, as_json: bool, bootstrap: str | None) -> int:
    """Recount that nothing is lost, and all learned once.

    Reads all topics of the loop; the exit code is 1 when something is off.

    Example: counterpoint audit phishing
    """
    from streams import operate, show

    with show.progress() as progress:
        report = operate.audit(*found(loop, bootstrap), settled=settled, progress=progress)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report)
    return 0 if report.ok else terminal.FAILED


@commands.command()
@click.option("--port", type=click.IntRange(1, 65535), help="By default as last time, or free.")
def broker(port: int | None) -> None:
    """Run an Apache Kafka on this machine, for development.

    Downloads Kafka once, keeps its data in your user directories, listens on 127.0.0.1 alone. Prints where it listens;
    Ctrl-C ends it.

    Example: counterpoint broker --port 9092
    """
    from streams.config import Settings
    from streams.supervisor import signals_set

    ended, cache_dir = threading.Event(), Settings.from_env(os.environ).cache_dir
    with signals_set(ended), terminal.started(None, port, cache_dir) as running:
        click.echo(running.bootstrap)
        say(f"its log is {running.log}; Ctrl-C ends it")
        while not ended.wait(1.0):
            if running.pid is None:
                message = f"the broker ended by itself; see {running.log}"
                raise Unavailable(message)


@commands.command()
@as_json
@on_kafka
def config(as_json: bool, bootstrap: str | None) -> None:
    """Print all settings.

    Name, value, default, help: reads the environment variables that begin with COUNTERPOINT_.

    Example: counterpoint config
    """
    from streams import bootstrap as root
    from streams import show

    fields = list(root.settings(bootstrap).fields())
    if as_json:
        print_json([field._asdict() for field in fields])
    else:
        print_table(show.settings(fields))


for group in (
    administer.topics,
    administer.dead_letters,
    administer.models,
    administer.desk,
    reviewers,
):
    commands.add_command(group)
for command in revise.COMMANDS:
    administer.models.add_command(command)


def main() -> None:
    """Runs the command line of this process."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m`: a loop's module is looked for where one is
    sys.exit(terminal.run(commands, sys.argv[1:]))


if __name__ == "__main__":
    main()
