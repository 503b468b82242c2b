"""Runs a demo: a broker, the roles of a loop as processes, a stream of real data, reviewers, and an audit at the end."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeAlias

import click
from confluent_kafka import Message, TopicPartition
from rich.console import Console
from rich.live import Live

from streams import bootstrap as root
from streams import demos, operate
from streams.audit import Report as Recount
from streams.config import Settings
from streams.core.errors import Conflict, NotFound, Unavailable
from streams.core.events import (
    DeadLetter,
    Features,
    Feedback,
    Input,
    Label,
    Outcome,
    Prediction,
    Review,
    Score,
    Status,
)
from streams.core.topics import (
    DEAD_LETTERS,
    FEEDBACK,
    INPUTS,
    OUTCOMES,
    PREDICTIONS,
    REVIEWS,
    SCORES,
    STATUS,
    topics,
)
from streams.demos import view
from streams.demos.board import Board
from streams.demos.reviewers import Reviewers
from streams.demos.turn import your_turn
from streams.engine import reader
from streams.engine.producer import Outputs
from streams.loop import Loop, load
from streams.show import progress, waiting
from streams.supervisor import Supervisor, workers
from streams.terminal import FAILED, started

Event: TypeAlias = tuple[str, Features, Label]

ROLES = ("predictor", "joiner", "learner")
STREAM_S = 14.0
"""The inputs are spread over so long."""
START_S = 60.0
PATIENCE_S = 30.0
"""The demo gives up when nothing at all happens for so long."""
LINE_EVERY_S, FRAME_EVERY_S, TURN_EVERY_S = 2.0, 0.125, 0.5
WATCHED = (PREDICTIONS, REVIEWS, OUTCOMES, SCORES, STATUS, DEAD_LETTERS)


def run(name: str, bootstrap: str | None, *, headless: bool, as_json: bool) -> int:
    """Runs a demo to its end, and tells how it went.

    Returns:
        The exit code: 1 if the audit found something off.

    Raises:
        NotFound: There is no such demo.
        Conflict: The broker holds an earlier run.
        Unavailable: A role ended, or nothing went on.
    """
    if name not in demos.NAMES:
        message = f"no demo is called {name!r}; there are {', '.join(demos.NAMES)}"
        raise NotFound(message)
    loop, events = load(name), list(import_module(f"streams.demos.{name}").stream())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: all is closed
    with ExitStack() as stack:
        settings = stack.enter_context(_surroundings(bootstrap))
        _require_empty(loop, settings)
        with waiting("preparing the topics"):
            operate.prepare(loop, settings, _say)
        board = _play(loop, settings, events, _screen(headless, name))
        with progress() as bar:
            report = operate.audit(loop, settings, settled=True, progress=bar)
        code = conclude(board, report, name, bootstrap, as_json=as_json)
        if not (headless or as_json) and sys.stderr.isatty():
            with suppress(KeyboardInterrupt):
                your_turn(loop, settings, events, _pause, _invite)
    return code


def conclude(
    board: Board, report: Recount, name: str, bootstrap: str | None, *, as_json: bool
) -> int:
    """Draws the picture of a run into the current directory, tells how it went, and gives the exit code."""
    audit = "ok" if report.ok else "; ".join(map(str, report.findings))
    picture = Path(f"demo-{name}.png").absolute()
    view.draw(board, name, picture)
    _tell(board, name, audit, picture, bootstrap)
    if as_json:
        click.echo(json.dumps(result(board, audit)))
    return 0 if report.ok else FAILED


@contextmanager
def _surroundings(bootstrap: str | None) -> Iterator[Settings]:
    """The settings of a run whose data, on a broker of its own, and whose state are gone afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="counterpoint-demo-")))
        if bootstrap is None:
            _say("starting Apache Kafka (the first time it is downloaded, 46 MB)")
            broker = started(folder / "broker", None, root.settings().cache_dir)
            bootstrap = stack.enter_context(broker).bootstrap
        yield replace(root.settings(bootstrap), state_dir=folder / "state")
        gc.collect()  # clients in reference cycles would see the broker end, and complain


def _require_empty(loop: Loop, settings: Settings) -> None:
    client = operate.reach(settings)
    there = reader.patiently(lambda left_s: client.list_topics(timeout=left_s), "its topics").topics
    own = [spec.name for spec in topics(loop).values() if spec.name in there]
    if any(operate.ends(settings.kafka(), own).values()):
        message = (
            f"{settings.bootstrap} holds an earlier run of this loop: `counterpoint topics delete {loop.name} --yes "
            f"--bootstrap {settings.bootstrap}` makes room"
        )
        raise Conflict(message)


def _play(loop: Loop, settings: Settings, events: list[Event], screen: Screen) -> Board:
    """Streams the events through the roles until every verdict is learned; the roles have ended then."""
    env = {
        **os.environ,
        "COUNTERPOINT_BOOTSTRAP": settings.bootstrap,
        "COUNTERPOINT_STATE_DIR": str(settings.state_dir),
    }
    roles = Supervisor(workers(loop.name, ROLES), env, say=lambda name, line: None, pauses=())
    stage = Stage(loop, settings, events)
    try:
        with roles:
            _say(f"starting {', '.join(ROLES)}")
            with waiting("waiting for the roles") as words:
                stage.await_roles(roles, words)
            stage.play(roles, screen)
    finally:
        stage.close()
    return stage.board


class Stage:
    """The two ends of the loop: what sends events and verdicts, and what watches the topics."""

    def __init__(self, loop: Loop, settings: Settings, events: list[Event]) -> None:
        self.board = Board(len(events), "mae" if loop.task == "regression" else "accuracy")
        self._reviewers = Reviewers({event_id: truth for event_id, _, truth in events})
        self._events = events
        self._outputs = Outputs(settings.kafka())
        self._codec = root.codec(settings)
        names = {suffix: spec.name for suffix, spec in topics(loop).items()}
        self._inputs, self._feedback = names[INPUTS], names[FEEDBACK]
        self._encode_input = self._codec.encoder(Input, self._inputs)
        self._encode_feedback = self._codec.encoder(Feedback, self._feedback)
        self._consumer = reader.group_less(settings.kafka())
        found = operate.bounds(settings.kafka(), [names[suffix] for suffix in WATCHED])
        self._consumer.assign([TopicPartition(*tp, low) for tp, (low, _) in found.items()])

    def close(self) -> None:
        """Lets go of the broker."""
        self._consumer.close()

    def await_roles(self, roles: Supervisor, tell: Callable[[str], None]) -> None:
        """Waits until all roles run, and tells for which ones.

        Raises:
            Unavailable: A role ended, or is late.
        """
        deadline = monotonic() + START_S
        while late := [role for role in ROLES if role not in self.board.running]:
            tell(f"waiting for {', '.join(late)}")
            self._watch()
            _check(roles)
            if monotonic() > deadline:
                message = f"not ready within {START_S:g} s: {', '.join(late)}"
                raise Unavailable(message)

    def play(self, roles: Supervisor, screen: Screen) -> None:
        """Runs the whole stream.

        Raises:
            Unavailable: A role ended, or nothing went on.
        """
        with screen:
            began = last_news = monotonic()
            while not self.board.is_settled:
                now = monotonic()
                self._send_inputs(now - began)
                self._send_verdicts(now)
                if self._watch():
                    last_news = now
                screen.update(self.board, now)
                _check(roles)
                if now - last_news > PATIENCE_S:
                    message = f"nothing has happened for {PATIENCE_S:g} s; missing: {self.board.missing()}"
                    raise Unavailable(message)

    def _send_inputs(self, elapsed_s: float) -> None:
        due = min(int(elapsed_s / STREAM_S * len(self._events)) + 1, len(self._events))
        for event_id, features, _ in self._events[self.board.inputs : due]:
            value = self._encode_input(Input(event_id, features))
            self._outputs.send(self._inputs, value, event_id.encode())
            self.board.sent_input()
        self._outputs.poll()

    def _send_verdicts(self, now: float) -> None:
        for feedback in self._reviewers.answers(now):
            headers = [("feedback_id", feedback.feedback_id.encode())]
            value = self._encode_feedback(feedback)
            self._outputs.send(self._feedback, value, feedback.event_id.encode(), headers)
            self.board.sent_feedback(feedback.feedback_id, now)
        self._outputs.poll()

    def _watch(self) -> int:
        """Takes in what has come; returns how many records that were, heartbeats not counted."""
        seen = [self._saw(message) for message in self._consumer.consume(1_000, 0.005)]
        return sum(seen)

    def _saw(self, message: Message) -> bool:
        data = message.value()
        if message.error() is not None or data is None:
            return False
        now = monotonic()
        match self._codec.decode(data):
            case Prediction() as prediction:
                self.board.saw_prediction(prediction)
            case Review() as review:
                self._reviewers.ask(review, now)
            case Outcome() as outcome:
                self.board.saw_outcome(outcome, now)
            case Score() as score:
                self.board.saw_score(score)
            case DeadLetter() as letter:
                self.board.saw_dead_letter(letter)
            case Status() as status:
                self.board.saw_status(status, now)
                return False
        return True


def _check(roles: Supervisor) -> None:
    if roles.failure is not None:
        raise Unavailable(str(roles.failure))


class Screen:
    """Shows the board now and then, on stderr: a live view, or a line."""

    def __init__(self, name: str, live: Live | None) -> None:
        self._name, self._live = name, live
        self._every_s = LINE_EVERY_S if live is None else FRAME_EVERY_S
        self._shown = 0.0

    def __enter__(self) -> Screen:
        self._context: Any = self._live or nullcontext()
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def update(self, board: Board, now: float) -> None:
        """Shows the board, unless that was just done."""
        if now - self._shown < self._every_s:
            return
        self._shown = now
        if self._live is None:
            _say(view.line(board))
        else:
            self._live.update(view.frame(board, self._name, now), refresh=True)


def _screen(headless: bool, name: str) -> Screen:
    console = Console(stderr=True)
    if headless or not console.is_terminal:
        return Screen(name, None)
    return Screen(name, Live(console=console, auto_refresh=False))


class Result(NamedTuple):
    """How a run went, for programs."""

    inputs: int
    predictions: int
    feedback: int
    learned: int
    dead_letters: int
    accuracy: float | None
    accuracy_frozen: float | None
    model_version: int
    verdict_to_model_ms_p99: float | None
    audit: str
    duplicates: int


def result(board: Board, audit: str) -> Mapping[str, Any]:
    """The figures of a run by name; a regression has mae, mae_frozen and r2 in place of accuracies."""
    metrics, p99 = board.metrics, board.latency_ms(0.99)
    found = Result(
        inputs=board.inputs,
        predictions=len(board.predicted),
        feedback=board.feedback,
        learned=board.learned,
        dead_letters=board.dead_letters,
        accuracy=metrics.get("accuracy"),
        accuracy_frozen=metrics.get("accuracy.frozen"),
        model_version=board.version,
        verdict_to_model_ms_p99=None if p99 is None else round(p99, 1),
        audit=audit,
        duplicates=board.duplicates,
    )._asdict()
    if board.metric == "mae":
        names = {"mae": "mae", "mae_frozen": "mae.frozen", "r2": "r2"}
        found |= {name: metrics.get(metric) for name, metric in names.items()}
    return found


def _tell(board: Board, name: str, audit: str, picture: Path, bootstrap: str | None) -> None:
    console = Console(stderr=True, highlight=False)
    console.print()
    console.print(view.summary(board, audit, picture))
    console.print("\nWhat to try next:")
    for command, why in next_steps(name, bootstrap):
        console.print(f"  {command}  [dim]# {why}[/dim]", soft_wrap=True)


def next_steps(name: str, bootstrap: str | None) -> list[tuple[str, str]]:
    """Three commands, and what each is for."""
    other = next(each for each in demos.NAMES[1:] if each != name)
    if bootstrap is None:
        return [
            (f"counterpoint demo {other}", "the same on other data"),
            (
                "counterpoint broker --port 9092",
                "an Apache Kafka to keep; then, in a second terminal:",
            ),
            (f"counterpoint up {name}", "the roles on it, for as long as you like"),
        ]
    at = f"--bootstrap {bootstrap}"
    return [
        (
            f"counterpoint tail {name} outcomes --from-beginning --max 5 {at}",
            "what became of verdicts",
        ),
        (f"counterpoint models list {name} {at}", "the stored models"),
        (f"counterpoint audit {name} --settled {at}", "recount it all"),
    ]


def _pause() -> bool:
    """Half a second for the reader; only Ctrl-C ends it."""
    sleep(TURN_EVERY_S)
    return False


def _invite(link: str) -> None:
    _say(
        "\nYour turn: the stream goes on, and you are the reviewer. Open this link, which works once:"
    )
    _say(f"  {link}")
    _say("Ctrl-C ends it.")


def _say(message: str) -> None:
    click.echo(message, err=True)
