from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message
from river import linear_model

from streams import Client, bootstrap, operate, show
from streams.config import Settings
from streams.core.errors import BadRecord, ConfigError, Conflict, NotFound, Unavailable
from streams.core.events import DeadLetter, Header, Input, Position, Status
from streams.core.topics import topics
from streams.engine import admin, reader
from streams.engine.producer import Outputs
from streams.loop import Loop, Source
from streams.operate import Letter, Model
from tests.conftest import Kafka

NOW = 1_000_000


def status(
    role: str = "predictor",
    worker: str = "w-1",
    state: str = "running",
    positions: tuple[Position, ...] = (),
) -> Status:
    return Status("l", role, worker, "h", 1, state, {"": 7}, [*positions], {}, [], 0, NOW)


def letter(topic: str = "l.inputs", offset: int = 0, **changes: Any) -> DeadLetter:
    made = DeadLetter(
        topic, 0, offset, 5, b"a", b"\xff", [], "predictor", "decode", "bad", "a", None, offset
    )
    return made._replace(**changes)


def loop_named(name: str, **more: Any) -> Loop:
    return Loop(name=name, task="binary", model=linear_model.LogisticRegression(), **more)


def text_of(renderable: object) -> str:
    from rich.console import Console

    console = Console(width=240, file=io.StringIO(), record=True)
    console.print(renderable)
    return console.export_text()


# Status --------------------------------------------------------------------------------------------------------------


def test_lag_is_measured_against_the_end_that_the_broker_tells_now() -> None:
    beats = [(NOW, status(positions=(Position("l.inputs", 0, 40, 50),)))]
    found = operate.report("l", beats, {("l.inputs", 0): 100}, NOW)
    assert [place.lag for place in found.workers[0].places] == [60]


def test_partitions_that_no_living_worker_reads_are_told() -> None:
    gone = status(worker="w-2", positions=(Position("l.inputs", 1, 1, 1),))
    beats = [
        (NOW, status(positions=(Position("l.inputs", 0, 1, 1),))),
        (NOW - operate.SILENT_MS - 1, gone),
    ]
    found = operate.report("l", beats, {("l.inputs", 0): 1, ("l.inputs", 1): 1}, NOW)
    assert [(each.status.worker, each.state) for each in found.workers] == [
        ("w-1", "running"),
        ("w-2", "silent"),
    ]
    assert found.unread == (("l.inputs", 1),)
    assert "nobody reads l.inputs-1" in show.unread(found)


def test_a_worker_whose_partitions_others_have_taken_over_is_no_news() -> None:
    place = Position("l.inputs", 0, 1, 1)
    beats = [
        (NOW, status(positions=(place,))),
        (NOW, status(worker="w-2", state="stopped", positions=(place,))),
    ]
    found = operate.report("l", beats, {("l.inputs", 0): 1}, NOW)
    assert [each.status.worker for each in found.workers] == ["w-1"]
    assert found.unread == ()


def test_a_report_can_be_read_by_people_and_by_programs() -> None:
    numbers = {"inputs": 10.0, "inputs_per_s": 2.5, "pending": 3.0}
    beat = status(positions=(Position("l.inputs", 0, 1, 4),))._replace(
        numbers=numbers, notes=["hm"]
    )
    found = operate.report("l", [(NOW, beat)], {("l.inputs", 0): 4}, NOW)
    told = json.loads(json.dumps(found.as_json()))
    assert told["workers"][0]["partitions"][0]["lag"] == 3
    assert told["workers"][0]["numbers"]["pending"] == 3
    drawn = text_of(show.report(found))
    assert all(word in drawn for word in ("predictor", "w-1", "running", "l.inputs-0", "7", "hm"))
    assert "inputs 2.5" in drawn


def test_what_waits_for_a_verdict_is_told_for_each_joiner() -> None:
    beats = [
        (NOW, status("joiner", f"j-{n}")._replace(numbers={"pending": 1200.0 + n, "behind": 9.0}))
        for n in range(2)
    ]
    lines = text_of(show.report(operate.report("l", beats, {}, NOW))).splitlines()
    assert "pending" in lines[0]
    assert [line.split()[-1] for line in lines[1:]] == ["1,200", "1,201"]


def test_rates_are_told_where_something_goes_on() -> None:
    numbers = {"inputs_per_s": 1234.5, "reviews_per_s": 0.0, "model_bytes_per_s": 7.0}
    beat = status()._replace(numbers=numbers)
    drawn = text_of(show.report(operate.report("l", [(NOW, beat)], {}, NOW)))
    assert "inputs 1,234" in drawn
    assert "reviews" not in drawn
    assert "model_bytes" not in drawn


def test_models_tell_how_old_their_snapshots_are() -> None:
    numbers = {"stored_at:": NOW - 90_000.0, "rebuilds": 2.0}
    beat = status("learner")._replace(versions={"": 7, "de": 9}, numbers=numbers)
    gone = status("learner", "w-2", "stopped")._replace(versions={"": 3})
    found = operate.report("l", [(NOW, beat), (NOW, gone)], {}, NOW)
    assert found.models == (Model("", 7, 90.0), Model("de", 9, None))
    told = json.loads(json.dumps(found.as_json()))
    assert told["models"][0] == {"model_key": "", "version": 7, "snapshot_age_s": 90.0}
    assert told["workers"][0]["numbers"] == {"rebuilds": 2.0}
    drawn = text_of(show.models(found)).splitlines()
    assert [line.split() for line in drawn[1:]] == [
        ["de", "9", "none", "yet"],
        ["(the", "only", "one)", "7", "1.5", "min", "old"],
    ]
    assert show.totals(found).endswith(
        "0 predictions wait for a verdict, 0 of them asked about; 2 models rebuilt"
    )
    many = found._replace(models=tuple(Model(str(n), n, float(n)) for n in range(50)))
    drawn = text_of(show.models(many)).splitlines()
    assert (drawn[1].split()[0], drawn[-1].strip()) == ("49", "and 30 more")


def test_what_waits_is_told_in_all_with_the_oldest_of_it() -> None:
    ages = (
        {"pending": 3.0, "pending_reviews": 1.0, "oldest_waiting_at": NOW - 7_200_000.0},
        {"pending": 2.0, "pending_reviews": 0.0},
    )
    beats = [
        (NOW, status("joiner", f"j-{n}", positions=(Position("l.feedback", n, 1, 4),)))
        for n in range(2)
    ]
    told = [(at, beat._replace(numbers=age)) for (at, beat), age in zip(beats, ages, strict=True)]
    found = operate.report("l", told, {}, NOW)
    assert found.totals == (6, 5, 1, 7_200.0, 0)
    assert found.as_json()["oldest_waiting_s"] == 7_200.0
    sentence = "6 records to be read; 5 predictions wait for a verdict, 1 of them asked about, the oldest for 2.0 h"
    assert show.totals(found) == sentence


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (59.0, "59 s"), (90.0, "1.5 min"), (5_400.0, "1.5 h"), (1e6, "11.6 d")],
)
def test_a_duration_is_told_in_its_largest_unit(seconds: float, told: str) -> None:
    assert show.duration(seconds) == told


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    buried = Letter(0, 0, letter(event_id="[red]e", reason="[b] is no number"), None)
    drawn = text_of(show.letters([buried]))
    assert "[red]e" in drawn
    assert "[b] is no number" in drawn
    note = operate.report("l", [(NOW, status()._replace(notes=["see [1]"]))], {}, NOW)
    assert "see [1]" in text_of(show.report(note))


# What takes its time -------------------------------------------------------------------------------------------------


def test_nothing_is_drawn_where_nobody_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    with show.waiting("seeding") as say, show.progress() as tell:
        say("seeding more")
        tell("reading", 0.5)
    with show.reading(io.BytesIO(b"x")) as (_, count):
        count(1)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_what_is_waited_for_and_how_many_events_were_piped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with show.waiting("seeding [1]") as say:
        say("still seeding")
    out, err = capsys.readouterr()
    assert out == ""
    assert "seeding [1]" in err
    assert "still seeding" in err
    reads, writes = os.pipe()
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe, show.reading(pipe) as (_, tell):
        tell(1234)
    assert "sending: 1,234 events" in capsys.readouterr().err


# Labels and topics by name -------------------------------------------------------------------------------------------


def test_a_typed_label_becomes_the_loops_label() -> None:
    binary = loop_named("l")
    many = Loop(
        name="l", task="multiclass", model=linear_model.SoftmaxRegression(), classes=(0, 1, 2)
    )
    number = Loop(name="l", task="regression", model=linear_model.LinearRegression())
    assert operate.label_of(binary, "true") is True
    assert operate.label_of(many, "2") == 2
    assert operate.label_of(number, "3") == 3.0


@pytest.mark.parametrize("text", ["maybe", "1", ""])
def test_a_label_that_the_loop_does_not_have_is_refused_with_those_it_has(text: str) -> None:
    with pytest.raises(NotFound, match="False, True"):
        operate.label_of(loop_named("l"), text)


@pytest.mark.parametrize("text", ["true", "many", "nan", ""])
def test_a_regression_wants_a_number(text: str) -> None:
    loop = Loop(name="l", task="regression", model=linear_model.LinearRegression())
    with pytest.raises(NotFound, match="no number"):
        operate.label_of(loop, text)


def test_a_topic_is_found_by_its_short_name_and_by_its_own() -> None:
    loop = loop_named("l", inputs=Source("payments"))
    assert operate.topic_of(loop, "inputs") == "payments"
    assert operate.topic_of(loop, "payments") == "payments"
    assert operate.topic_of(loop, "l.outcomes") == "l.outcomes"
    with pytest.raises(NotFound, match="inputs, predictions"):
        operate.topic_of(loop, "nonsense")


def test_bytes_become_json_as_text_where_they_are_text() -> None:
    assert show.jsonable({"a": b"abc", "b": [b"\xff\x00"]}) == {
        "a": "abc",
        "b": [{"base64": "/wA="}],
    }


# Dead letters --------------------------------------------------------------------------------------------------------


def test_dead_letters_are_told_newest_first_and_those_answered_as_such() -> None:
    note = letter(offset=1, stage=operate.RETRIED, reason="sent again")
    found = operate.letters([(0, 0, letter(offset=0)), (0, 1, letter(offset=1)), (0, 2, note)])
    assert [(each.id, each.retried) for each in found] == [("0-1", "sent again"), ("0-0", None)]
    assert "sent again" in text_of(show.letters(found))


def test_a_dead_letter_is_chosen_by_its_id() -> None:
    found = operate.letters([(0, 0, letter(offset=0)), (0, 1, letter(offset=1))])
    assert [each.id for each in operate.choose(found, ["0-0"])] == ["0-0"]
    with pytest.raises(NotFound, match="0-9"):
        operate.choose(found, ["0-0", "0-9"])


def test_a_retry_that_would_do_nothing_is_refused_with_the_reason() -> None:
    topics = "l.examples", "l.feedback"
    assert "before" in operate.refusal(Letter(0, 0, letter(), "sent again"), *topics)
    assert "new verdict" in operate.refusal(Letter(0, 0, letter("l.examples"), None), *topics)
    unjoined = letter("l.feedback", stage="join")
    assert "another verdict" in operate.refusal(Letter(0, 0, unjoined, None), *topics)
    unread = letter("l.feedback", stage="decode")
    for fine in (letter(), unread):
        assert operate.refusal(Letter(0, 0, fine, None), *topics) == ""


# On a real broker ----------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(broker: Kafka, tmp_path: Path) -> Settings:
    return Settings(bootstrap=broker.bootstrap, state_dir=tmp_path)


@pytest.fixture
def loop(settings: Settings, unique: str) -> Loop:
    made = loop_named(unique, partitions=2)
    admin.create(admin.connect(settings.kafka()), topics(made).values(), 1)
    return made


def produced(settings: Settings, topic: str) -> list[Message]:
    return list(reader.to_end(settings.kafka(), topic))


def test_the_events_of_a_file_become_inputs(loop: Loop, settings: Settings) -> None:
    sent = operate.send(loop, settings, io.BytesIO(b"event_id,x\na,1\nb,2\n"))
    codec = bootstrap.codec(settings)
    messages = produced(settings, f"{loop.name}.inputs")
    found = [codec.decode_as(Input, message.value() or b"") for message in messages]
    assert sent == 2
    assert sorted(found) == [Input("a", {"x": 1}), Input("b", {"x": 2})]
    assert {message.key() for message in messages} == {b"a", b"b"}


def test_what_was_sent_before_a_broken_line_is_told(loop: Loop, settings: Settings) -> None:
    with pytest.raises(BadRecord, match=r"line 3: .*; the 1 events before it were sent"):
        operate.send(loop, settings, io.BytesIO(b"event_id,x\na,1\nb\n"))
    assert len(produced(settings, f"{loop.name}.inputs")) == 1


def test_nothing_is_sent_to_a_topic_of_the_users(settings: Settings) -> None:
    with pytest.raises(Conflict, match="payments"):
        operate.send(loop_named("l", inputs=Source("payments")), settings, io.BytesIO(b""))


def test_a_topic_is_told_decoded_whatever_is_on_it(loop: Loop, settings: Settings) -> None:
    outputs, topic = Outputs(settings.kafka()), f"{loop.name}.inputs"
    values = [
        bootstrap.codec(settings).encode(topic, Input("a", {"x": 1.5})),
        b'{"y": 2}',
        b"\xffnothing",
        None,
    ]
    for value in values:
        outputs.send(topic, value, b"k")
    outputs.flush()
    found = list(islice(operate.tail(loop, settings, "inputs", from_beginning=True), 4))
    assert [each.kind for each in found] == ["counterpoint.Input", "json", "unreadable", "deleted"]
    assert found[0].fields["features"] == {"x": 1.5}
    assert found[1].fields == {"y": 2}
    assert "event_id=a" in show.line(found[0])
    assert all(json.dumps(each.as_json()) for each in found)


def test_a_tail_begins_with_what_comes_next(loop: Loop, settings: Settings) -> None:
    operate.send(loop, settings, io.BytesIO(b"event_id,x\nold,1\n"))
    records = operate.tail(loop, settings, "inputs")
    operate.send(loop, settings, io.BytesIO(b"event_id,x\nnew,1\n"))
    assert next(records).key == "new"


def test_a_retry_sends_the_record_as_it_was_and_once(loop: Loop, settings: Settings) -> None:
    codec, outputs = bootstrap.codec(settings), Outputs(settings.kafka())
    source, target = f"{loop.name}.inputs", f"{loop.name}.dead-letters"
    bad = letter(source, headers=[Header("trace", b"7"), Header("empty", None)])
    outputs.send(target, codec.encode(target, bad), bad.key)
    outputs.flush()
    assert [each.id for each in operate.retry(loop, settings, ["0-0"])] == ["0-0"]
    (again,) = produced(settings, source)
    assert (again.key(), again.value()) == (b"a", b"\xff")
    assert again.headers() == [("trace", b"7"), ("empty", None), ("retry-of", b"0-0")]
    assert [each.retried for each in operate.dead_letters(loop, settings)] == ["sent again"]
    assert operate.retry(loop, settings) == []
    with pytest.raises(Conflict, match="before"):
        operate.retry(loop, settings, ["0-0"])


def test_all_that_failed_is_sent_again_in_the_order_in_which_it_failed(
    loop: Loop, settings: Settings
) -> None:
    codec, outputs = bootstrap.codec(settings), Outputs(settings.kafka())
    source, target = f"{loop.name}.feedback", f"{loop.name}.dead-letters"
    for number in range(3):
        outputs.send(target, codec.encode(target, letter(source, number, value=b"%d" % number)))
    outputs.flush()
    assert [each.id for each in operate.retry(loop, settings)] == ["0-0", "0-1", "0-2"]
    assert [message.value() for message in produced(settings, source)] == [b"0", b"1", b"2"]
    assert [each.id for each in operate.dead_letters(loop, settings)] == ["0-2", "0-1", "0-0"]


def test_the_status_of_a_loop_that_nobody_runs_says_so(loop: Loop, settings: Settings) -> None:
    found = operate.status(loop, settings)
    assert found.workers == ()
    assert (f"{loop.name}.inputs", 1) in found.unread


def test_the_status_is_that_of_the_last_heartbeat(loop: Loop, settings: Settings) -> None:
    outputs, topic = Outputs(settings.kafka()), f"{loop.name}.status"
    for state in ("starting", "running"):
        beat = status(state=state, positions=(Position(f"{loop.name}.inputs", 0, 0, 0),))
        outputs.send(topic, bootstrap.codec(settings).encode(topic, beat), b"predictor/w-1")
    outputs.flush()
    found = operate.status(loop, settings)
    assert [each.state for each in found.workers] == ["running"]
    assert (f"{loop.name}.inputs", 0) not in found.unread


def test_the_age_of_what_is_not_read_yet_is_told(loop: Loop, settings: Settings) -> None:
    outputs, topic, inputs = Outputs(settings.kafka()), f"{loop.name}.status", f"{loop.name}.inputs"
    outputs.send(inputs, b"read", partition=0)
    outputs.send(inputs, b"waits", partition=0)
    outputs.send(inputs, b"read", partition=1)
    outputs.flush()
    places = (Position(inputs, 0, 1, 1), Position(inputs, 1, 1, 1))
    beat = bootstrap.codec(settings).encode(topic, status(positions=places))
    outputs.deliver(topic, beat, b"predictor/w-1")
    found = operate.status(loop, settings)
    waits, read = found.workers[0].places
    assert waits.behind_s is not None
    assert 0 <= waits.behind_s < 60
    assert read.behind_s is None
    assert re.search(r"-0 +1 \(\d+ s\)", text_of(show.report(found)))


def test_topics_are_checked_and_deleted(loop: Loop, settings: Settings) -> None:
    operate.check(loop, settings)
    operate.send(loop, settings, io.BytesIO(b"event_id,x\na,1\n"))
    assert operate.rebuild(loop, settings).records == 0
    assert len(operate.delete(loop, settings)) == 10
    with pytest.raises(ConfigError, match="topics create"):
        operate.check(loop, settings)


def test_a_lost_disk_takes_the_predictions_and_the_feedback(loop: Loop, settings: Settings) -> None:
    outputs = Outputs(settings.kafka())
    for suffix, count in {"predictions": 5, "feedback": 3, "inputs": 7}.items():
        for number in range(count):
            outputs.send(f"{loop.name}.{suffix}", b"x", b"%d" % number)
    outputs.flush()
    found = operate.rebuild(loop, settings)
    assert found.records == 8
    assert "would read 8 predictions and feedback again, in about 1 s" in str(found)
    assert "in about 20 s" in str(operate.Rebuild(2_000_000, 20.0))


def test_a_verdict_of_which_nothing_becomes_in_time_is_told_with_what_to_do(
    loop: Loop, settings: Settings
) -> None:
    with pytest.raises(Unavailable, match=r"was sent, .* within 0\.1 s: .*counterpoint status"):
        operate.feedback(loop, settings, "e", label="true", wait_s=0.1)
    (sent,) = produced(settings, f"{loop.name}.feedback")
    assert sent.key() == b"e"


ASKED: dict[str, Callable[[Loop, Settings], object]] = {
    "status": operate.status,
    "tail": lambda loop, settings: next(operate.tail(loop, settings, "outcomes")),
    "topics check": operate.rebuild,
    "dead letters": operate.dead_letters,
    "retry": operate.retry,
    "send": lambda loop, settings: operate.send(loop, settings, io.BytesIO(b"event_id\na\n")),
    "feedback": lambda loop, settings: operate.feedback(loop, settings, "e", accept=True),
    "models": operate.models,
    "adopt": lambda loop, settings: operate.adopt(loop, settings, "fresh", ""),
    "audit": lambda loop, settings: operate.audit(loop, settings, settled=True, progress=print),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_loop_without_topics_is_told_so_at_once(
    ask: Callable[[Loop, Settings], object], settings: Settings, unique: str
) -> None:
    with pytest.raises(NotFound, match=rf"{unique}\.\S+: counterpoint topics create"):
        ask(loop_named(unique), settings)


def test_without_a_kafka_everything_says_so_in_one_sentence(tmp_path: Path, unique: str) -> None:
    """All at once: each waits for as long as a Kafka may take to answer."""
    with socket.socket() as taken:  # bound, and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        asked = (loop_named(unique), Settings(bootstrap=address, state_dir=tmp_path))
        argv = [sys.executable, "-m", "streams.cli", "demo", "trump", "--bootstrap", address]
        with (
            subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as demo,
            ThreadPoolExecutor(len(ASKED) + 1) as pool,
            Client(unique, address) as client,
        ):
            refused = {name: pool.submit(ask, *asked) for name, ask in ASKED.items()}
            sent = pool.submit(client.send_feedback, "e", accept=True)
            told = {name: str(future.exception()) for name, future in refused.items()}
            assert isinstance(sent.exception(), Unavailable)
            _, demo_told = demo.communicate(timeout=60)
    assert f"Kafka at {address} does not answer" in str(sent.exception())
    assert (demo.returncode, len(demo_told.splitlines())) == (1, 1)
    for why in (*told.values(), demo_told):
        assert why.startswith(f"no Kafka at {address} within 10 s: ")
        assert "Start it (`counterpoint broker` starts one)" in why
