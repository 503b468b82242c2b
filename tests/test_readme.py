"""What the README shows is what there is: its code runs, its commands are understood, its tables are the program's."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streams.broker import Broker
from streams.cli import commands
from streams.config import Settings
from streams.core import topics
from streams.core.experience import Experience
from streams.core.topics import TopicSpec
from streams.engine import admin
from streams.engine.codec import Codec
from streams.engine.producer import Outputs
from streams.loop import Loop
from tests.conftest import Kafka
from tests.e2e.system import System, Topic, await_that

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


@pytest.mark.parametrize(("alt", "path"), re.findall(r"!\[(.*?)\]\((.*?)\)", README))
def test_each_picture_that_is_shown_is_there_small_and_told_in_words(alt: str, path: str) -> None:
    picture = ROOT / path
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000
    assert len(alt) > 20


def test_the_loop_that_is_shown_is_a_loop() -> None:
    shown = next(block for block in blocks("python") if "Loop(" in block)
    names: dict[str, object] = {}
    exec(compile(shown, "README.md", "exec"), names)  # noqa: S102  our own README
    loop = names["loop"]
    assert isinstance(loop, Loop)
    assert loop.inputs.topic == "payments.captured"


def test_the_policy_that_is_shown_asks_about_what_it_says() -> None:
    shown = next(block for block in blocks("python") if "review.ColdStart" in block)
    names: dict[str, Any] = {}
    exec(compile(shown, "README.md", "exec"), names)  # noqa: S102  our own README
    policy, knows = names["policy"], Experience()
    assert policy.mistakes() == []
    knows.lessons, knows.taught = 1_000, {"True": 500, "False": 500}
    route = policy.router()
    scores = {"True": 0.99, "False": 0.01}
    decided = [
        route(f"p-{n}", True, scores, 0.99, {"amount": 20_000.0 * (n == 99)}, knows)
        for n in range(100)
    ]
    assert sum(asked.route == "review" for asked in decided[40:90]) < 10
    assert "a large amount" in decided[-1].reason


SECONDS_TO_START = 60.0
PAYMENT = b'{"payment_id": "p-1", "amount": 129.9, "hour": 3}'
CHARGEBACK = b'{"payment_id": "p-1", "status": "lost"}'


class Shown:
    """What is shown, in a folder where somebody has followed the README, on a Kafka with that person's topics."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        (folder / "app.py").write_text(
            next(block for block in blocks("python") if "Loop(" in block)
        )
        self._folder = folder
        self._log = folder / "up.log"
        self._environ = {
            **os.environ,
            "COUNTERPOINT_BOOTSTRAP": bootstrap,
            "COUNTERPOINT_STATE_DIR": str(folder / "state"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def run(self, line: str) -> str:
        """Types a line, and gives what it printed and said."""
        done = subprocess.run(
            shlex.split(line), env=self._environ, cwd=self._folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def running(self, line: str, roles: int) -> Iterator[None]:
        """Types a line in a second terminal, and Ctrl-C at the end."""
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                shlex.split(line), env=self._environ, cwd=self._folder, stdout=log, stderr=log
            )
        try:
            await_that(
                lambda: self._log.read_text().count("worker assigned") >= roles, SECONDS_TO_START
            )
            yield
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(30)
        assert code == 0, self._log.read_text()


def test_the_commands_for_the_loop_that_is_shown_do_what_they_say(tmp_path: Path) -> None:
    """A payment is predicted, its chargeback is learned, and the audit finds both."""
    shown = next(block.splitlines() for block in blocks("sh") if "up app:loop" in block)
    create, up, status, audit, history = shown
    with Broker(tmp_path / "broker") as broker:
        kafka = {"bootstrap.servers": broker.bootstrap}
        theirs = [TopicSpec("payments.captured", 4, {}), TopicSpec("chargebacks", 1, {})]
        admin.create(admin.connect(kafka), theirs, 1)
        outputs = Outputs(kafka)
        outputs.send("payments.captured", PAYMENT, b"p-1")
        outputs.send("chargebacks", CHARGEBACK, b"p-1")
        outputs.flush()
        typed = Shown(tmp_path, broker.bootstrap)
        assert "created payments.predictions" in typed.run(create)
        with typed.running(up, roles=4):

            def read() -> str | None:
                """What status tells, once the first heartbeats tell what is read."""
                told = typed.run(status)
                return None if "nobody reads" in told else told

            told = await_that(read, SECONDS_TO_START)
            for role in ("predictor", "joiner", "learner", "intake"):
                assert re.search(rf"^{role} +{role}-1 +running", told, re.M)
            outcomes = Topic(kafka, "payments.outcomes", Codec())
            (outcome,) = await_that(outcomes.seen)
            outcomes.close()
            assert (outcome.record.event_id, outcome.record.status) == ("p-1", "learned")
            told = typed.run(audit)
            assert re.search(r"^inputs +1\n(.*\n)*learned +1\n(.*\n)*ok: nothing lost", told)
            take_back(typed)
            told, story = typed.run(audit), typed.run(history)
        assert re.search(r"^inputs +1\n(.*\n)*learned +2\n(.*\n)*ok: nothing lost", told)
        assert re.search(r"explanation +linear, by the prediction: logit", story)
        assert "why it failed" in story
        told_of = ("prediction", "feedback", "example", "outcome", "exclude", "include")
        for what in ("input +payments.captured-", *told_of):
            assert re.search(rf"^[\d-]+ [\d:.]+ +{what}", story, re.M)


def take_back(typed: Shown) -> None:
    """Types what is shown about verdicts that are taken back."""
    shown = next(block.splitlines() for block in blocks("sh") if "--retract" in block)
    wrong, back, dry, exclude, include, at, affected = shown
    assert " learned " in typed.run(wrong)
    assert " retracted " in typed.run(back)
    assert re.search(r"1 +2 → 1|1 +1 → 0", typed.run(dry))
    assert "1 sources taken out as of version" in typed.run(exclude)
    assert "1 sources put back as of version" in typed.run(include)
    assert re.search(r"^answer +.*label", typed.run(at), re.M)
    assert "no prediction was made by these versions" in typed.run(affected)


@pytest.mark.parametrize("name", ["producer", "reviewer", "consumer", "tool"])
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
