"""The story of an event, on a real broker: from the loop's own topics, and from a user's that has no keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic

from streams import trace
from streams.core.errors import NotFound
from streams.core.events import LEARNED, Outcome
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that, verdict


@pytest.fixture
def system(broker: Kafka, tmp_path: Path, unique: str) -> Iterator[System]:
    more = f"partitions=2, review=review.Everything(), inputs=Source('{unique}-events', event_id='id', features={{'a': float}}),"
    with System(broker.bootstrap, tmp_path, PHISHING, name=unique, more=more) as made:
        topic = NewTopic(f"{unique}-events", 3, 1)
        made.admin.create_topics([topic])[topic.topic].result(30)
        made.prepare()
        made.start_all()
        yield made


def test_an_event_is_followed_from_a_topic_of_the_users_to_the_model_of_today(
    system: System,
) -> None:
    topic = f"{system.name}-events"
    for number in range(20):
        told = json.dumps({"id": number, "a": number / 7})  # an id that is no text in its bytes
        system.write(topic, told.encode(), partition=number % 3)
    ids = [str(number) for number in range(20)]
    system.await_ids("predictions", ids)
    system.send("feedback", [verdict("7", True, "f"), verdict("7", True, "f")])
    await_that(lambda: len(system.records("outcomes", Outcome)) == 2, what="two outcomes")
    story = trace.history(system.loop, system.settings, "7")
    kinds = [each.kind for each in story.moments]
    assert kinds[:2] == ["input", "prediction"]
    assert sorted(kinds[2:]) == ["example", "feedback", "feedback", "outcome", "outcome", "review"]
    asked = story.moments[0]
    assert (asked.topic, asked.partition, asked.offset) == (topic, 1, 2)
    by_outcome: dict[str, Any] = {
        each.says["outcome"]: each.says for each in story.moments if each.kind == "feedback"
    }
    version = by_outcome[LEARNED]["learned_as"]
    (lesson,) = (each for each in story.moments if each.kind == "example")
    assert lesson.says["version"] == version
    assert story.today["model_version"] == version
    assert set(story.today["scores"]) == {"True", "False"}
    assert json.loads(json.dumps(story.as_json()))["today"]["model_version"] == version

    with pytest.raises(NotFound, match="knows nothing of event '77'"):
        trace.history(system.loop, system.settings, "77")
