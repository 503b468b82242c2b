"""The commands about what a loop leaves behind: its topics, dead letters and stored models; see ``cli``."""

from __future__ import annotations

from pathlib import Path

import click

from streams.terminal import as_json, found, on_kafka, on_loop, print_json, print_table, say


@click.group()
def topics() -> None:
    """Create, list, check and delete the topics of a loop.

    Reads and changes the broker's metadata.

    Example: counterpoint topics check phishing
    """


@topics.command("create")
@on_loop
@on_kafka
def topics_create(loop: str, bootstrap: str | None) -> None:
    """Create the topics of a loop that are missing.

    Writes the first definition of the model to examples; leaves topics that are there as they are.

    Example: counterpoint topics create phishing
    """
    from streams import operate, show

    with show.waiting("preparing the topics"):
        operate.prepare(*found(loop, bootstrap), say)
    say("all topics are there")


@topics.command("list")
@on_loop
@as_json
@on_kafka
def topics_list(loop: str, as_json: bool, bootstrap: str | None) -> None:
    """List the topics of a loop as they are to be.

    Reads the loop and the settings, not the broker.

    Example: counterpoint topics list phishing
    """
    from streams import operate, show

    specs = operate.specs(*found(loop, bootstrap))
    if as_json:
        print_json([spec._asdict() for spec in specs])
    else:
        print_table(show.specs(specs))


@topics.command("check")
@on_loop
@on_kafka
def topics_check(loop: str, bootstrap: str | None) -> None:
    """Check that the topics of a loop are as they are to be.

    Tells what a lost disk would take to rebuild. Reads the broker's metadata; what is off is told with its mending, and the exit code is 2 then.

    Example: counterpoint topics check phishing
    """
    from streams import operate

    the_loop, settings = found(loop, bootstrap)
    operate.check(the_loop, settings)
    click.echo(operate.rebuild(the_loop, settings))


@topics.command("delete")
@on_loop
@click.confirmation_option(prompt="Delete the loop's topics, and all that was learned?")
@on_kafka
def topics_delete(loop: str, bootstrap: str | None) -> None:
    """Delete the topics of a loop, with all that is on them.

    Leaves your own topics alone: inputs and labels that the loop only reads.

    Example: counterpoint topics delete phishing --yes
    """
    from streams import operate

    for name in operate.delete(*found(loop, bootstrap)):
        say(f"deleted {name}")


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show and retry records that could not be used.

    Reads dead-letters; retry writes to where a record came from.

    Example: counterpoint dead-letters list phishing
    """


@dead_letters.command("list")
@on_loop
@as_json
@on_kafka
def dead_letters_list(loop: str, as_json: bool, bootstrap: str | None) -> None:
    """List the dead letters of a loop, newest first.

    Reads dead-letters.

    Example: counterpoint dead-letters list phishing
    """
    from streams import operate, show

    letters = operate.dead_letters(*found(loop, bootstrap))
    if as_json:
        print_json([letter.as_json() for letter in letters])
    elif letters:
        print_table(show.letters(letters))
    else:
        say("no dead letters")


@dead_letters.command("show")
@on_loop
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@as_json
@on_kafka
def dead_letters_show(
    loop: str, ids: tuple[str, ...], as_json: bool, bootstrap: str | None
) -> None:
    """Show dead letters whole, with their original bytes.

    Reads dead-letters; ID is what `dead-letters list` shows.

    Example: counterpoint dead-letters show phishing 0-17
    """
    from streams import operate, show

    for letter in operate.dead_letters(*found(loop, bootstrap), ids):
        if as_json:
            print_json(letter.as_json())
        else:
            print_table(show.fields(letter.as_json()))


@dead_letters.command("retry")
@on_loop
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that can be sent again.")
@on_kafka
def dead_letters_retry(
    loop: str, ids: tuple[str, ...], everything: bool, bootstrap: str | None
) -> None:
    """Send the records in dead letters again, as they were.

    Writes to where each came from: the original bytes, key and headers, with the header retry-of, and a note to dead-letters.

    Example: counterpoint dead-letters retry phishing 0-17
    """
    from streams import operate

    if bool(ids) == everything:
        message = "give the ids of dead letters, or --all"
        raise click.UsageError(message)
    for letter in operate.retry(*found(loop, bootstrap), ids):
        say(f"sent {letter.id} to {letter.letter.topic} again")


@click.group()
def models() -> None:
    """List, show, seed, adopt and repair the models of a loop.

    Reads models and examples; seed, adopt, exclude and include write examples.

    Example: counterpoint models list phishing
    """


@models.command("list")
@on_loop
@as_json
@on_kafka
def models_list(loop: str, as_json: bool, bootstrap: str | None) -> None:
    """List the stored models of a loop.

    Reads models.

    Example: counterpoint models list phishing
    """
    from streams import operate, show

    snapshots = operate.models(*found(loop, bootstrap))
    if as_json:
        print_json([show.jsonable(snapshot) for snapshot in snapshots])
    elif snapshots:
        print_table(show.snapshots(snapshots))
    else:
        say("no model is stored yet: the learner stores the first one soon after it learned")


@models.command("show")
@on_loop
@click.argument("snapshot_id", metavar="SNAPSHOT")
@as_json
@on_kafka
def models_show(loop: str, snapshot_id: str, as_json: bool, bootstrap: str | None) -> None:
    """Show one stored model: version, metrics, what is out of it.

    Reads models and examples; SNAPSHOT is an id of `models list`, or its beginning.

    Example: counterpoint models show phishing 3f2a
    """
    from streams import operate, show, versions

    the_loop, settings = found(loop, bootstrap)
    stored = operate.snapshot(the_loop, settings, snapshot_id)
    told = {**show.jsonable(stored), **versions.told(the_loop, settings, stored)}
    if as_json:
        print_json(told)
    else:
        print_table(show.fields(told))


@models.command("seed")
@on_loop
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@on_kafka
def models_seed(loop: str, file: Path, bootstrap: str | None) -> None:
    """Start a loop from labelled history, or a trained model.

    FILE is CSV, JSON lines or Avro with the right answers in the column label, or a pickled River model. Writes examples. History may come at any time, and what was seeded before teaches nothing again; a trained model can only be the beginning.

    Example: counterpoint models seed phishing history.csv
    """
    from streams import bootstrap as root
    from streams import show

    with show.waiting(f"seeding from {file.name}"):
        count = root.seed(*found(loop, bootstrap), file)
    say(f"seeded with {count:,} lessons" if count else "seeded with the trained model")


@models.command("adopt")
@on_loop
@click.option("--refold", "mode", flag_value="refold", help="Learn the whole log anew.")
@click.option("--continue", "mode", flag_value="continue", help="Go on from the last model.")
@click.option("--fresh", "mode", flag_value="fresh", help="Forget what was learned.")
@click.option("--why", default="", metavar="TEXT", help="The reason, for the record.")
@on_kafka
def models_adopt(loop: str, mode: str | None, why: str, bootstrap: str | None) -> None:
    """Make a changed model, or another River, the loop's.

    It is one of --refold, --continue, --fresh. Writes a definition to examples; the roles take it when they start again.

    Example: counterpoint models adopt phishing --refold --why "a larger learning rate"
    """
    from streams import operate, show

    if mode is None:
        message = "give one of --refold, --continue, --fresh"
        raise click.UsageError(message)
    with show.waiting("adopting the model"):
        operate.adopt(*found(loop, bootstrap), mode, why)
    say("adopted; start the roles again")


@click.group()
def desk() -> None:
    """Look after the desk where people review.

    Reads the loop's topics, and changes the desk's database.

    Example: counterpoint desk rebuild phishing
    """


@desk.command("rebuild")
@on_loop
@on_kafka
def desk_rebuild(loop: str, bootstrap: str | None) -> None:
    """Make what the desk shows anew from the topics.

    Stop the desk first. Accounts, leases, what was postponed and verdicts under way stay as they are.

    Example: counterpoint desk rebuild phishing
    """
    from streams import opening, show

    with show.waiting("reading the topics"):
        count = opening.rebuild(*found(loop, bootstrap))
    say(f"{count:,} records taken in")
