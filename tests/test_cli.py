from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from streams import terminal
from streams.cli import commands
from streams.core.errors import BadRecord, ConfigError, Mistake, StreamsError, Unavailable
from streams.supervisor import once_all

SHORT_HELP = 62  # what fits a line of a terminal of 80


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path), command
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from walk(sub, (*path, name))


COMMANDS = dict(walk(commands))


@pytest.fixture(params=COMMANDS, ids=lambda name: name or "(none)")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def counterpoint(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=60,
    )


def run(act: Callable[[], object]) -> int:
    """The exit code of a command that does just that."""

    @click.command()
    def command() -> None:
        act()

    return terminal.run(command, [])


def fail(error: BaseException) -> Callable[[], object]:
    def act() -> None:
        raise error

    return act


def test_all_commands_of_the_design_are_there() -> None:
    assert {
        *(
            "demo",
            "up",
            "run",
            "send",
            "feedback",
            "tail",
            "history",
            "status",
            "audit",
            "broker",
            "config",
        ),
        *("topics create", "topics list", "topics check", "topics delete"),
        *("dead-letters list", "dead-letters show", "dead-letters retry"),
        *("models list", "models show", "models seed", "models adopt"),
        *("models exclude", "models include", "models affected", "models at"),
    } <= COMMANDS.keys()


def test_every_command_says_in_one_sentence_what_it_does(name: str) -> None:
    first = (COMMANDS[name].help or "").split("\n\n")[0]
    assert re.fullmatch(r"[A-Z][^\n]*\.", first)
    assert name == "" or len(first) <= SHORT_HELP


def test_every_command_tells_what_it_touches_and_has_an_example_of_itself(name: str) -> None:
    paragraphs = (COMMANDS[name].help or "").split("\n\n")
    assert len(paragraphs) == 3
    example = paragraphs[-1].strip()
    assert example.startswith(f"Example: counterpoint {name}".rstrip())


def test_every_example_is_understood(name: str) -> None:
    example = (COMMANDS[name].help or "").rpartition("Example: counterpoint")[2]
    if "history.csv" in example or "events.csv" in example:
        example = re.sub(r"\w+\.csv", shlex.quote(__file__), example)
    args = shlex.split(example)
    command: click.Command = commands
    while isinstance(command, click.Group):
        command = command.commands[args.pop(0)]
    with click.Context(command, **terminal.HELP) as context:  # closes the files that it opened
        assert command.parse_args(context, args) == []


def test_every_command_answers_to_h(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.run(commands, [*name.split(), "-h"]) == 0
    assert "Usage: counterpoint" in capsys.readouterr().out


def test_every_option_has_a_help(name: str) -> None:
    options = [each for each in COMMANDS[name].params if isinstance(each, click.Option)]
    assert [each.name for each in options if not each.help] == []


def test_every_command_that_talks_to_kafka_can_be_told_which() -> None:
    without = {
        name
        for name, command in COMMANDS.items()
        if not isinstance(command, click.Group)
        and "bootstrap" not in {each.name for each in command.params}
    }
    assert {name for name in without if not name.startswith("reviewers ")} == {"broker"}


def test_help_is_there_before_anything_but_click_is_imported() -> None:
    """So it takes a tenth of a second; with River, Faust or rich it would take one or two."""
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from streams import cli, terminal\n"
        "code = terminal.run(cli.commands, ['--help'])\n"
        "imported = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "heavy = {'asyncio', 'concurrent', 'logging', 'multiprocessing', 'ssl', 'sqlite3'}\n"
        "light = (sys.stdlib_module_names - heavy) | {'click', 'streams'}\n"
        "sys.exit(code or ' '.join(imported - light) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: counterpoint")


def test_a_command_that_does_its_work_exits_with_0() -> None:
    assert run(lambda: None) == 0


def test_every_mistake_of_a_configuration_is_told_and_the_exit_code_is_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mistakes = [Mistake("name", "A b", "lower-case letters"), Mistake("partitions", 0, "1 or more")]
    assert run(fail(ConfigError(mistakes))) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "name = 'A b': lower-case letters",
        "partitions = 0: 1 or more",
    ]


@pytest.mark.parametrize("error", [Unavailable("no broker"), BadRecord("no broker")])
def test_other_errors_are_one_sentence_and_the_exit_code_is_1(
    error: StreamsError, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fail(error)) == 1
    assert capsys.readouterr().err == "no broker\n"


def test_a_file_that_cannot_be_written_is_named_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing" / "picture.png"
    assert run(missing.touch) == 1
    assert capsys.readouterr().err == f"{missing}: No such file or directory\n"


def test_an_error_that_nobody_foresaw_keeps_its_traceback() -> None:
    for error in (OSError("odd"), TimeoutError("late"), ValueError("wrong")):
        with pytest.raises(type(error)):
            run(fail(error))


def test_what_is_shown_ends_once_every_role_has_said_something() -> None:
    said: list[str] = []
    say = once_all(
        ["a", "b"], lambda: said.append("all"), lambda name, line: said.append(f"{name} {line}")
    )
    for name, line in [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("a", "3")]:
        say(name, line)
    assert said == ["a 1", "a 2", "all", "b 1", "b 2", "a 3"]


def test_an_interrupt_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.strip() == ""


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["demo"],
        ["run", "cook", "phishing"],
        ["tail", "phishing", "inputs", "--max", "0"],
        ["feedback", "phishing", "site-1"],
        ["feedback", "phishing", "site-1", "--accept", "--reject"],
        ["feedback", "phishing", "site-1", "--accept", "--label", "true"],
        ["dead-letters", "retry", "phishing"],
        ["dead-letters", "retry", "phishing", "0-1", "--all"],
        ["models", "adopt", "phishing"],
        ["send", "phishing", "/no/such/file.csv"],
    ],
)
def test_wrong_usage_exits_with_2_and_says_how_it_is_meant(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert terminal.run(commands, args) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Usage: counterpoint" in told.err


def test_a_loop_that_is_not_there_is_told_with_what_is() -> None:
    done = counterpoint("topics", "list", "fishing")
    assert (done.returncode, done.stdout) == (1, "")
    assert "phishing" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_loop_of_the_current_directory_is_found_and_listed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from river import linear_model\n"
        "from streams import Loop\n"
        "loop = Loop(name='payments', task='binary', model=linear_model.LogisticRegression())\n"
    )
    done = counterpoint("topics", "list", "app:loop", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "payments.predictions" in {topic["name"] for topic in json.loads(done.stdout)}


def test_all_mistakes_of_a_loop_are_told(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from streams import Loop\nloop = Loop(name='A b', task='cook', model=None)\n"
    )
    done = counterpoint("topics", "list", "app:loop", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(" = ")[0] for line in done.stderr.splitlines()] == ["name", "task", "model"]


def test_the_settings_are_printed_for_people_and_for_programs() -> None:
    plain = counterpoint("config", "--bootstrap", "127.0.0.1:1234")
    assert plain.returncode == 0
    assert "127.0.0.1:1234" in plain.stdout
    told = json.loads(counterpoint("config", "--json").stdout)
    assert all(setting["name"].startswith("COUNTERPOINT_") for setting in told)


def test_a_wrong_setting_exits_with_2() -> None:
    done = counterpoint("config", "--bootstrap", "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("COUNTERPOINT_BOOTSTRAP = 'nowhere':")
