"""What the README shows is what there is: its code runs, its commands are understood, its tables are the program's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from streams.cli import commands
from streams.config import Settings
from streams.core import topics
from streams.loop import Loop
from tests.conftest import Kafka
from tests.e2e.system import System

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = ROOT / "tests" / "examples"


def blocks(language: str) -> Iterator[str]:
    """The blocks of a language."""
    return (match[1] for match in re.finditer(rf"```{language}\n(.*?)```", README, re.DOTALL))


def lines() -> list[str]:
    """Every command that is shown."""
    shown = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return shown + re.findall(r"`(counterpoint [^`|]+)`", README)


@pytest.mark.parametrize("line", [line for line in lines() if line.startswith("make ")])
def test_each_make_target_that_is_shown_exists(line: str) -> None:
    dry = subprocess.run(
        ["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize("line", [line for line in lines() if line.startswith("counterpoint ")])
def test_each_command_that_is_shown_is_understood(line: str) -> None:
    arguments = [word for word in shlex.split(line)[1:] if word not in ("--help", "...")]
    command = []
    for word in arguments:
        if re.fullmatch(r"[a-z-]+", word) is None:
            break
        command.append(word)
    while command:
        told = CliRunner().invoke(commands, [*command, "--help"])
        if told.exit_code == 0:
            break
        command.pop()
    assert command or not arguments
    for option in (word for word in arguments if word.startswith("--")):
        assert option in told.output


def test_the_loop_that_is_shown_is_a_loop() -> None:
    shown = next(block for block in blocks("python") if "Loop(" in block)
    names: dict[str, object] = {}
    exec(compile(shown, "README.md", "exec"), names)  # noqa: S102  our own README
    loop = names["loop"]
    assert isinstance(loop, Loop)
    assert loop.inputs.topic == "payments.captured"


@pytest.mark.parametrize("name", ["producer", "reviewer", "consumer"])
def test_each_example_that_is_shown_is_the_one_that_is_run(name: str) -> None:
    assert (EXAMPLES / f"{name}.py").read_text().strip() in [
        block.strip() for block in blocks("python")
    ]


def test_the_examples_work_on_a_running_system(broker: Kafka, tmp_path: Path, unique: str) -> None:
    """The producer is answered, the reviewer teaches it, the consumer reads the answer with our schema alone."""
    source = """
    from river import linear_model, preprocessing
    from streams import Loop, Source

    loop = Loop(
        name={name!r},
        task="binary",
        model=preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        inputs=Source(features={{"amount": float, "hour": int}}),
        {more}
    )
    """
    with System(broker.bootstrap, tmp_path, source, unique) as system:
        system.prepare()
        system.start_all()

        def run(name: str, *arguments: str) -> str:
            done = subprocess.run(
                [sys.executable, str(EXAMPLES / f"{name}.py"), unique, *arguments],
                env=system.environ,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert run("producer").split()[-1] == "review"
        assert run("reviewer", "payment-1").startswith("learned ")
        assert run("consumer", "1", str(ROOT / "schemas")).startswith("payment-1 ")


def test_every_setting_is_in_the_table() -> None:
    for setting in Settings.from_env({}).fields():
        assert f"| `{setting.name}` |" in README
        assert setting.help in README


def test_every_topic_is_in_the_table() -> None:
    for suffix in topics.SUFFIXES:
        assert f"| `{suffix}` |" in README
