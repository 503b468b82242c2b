"""Roles that cannot start, or go on, end within 30 s with a sentence that says why and what to do."""

from __future__ import annotations

import csv
import pickle
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from river import linear_model, preprocessing

from streams import bootstrap, operate
from streams.core.errors import BadRecord, Conflict
from streams.core.events import Prediction, Snapshot
from streams.engine import admin
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that, event, lesson, verdict
from tests.engine.test_admin import Secured

FAILED, USAGE = 1, 2
ROLES = ("predictor", "joiner", "learner")
OTHER_MODEL = PHISHING.replace("LogisticRegression()", "LogisticRegression(l2=0.1)")


@pytest.fixture
def system(broker: Kafka, tmp_path: Path, unique: str) -> Iterator[System]:
    """A loop whose topics are there."""
    with System(broker.bootstrap, tmp_path, name=unique, more="partitions=2,") as made:
        made.prepare()
        yield made


def refused(system: System, role: str, code: int, *words: str) -> None:
    """Starts a role and sees that it ends, with these words and no traceback."""
    assert_refused(system, system.start(role, f"{role}-refused"), code, *words)


def assert_refused(system: System, worker: str, code: int, *words: str) -> None:
    ended, told = system.await_end(worker)
    assert ended == code, told
    assert "Traceback" not in told
    for word in words:
        assert word in told


def delete(system: System, suffix: str) -> None:
    admin.delete(system.admin, [system.topic(suffix)])


def create(system: System, suffix: str, partitions: int = 2, **config: str) -> None:
    name = system.topic(suffix)
    given = {setting.replace("_", "."): value for setting, value in config.items()}
    asked = NewTopic(name, partitions, 1, config=given)
    system.admin.create_topics([asked])[name].result(30)


def configure(system: System, suffix: str, name: str, value: str) -> None:
    operation = AlterConfigOpType.SET
    resource = ConfigResource(
        ResourceType.TOPIC,
        system.topic(suffix),
        incremental_configs=[ConfigEntry(name, value, incremental_operation=operation)],
    )
    system.admin.incremental_alter_configs([resource])[resource].result(30)


# The broker and its topics -------------------------------------------------------------------------------------------


def test_without_a_broker_every_role_says_so(tmp_path: Path, unique: str) -> None:
    with socket.socket() as taken:  # bound, and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with System(address, tmp_path, name=unique) as system:
            for worker in list(map(system.start, ROLES)):
                told = (f"no Kafka at {address} within", "set COUNTERPOINT_BOOTSTRAP")
                assert_refused(system, worker, FAILED, *told)


def test_topics_that_are_missing_are_told_with_what_creates_them(
    broker: Kafka, tmp_path: Path, unique: str
) -> None:
    with System(broker.bootstrap, tmp_path, name=unique) as system:
        told = ("counterpoint topics create", *map(system.topic, ("inputs", "status", "models")))
        for worker in list(map(system.start, ROLES)):
            assert_refused(system, worker, USAGE, *told)


def test_topics_that_cannot_keep_the_promises_are_told_all_at_once_with_the_mending(
    system: System,
) -> None:
    delete(system, "feedback")
    create(system, "feedback", partitions=3, message_timestamp_type="LogAppendTime")
    configure(system, "predictions", "message.timestamp.type", "CreateTime")
    configure(system, "examples", "cleanup.policy", "compact")
    refused(
        system,
        "joiner",
        USAGE,
        f"{system.topic('feedback')} partitions = 3: 2: say Loop(partitions=3)",
        f"{system.topic('feedback')} retention.ms = '604800000'",
        f"--entity-name {system.topic('predictions')} --add-config message.timestamp.type=LogAppend",
        f"{system.topic('examples')} cleanup.policy = 'compact': delete: kafka-configs.sh",
    )


def test_more_partitions_than_before_are_told(system: System) -> None:
    system.await_running(system.start("joiner"))
    assert system.end("joiner-1") == 0
    name = system.topic("predictions")
    system.admin.create_partitions([NewPartitions(name, 5)])[name].result(30)
    refused(system, "joiner", USAGE, f"{name} partitions = 5: 2")


def test_rights_that_are_refused_are_told_with_the_command_that_grants_them(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, unique: str
) -> None:
    secured = Secured(tmp_path_factory.mktemp("secured"))
    with secured:
        signed_in = {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_password": secured.password,
        }
        with System(
            secured.bootstrap, tmp_path, name=unique, sasl_username="root", **signed_in
        ) as system:
            system.prepare()
            system.environ["COUNTERPOINT_SASL_USERNAME"] = "app"
            refused(
                system, "predictor", USAGE, "the right to describe", "kafka-acls.sh", "--operation"
            )
            system.environ["COUNTERPOINT_SASL_PASSWORD"] = "guessed"
            refused(system, "predictor", FAILED, "does not let us in", "COUNTERPOINT_SASL_")


# What was there before -----------------------------------------------------------------------------------------------


def test_a_topic_that_was_deleted_and_made_again_stops_who_had_read_it(system: System) -> None:
    system.await_running(system.start("predictor"), system.start("joiner"), system.start("learner"))
    ids = [f"e{n}" for n in range(20)]
    system.send_inputs(ids)
    system.await_ids("predictions", ids)
    system.send("feedback", (verdict(each, True) for each in ids))
    system.await_ids("outcomes", ids)
    await_that(lambda: sum(system.committed("joiner", "feedback").values()) == 20)
    await_that(lambda: sum(system.committed("predictor", "inputs").values()) == 20)
    await_that(lambda: system.records("models", Snapshot), what="a snapshot")
    for role in ROLES:
        assert system.end(f"{role}-1") == 0
    admin.delete(system.admin, list(map(system.topic, ("inputs", "feedback"))))
    system.create_topics()
    refused(system, "predictor", USAGE, system.topic("inputs"), "deleted and made again")
    system.start("joiner")
    assert_refused(system, "joiner-1", USAGE, system.topic("feedback"), "made again")
    admin.delete(system.admin, [system.topic("examples")])
    system.create_topics()
    for worker in (system.start("predictor"), system.start("learner")):
        assert_refused(system, worker, USAGE, system.topic("examples"), "deleted and made again")


def test_offsets_of_the_group_that_vanished_stop_the_role_with_the_way_back(
    system: System,
) -> None:
    system.await_running(system.start("predictor"))
    system.send_inputs(f"e{n}" for n in range(20))
    await_that(lambda: sum(system.committed("predictor", "inputs").values()) == 20)
    assert system.end("predictor-1") == 0
    await_that(lambda: is_forgotten(system, "predictor"), what="no member left in the group")
    refused(system, "predictor", USAGE, "its offsets are gone", "--reset-offsets", "--to-offset")


def test_offsets_of_the_group_that_were_set_back_stop_the_role_unless_that_is_meant(
    system: System,
) -> None:
    system.await_running(system.start("predictor"))
    ids = [f"e{n}" for n in range(20)]
    system.send_inputs(ids)
    system.await_ids("predictions", ids)
    await_that(lambda: sum(system.committed("predictor", "inputs").values()) == 20)
    assert system.end("predictor-1") == 0
    inputs = system.topic("inputs")
    had = system.committed("predictor", "inputs")
    back = [TopicPartition(inputs, p, offset // 2) for p, offset in had.items()]
    group = f"{system.name}.predictor"

    def set_back() -> bool:  # refused until the broker has seen the last member leave
        asked = ConsumerGroupTopicPartitions(group, back)
        (done,) = system.admin.alter_consumer_group_offsets([asked]).values()
        return all(each.error is None for each in done.result(30).topic_partitions)

    await_that(set_back, what="the group is empty")
    told = (f"{inputs}-0", "it was set back", f"--to-offset {had[0]} ", "--rewind")
    refused(system, "predictor", USAGE, *told)
    system.start("predictor", "predictor-1", "--rewind")
    again = sum(offset - offset // 2 for offset in had.values())
    await_that(
        lambda: len(system.records("predictions", Prediction)) == 20 + again,
        what="what was read again",
    )
    assert system.end("predictor-1") == 0
    assert system.committed("predictor", "inputs") == had


def truncate(system: System, suffix: str) -> None:
    """Deletes all records that a topic has, as a retention that is too short would."""
    ends = operate.ends(system.kafka, [system.topic(suffix)])
    all_of = [TopicPartition(*tp, end) for tp, end in ends.items()]
    for done in system.admin.delete_records(all_of).values():
        done.result(30)


def test_records_that_were_deleted_before_they_were_read_stop_who_needs_them(
    system: System,
) -> None:
    for role in ROLES:
        system.start(role)
    system.await_running(*(f"{role}-1" for role in ROLES))
    ids = [f"e{n}" for n in range(20)]
    system.send_inputs(ids)
    system.await_ids("predictions", ids)
    system.send("feedback", (verdict(each, True) for each in ids))
    system.await_ids("outcomes", ids)
    await_that(lambda: sum(system.committed("joiner", "feedback").values()) == 20)
    for role in ROLES:
        assert system.end(f"{role}-1") == 0
    system.send("feedback", (verdict(each, True, f"again-{each}") for each in ids))
    system.send("examples", map(lesson, range(100, 120)), "model_key")
    for suffix in ("feedback", "examples"):
        truncate(system, suffix)
    told = ("records were deleted before they were read", "longer retention", "--to-earliest")
    assert_refused(system, system.start("joiner"), USAGE, system.topic("feedback"), *told)
    told = (f"{system.topic('examples')}-0", "but it begins at", "restore it, or begin anew")
    for worker in (system.start("learner"), system.start("predictor")):
        assert_refused(system, worker, USAGE, *told)
    # Without snapshots, what is left of the log is no model either
    admin.delete(system.admin, [system.topic("models")])
    system.create_topics()
    for worker in (system.start("learner"), system.start("predictor")):
        assert_refused(system, worker, USAGE, *told)


def test_a_joiner_whose_offsets_vanished_does_not_begin_anew(system: System) -> None:
    system.await_running(system.start("joiner"), system.start("predictor"))
    ids = [f"e{n}" for n in range(20)]
    system.send_inputs(ids)
    system.await_ids("predictions", ids)
    await_that(lambda: sum(system.committed("joiner", "predictions").values()) == 20)
    for role in ("joiner", "predictor"):
        assert system.end(f"{role}-1") == 0
    await_that(lambda: is_forgotten(system, "joiner"), what="no member left in the group")
    told = ("offset", "gone", "--reset-offsets")
    assert_refused(system, system.start("joiner"), USAGE, *told)
    other = system.start("joiner", "joiner-2")  # whose disk knows nothing
    assert_refused(system, other, USAGE, *told)


def is_forgotten(system: System, role: str) -> bool:
    """Deletes a role's group, which Kafka does once it has missed the members with names for a session's time."""
    group = f"{system.name}.{role}"
    try:
        system.admin.delete_consumer_groups([group])[group].result(30)
    except KafkaException:
        return False
    return True


def test_the_state_directory_of_another_loop_is_refused(
    system: System, broker: Kafka, tmp_path_factory: pytest.TempPathFactory
) -> None:
    system.await_running(system.start("joiner"))
    assert system.end("joiner-1") == 0
    folder = tmp_path_factory.mktemp("other")
    with System(
        broker.bootstrap, folder, name=f"{system.name}-other", more="partitions=2,"
    ) as other:
        other.prepare()
        mine, theirs = system.folder / "state" / system.name, folder / "state" / other.name
        shutil.copytree(mine, theirs)
        other.start("joiner")
        assert_refused(other, "joiner-1", USAGE, system.name, other.name)


def test_a_second_worker_of_the_same_name_is_refused_and_the_first_works_on(
    system: System,
) -> None:
    system.await_running(system.start("predictor"))
    first = system.processes["predictor-1"]
    system.start("predictor", "predictor-1")
    assert_refused(system, "predictor-1", FAILED, "'predictor-1' runs already", "--worker name")
    system.processes["predictor-1"] = first
    system.send_inputs(["e1"])
    system.await_ids("predictions", ["e1"])


# Another definition --------------------------------------------------------------------------------------------------


def learned(system: System, count: int) -> int:
    """Has the learner learn lessons, and gives the version then."""
    system.send("examples", map(lesson, range(count)), "model_key")
    system.await_ids("outcomes", [f"f-{n}" for n in range(count)], "feedback_id")
    await_that(lambda: system.records("models", Snapshot), what="a snapshot")
    return system.records("models", Snapshot)[-1].version


@pytest.mark.parametrize(("mode", "learned_then"), [("refold", 30), ("fresh", 0), ("continue", 30)])
def test_another_model_is_refused_until_it_is_adopted(
    broker: Kafka, tmp_path: Path, unique: str, mode: str, learned_then: int
) -> None:
    with System(broker.bootstrap, tmp_path, name=unique, snapshot_interval_s=0.1) as system:
        system.prepare()
        system.await_running(system.start("learner"))
        version = learned(system, 30)
        assert system.end("learner-1") == 0

        system.write_loop(OTHER_MODEL)
        told = (f"models of loop '{unique}' are made by definition", "counterpoint models adopt")
        for worker in (system.start("predictor"), system.start("learner")):
            assert_refused(system, worker, FAILED, *told)

        adopted = system.command(
            "models", "adopt", system.reference, f"--{mode}", "--why", "better"
        )
        assert adopted.returncode == 0, adopted.stderr
        again = system.command("models", "adopt", system.reference, f"--{mode}")
        assert again.returncode == FAILED
        assert "there is nothing to adopt" in again.stderr

        system.await_running(system.start("predictor"), system.start("learner"))
        system.send("examples", [lesson(30)], "model_key")
        system.await_ids("outcomes", ["f-30"], "feedback_id")
        newest = await_that(
            lambda: [s for s in system.records("models", Snapshot) if s.version > version + 1]
        )
        assert newest[-1].learned == learned_then + 1
        system.send_inputs(["asked"])
        system.await_ids("predictions", ["asked"])
        (found,) = system.records("predictions", Prediction)
        assert found.model_version == newest[-1].version


def test_a_running_role_whose_loop_is_redefined_stops_or_serves_on_and_says_so(
    system: System,
) -> None:
    """A learner must not learn into another's lineage; a predictor that answers is better than none."""
    system.await_running(system.start("predictor"), system.start("learner"))
    system.write_loop(OTHER_MODEL)
    assert system.command("models", "adopt", system.reference, "--fresh").returncode == 0
    assert_refused(system, "learner-1", FAILED, "counterpoint models adopt")

    def noted() -> bool:
        status = system.status("predictor-1")
        return status is not None and any("serves its last version" in n for n in status.notes)

    await_that(noted)
    system.send_inputs(["e1"])
    system.await_ids("predictions", ["e1"])


# Seeds ---------------------------------------------------------------------------------------------------------------


def write_history(path: Path, rows: int, label: str = "") -> None:
    with path.open("w", newline="") as file:
        written = csv.writer(file)
        written.writerow(["a", "b", "c", "label"])
        for number in range(rows):
            features = event(f"{number:06}").features
            written.writerow([*features.values(), label or str(number % 3 == 0).lower()])


def test_a_loop_seeded_from_csv_has_learned_it_before_its_first_prediction(system: System) -> None:
    history = system.folder / "history.csv"
    write_history(history, 40)
    for _ in range(2):  # the same file again teaches nothing
        seeded = system.command("models", "seed", system.reference, str(history))
        assert seeded.returncode == 0, seeded.stderr
        assert "40 lessons" in seeded.stderr
    system.await_running(system.start("learner"), system.start("predictor"))

    def learned_once() -> bool:
        status = system.status("learner-1")
        return (
            status is not None and status.versions == {"": 81} and status.numbers["learned"] == 40
        )

    await_that(learned_once)
    system.send_inputs(["e1"])
    system.await_ids("predictions", ["e1"])
    (found,) = system.records("predictions", Prediction)
    assert found.model_version == 81


def test_a_line_of_history_that_cannot_be_used_leaves_the_loop_as_it_was(system: System) -> None:
    history = system.folder / "history.csv"
    write_history(history, 3, label="perhaps")
    with pytest.raises(BadRecord, match="line 2: label is 'perhaps', expected one of False, True"):
        bootstrap.seed(system.loop, system.settings, history)
    assert [seen for seen in system.seen("examples") if seen.message.key()] == []


def test_a_loop_seeded_with_a_trained_model_answers_as_that_model(system: System) -> None:
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    for number in range(200):
        taught = lesson(number)
        model.learn_one(dict(taught.features), taught.label)
    trained = system.folder / "trained.pkl"
    trained.write_bytes(pickle.dumps(model))
    assert system.command("models", "seed", system.reference, str(trained)).returncode == 0
    system.await_running(system.start("predictor"), system.start("learner"))
    ids = [f"e{n}" for n in range(20)]
    system.send_inputs(ids)
    system.await_ids("predictions", ids)
    for found in system.records("predictions", Prediction):
        assert found.scores["True"] == model.predict_proba_one(dict(found.features))[True]
        assert found.model_version == 0


def test_a_trained_model_that_is_another_or_comes_too_late_is_refused(system: System) -> None:
    other = system.folder / "other.pkl"
    other.write_bytes(pickle.dumps(linear_model.LogisticRegression()))
    with pytest.raises(Conflict, match="holds another model than the loop's"):
        bootstrap.seed(system.loop, system.settings, other)
    mine = system.folder / "mine.pkl"
    mine.write_bytes(
        pickle.dumps(preprocessing.StandardScaler() | linear_model.LogisticRegression())
    )
    system.send("examples", [lesson(0)], "model_key")
    with pytest.raises(Conflict, match="has learned already"):
        bootstrap.seed(system.loop, system.settings, mine)
