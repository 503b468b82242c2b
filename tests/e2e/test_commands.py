"""Every command as people type it, on one loop that ``counterpoint up`` runs for all of these tests."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import pytest
from confluent_kafka.admin import AdminClient

from streams import terminal
from streams.cli import commands
from streams.core.events import DeadLetter, Feedback, Prediction, Snapshot, Status
from tests.conftest import Kafka
from tests.e2e.system import System, await_that

FAILED = 1
ROLES = ("predictor", "joiner", "learner")
UNSEEDED = """
from river import ensemble, linear_model, preprocessing
from streams import Loop

loop = Loop(
    name={name!r},
    task="binary",
    model=preprocessing.StandardScaler()
    | ensemble.BaggingClassifier(linear_model.LogisticRegression(), n_models=2),
    partitions=2,
    {more}
)
"""
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
SEEDED = re.compile(
    r"model\.BaggingClassifier\.seed = \d+ was not set: it is derived from the loop's name"
)


@pytest.fixture(scope="module")
def system(broker: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A loop that ``up`` runs; nobody has made its topics before."""
    folder = tmp_path_factory.mktemp("commands")
    name = f"commands-{os.getpid()}"
    with System(broker.bootstrap, folder, UNSEEDED, name, snapshot_interval_s=0.5) as made:
        made.run("up", [sys.executable, "-m", "streams.cli", "up", made.reference])
        await_that(lambda: made.log("up").count("counterpoint.worker assigned") == 3, 60.0)
        yield made


class Typed(NamedTuple):
    """What became of a command."""

    code: int
    out: str
    err: str


class Here:
    """Runs commands in this process, which has imported everything already."""

    def __init__(self, system: System, capsys: pytest.CaptureFixture[str]) -> None:
        self._system, self._capsys = system, capsys

    def __call__(self, command: str, *args: str) -> Typed:
        """Runs a command on the loop."""
        code = terminal.run(commands, [*command.split(), self._system.reference, *args])
        return Typed(code, *self._capsys.readouterr())

    def json(self, command: str, *args: str) -> Any:
        """What a command that succeeds prints for programs."""
        code, out, err = self(command, *args, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def here(
    system: System, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Here:
    """The environment of the system's processes, for this one."""
    for name, value in system.environ.items():
        if name.startswith("COUNTERPOINT_"):
            monkeypatch.setenv(name, value)
    return Here(system, capsys)


def typed(system: System, *commands: str, stdin: str = "") -> list[Typed]:
    """Runs commands, each as a process of its own, at the same time; LOOP stands for the loop."""

    def run(command: str) -> Typed:
        argv = [system.reference if word == "LOOP" else word for word in shlex.split(command)]
        done = system.command(*argv, stdin=stdin)
        return Typed(done.returncode, done.stdout, done.stderr)

    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(run, commands))


def output(system: System, *commands: str) -> list[str]:
    """What commands that succeed print, each as a process of its own."""
    found = typed(system, *commands)
    assert [(each.code, each.err) for each in found] == [(0, "")] * len(found), found
    return [each.out for each in found]


def predicted(system: System, *ids: str) -> None:
    """Sends events, and waits for their predictions."""
    system.send_inputs(ids)
    system.await_ids("predictions", ids)


def avro(*ids: str) -> bytes:
    fields = [{"name": "event_id", "type": "string"}, {"name": "a", "type": "double"}]
    schema = {"type": "record", "name": "Event", "fields": fields}
    file = io.BytesIO()
    fastavro.writer(file, schema, [{"event_id": each, "a": 0.5} for each in ids])
    return file.getvalue()


# Up, and its topics --------------------------------------------------------------------------------------------------


def test_up_makes_the_topics_runs_all_roles_and_says_so(system: System) -> None:
    told = system.log("up").splitlines()
    assert SEEDED.fullmatch(told[0])
    assert f"created {system.topic('inputs')}" in told
    for role in ROLES:
        assert any(line.startswith(role) and "worker assigned" in line for line in told)


def test_the_topics_are_created_and_listed(system: System, here: Here) -> None:
    create, list_ = typed(system, "topics create LOOP", "topics list LOOP")
    assert (create.code, create.out) == (0, "")
    seed, done = create.err.splitlines()
    assert SEEDED.fullmatch(seed)
    assert done == "all topics are there"
    assert (list_.code, list_.err) == (0, "")
    assert re.search(rf"{system.topic('inputs')} +2 +delete +7 days", list_.out)
    by_name = {spec["name"]: spec for spec in here.json("topics list")}
    assert by_name[system.topic("examples")]["partitions"] == 1
    assert by_name[system.topic("status")]["config"]["cleanup.policy"] == "compact"


# Events and verdicts -------------------------------------------------------------------------------------------------


def test_events_are_sent_from_every_kind_of_file_and_from_a_pipe(system: System) -> None:
    files = {
        "events.csv": b"event_id,a\ncsv-1,0.5\ncsv-2,1.5\n",
        "events.jsonl": b'{"event_id": "json-1", "a": 0.5}\n',
        "events.avro": avro("avro-1", "avro-2", "avro-3"),
    }
    for name, content in files.items():
        (system.folder / name).write_bytes(content)
    sent = typed(
        system,
        *(f"send LOOP {name}" for name in files),
        "send LOOP - --event-id url",
        stdin="url,a\npipe-1,0.5\npipe-2,0.5\npipe-3,0.5\npipe-4,0.5\n",
    )
    assert sent == [(0, "", f"sent {count} events\n") for count in (2, 1, 3, 4)]
    counts = {"csv": 2, "json": 1, "avro": 3, "pipe": 4}
    ids = [f"{kind}-{n + 1}" for kind, count in counts.items() for n in range(count)]
    system.await_ids("predictions", ids)


def test_events_from_a_pipe_are_sent_as_they_come(system: System) -> None:
    argv = [sys.executable, "-m", "streams.cli", "send", system.reference, "-"]
    pipe = subprocess.PIPE
    sends = subprocess.Popen(
        argv, env=system.environ, cwd=system.folder, stdin=pipe, stderr=pipe, text=True
    )
    assert sends.stdin is not None
    for event_id in ("first-1", "next-1"):
        sends.stdin.write(f'{{"event_id": "{event_id}", "a": 0.5}}\n')
        sends.stdin.flush()
        system.await_ids("predictions", [event_id])
    _, err = sends.communicate(timeout=30)
    assert (sends.returncode, err) == (0, "sent 2 events\n")


def test_a_row_that_cannot_be_sent_ends_it_with_its_line(system: System, here: Here) -> None:
    file = system.folder / "broken.csv"
    file.write_text("event_id,a\nbroken-1,0.5\nbroken-2\n")
    code, out, err = here("send", str(file))
    assert (code, out) == (FAILED, "")
    assert err == "line 3: 1 cells, but 2 columns; the 1 events before it were sent\n"
    system.await_ids("predictions", ["broken-1"])


def test_a_verdict_is_waited_for_until_it_is_learned(system: System) -> None:
    predicted(system, "judged-1")
    (out,) = output(system, "feedback LOOP judged-1 --label true --reviewer ann --wait")
    feedback_id, status, version = out.split()
    assert (status, int(version) > 0) == ("learned", True)
    given = {each.feedback_id: each for each in system.records("feedback", Feedback)}[feedback_id]
    assert (given.event_id, given.label, given.reviewer) == ("judged-1", True, "ann")


def test_verdicts_are_told_to_programs_too(system: System, here: Here) -> None:
    predicted(system, "judged-2")
    told = here.json("feedback", "judged-2", "--abstain", "--comment", "who knows", "--wait")
    assert told.keys() == {"feedback_id", "status", "detail", "model_version"}
    assert told["status"] == "abstained"
    assert here.json("feedback", "judged-2", "--accept").keys() == {"feedback_id"}
    code, out, err = here("feedback", "judged-2", "--label", "perhaps")
    assert (code, out) == (FAILED, "")
    assert err == f"{system.name} has no label 'perhaps'; it has False, True\n"


# What there is to see ------------------------------------------------------------------------------------------------


def test_a_topic_is_printed_as_it_comes(system: System, here: Here) -> None:
    predicted(system, "tailed-1")
    (out,) = output(system, "tail LOOP predictions --from-beginning --max 1")
    assert re.fullmatch(r"\d{4}-\S+ \S+ \d-0 \S+ Prediction event_id=.* model_version=\d.*\n", out)
    told = here.json("tail", "predictions", "--from-beginning", "--max", "1")
    assert (told["topic"], told["offset"]) == (system.topic("predictions"), 0)
    assert told["fields"]["features"]
    code, out, err = here("tail", "nonsense")
    assert (code, out) == (FAILED, "")
    assert "has no topic 'nonsense'; it has inputs, predictions, " in err


def pending(system: System) -> int:
    """Predictions that wait for a verdict, by counting."""
    answered = {each.event_id for each in system.records("feedback", Feedback)}
    asked = {each.event_id for each in system.records("predictions", Prediction)}
    return len(asked - answered)


def test_the_status_tells_of_every_role_and_the_check_what_a_lost_disk_would_take(
    system: System, here: Here
) -> None:
    predicted(system, "waits-1", "waits-2")

    def told() -> bool:
        status = system.status("joiner-1")
        return status is not None and status.numbers["pending"] == pending(system)

    await_that(told, what="the joiner counts what waits")
    count = len(system.seen("predictions")) + len(system.seen("feedback"))
    out, check = output(system, "status LOOP", "topics check LOOP")
    assert check.startswith(
        f"a joiner that lost its disk would read {count} predictions and feedback again, in about 1 s;"
    )
    for role in ROLES:
        assert re.search(rf"^{role} +{role}-1 +running +{system.name}\.\S+-0 +\d+ ", out, re.M)
    assert re.search(rf"^joiner .* {pending(system)}\b", out, re.M)
    found = here.json("status")
    by_role = {worker["role"]: worker for worker in found["workers"]}
    assert (found["loop"], found["unread"]) == (system.name, [])
    assert by_role.keys() == {*ROLES, "desk"}
    assert by_role["joiner"]["numbers"]["pending"] == pending(system) >= 2
    assert by_role["predictor"]["versions"].keys() == {""}
    assert {each["topic"] for each in by_role["learner"]["partitions"]} == {
        system.topic("examples")
    }


def test_the_models_are_listed_and_shown(system: System, here: Here) -> None:
    predicted(system, "stored-1")
    assert here.json("feedback", "stored-1", "--label", "true", "--wait")["status"] == "learned"
    await_that(lambda: system.records("models", Snapshot), what="a stored model")
    newest = here.json("models list")[0]
    beginning = newest["snapshot_id"][:12]
    list_, out = output(system, "models list LOOP", f"models show LOOP {beginning}")
    assert newest["snapshot_id"] in list_
    assert re.search(rf"^version +{newest['version']}\b", out, re.M)
    assert "accuracy" in out
    assert here.json("models show", newest["snapshot_id"]) == {**newest, "excluded": 0}
    code, out, err = here("models show", "no-such")
    assert (code, out) == (FAILED, "")
    assert err == "no stored model begins with 'no-such'; `counterpoint models list` shows them\n"


def test_the_story_of_an_event_is_told_to_people_and_to_programs(
    system: System, here: Here
) -> None:
    predicted(system, "storied-1")
    verdict = ("--label", "false", "--reviewer", "ann", "--comment", "[odd] one")
    learned = here.json("feedback", "storied-1", *verdict, "--wait")
    assert learned["status"] == "learned"
    (out,) = output(system, "history LOOP storied-1")
    out = re.sub(r" *\n  +", " ", out)  # what does not fit into a line goes on under it
    assert re.search(rf"^{TIME} +input +inputs-\d-\d+ +features=", out, re.M)
    assert re.search(
        rf"^{TIME} +prediction +predictions-\d-\d+ +label=.* model_version=\d", out, re.M
    )
    said = r"feedback_id=\S+ verdict=correct label=false reviewer=ann channel=client comment=\[odd\] one"
    assert re.search(rf"^{TIME} +feedback +feedback-\d-\d+ +{said} ", out, re.M)
    assert f"learned_as={learned['model_version']}" in out
    assert re.search(r"^today +the model +model_key= +model_version=\d", out, re.M)
    story = here.json("history", "storied-1")
    assert [each["kind"] for each in story["moments"]][:2] == ["input", "prediction"]
    assert {"feedback", "example", "outcome"} <= {each["kind"] for each in story["moments"]}
    assert story["today"]["model_version"] >= learned["model_version"]

    system.write(system.topic("inputs"), b"{}", b"storied-2")
    buried(system, b"storied-2", 1)
    story = here.json("history", "storied-2")
    assert [each["kind"] for each in story["moments"]] == ["dead letter"]
    assert story["today"] == {"why": "there is no prediction, so nobody knows its features"}

    code, out, err = here("history", "storied-3")
    assert (code, out) == (FAILED, "")
    assert re.fullmatch(r"loop '\S+' knows nothing of event 'storied-3': [^\n]+\n", err)


# What could not be used ----------------------------------------------------------------------------------------------


def buried(system: System, key: bytes, count: int) -> list[Any]:
    """The dead letters of records with this key, oldest first, once there are so many."""

    def found() -> list[Any]:
        return [each for each in system.records("dead-letters", DeadLetter) if each.key == key]

    return await_that(lambda: found() if len(found()) == count else [], what="dead letters")


def test_dead_letters_are_listed_shown_and_sent_again(system: System, here: Here) -> None:
    nonsense = b"\xff[red]"
    system.write(system.topic("inputs"), nonsense, b"odd", [("trace", b"7")])
    buried(system, b"odd", 1)
    (first,) = [each for each in here.json("dead-letters list") if each["key"] == "odd"]
    list_, show = output(system, "dead-letters list LOOP", f"dead-letters show LOOP {first['id']}")
    place = rf"{system.topic('inputs')}-\d-\d+"
    assert re.search(rf"^{first['id']} .* predictor +decode +{place} ", list_, re.M)
    assert re.search(r'^value +\{"base64": "/1tyZWRd"\}', show, re.M)
    assert here.json("dead-letters show", first["id"]) == first

    told = f"sent {first['id']} to {system.topic('inputs')} again\n"
    assert typed(system, f"dead-letters retry LOOP {first['id']}") == [(0, "", told)]
    note_and_again = buried(system, b"odd", 3)[1:]
    again = next(each for each in note_and_again if each.role == "predictor")
    assert again.value == nonsense
    assert again.headers == [("trace", b"7"), ("retry-of", first["id"].encode())]
    told_of = {each["id"]: each["retried"] for each in here.json("dead-letters list")}
    assert told_of[first["id"]] == "sent again"
    code, out, err = here("dead-letters retry", first["id"])
    assert (code, out) == (FAILED, "")
    assert err == f"dead letter {first['id']} was answered before: sent again\n"
    assert here("dead-letters retry", "--all")[0] == 0
    code, out, err = here("dead-letters show", "9-9")
    assert (code, out) == (FAILED, "")
    assert "no dead letter 9-9" in err


# The audit -----------------------------------------------------------------------------------------------------------


def test_the_audit_exits_with_1_when_something_is_off(system: System, here: Here) -> None:
    predicted(system, "audited-1")
    assert here.json("feedback", "audited-1", "--label", "true", "--wait")["status"] == "learned"
    (out,) = output(system, "audit LOOP")
    assert out.endswith("ok: nothing lost, each verdict learned once\n")
    counted = here.json("audit")
    assert counted["ok"] is True
    assert counted["learned"] >= 1

    waits = here.json("feedback", "no-such-event", "--label", "true")["feedback_id"]
    assert here.json("audit")["waiting"] == 1
    code, out, err = here("audit", "--settled", "--json")
    assert (code, err) == (FAILED, "")
    (finding,) = json.loads(out)["findings"]
    assert (finding["promise"], finding["examples"]) == (1, [waits])


# Beginnings and ends -------------------------------------------------------------------------------------------------


def test_a_broker_prints_where_it_listens_and_ends_when_told(tmp_path: Path) -> None:
    began = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "broker"],
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert began.stdout is not None
    address = began.stdout.readline().strip()
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    assert admin.list_topics(timeout=10).brokers
    began.send_signal(signal.SIGTERM)
    out, err = began.communicate(timeout=30)
    assert (began.returncode, out) == (0, "")
    assert re.fullmatch(r"its log is /\S+/broker\.log; Ctrl-C ends it\n", err)


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_up_ends_all_roles_when_it_is_told_to_end(system: System) -> None:
    """The last of these tests, since it ends what they all use."""
    pids = {beat.pid for beat in system.records("status", Status)}
    assert len(pids) == len({*ROLES, "desk"})
    began = time.monotonic()
    assert system.end("up") == 0
    assert time.monotonic() - began < 8
    assert not any(map(is_alive, pids))
    for role in ROLES:
        status = system.status(f"{role}-1")
        assert status is not None
        assert status.state == "stopped"
