"""What the models say now, beside the desk: they follow the log, and nobody is answered by a model that is not there."""

from __future__ import annotations

from pathlib import Path

from streams import bootstrap
from streams.core.failure import Now
from streams.core.fold import Fold
from streams.present import Present
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that, lesson

DEFINED = 1
"""The log begins with what the model is."""


def test_the_desk_asks_the_models_of_now(broker: Kafka, tmp_path: Path, unique: str) -> None:
    with System(broker.bootstrap, tmp_path, PHISHING, unique, "partitions=2,") as system:
        system.prepare()
        fold = Fold(system.loop.model, system.loop.task, system.loop.classes)
        event = lesson(1).features
        present = Present(lambda: bootstrap.replica(bootstrap.Parts(system.loop, system.settings)))
        assert present.answer("", event) is None

        def teach(numbers: range) -> None:
            lessons = [lesson(number) for number in numbers]
            system.send("examples", lessons, "model_key")
            for each in lessons:
                fold.apply(fold.version + 1, each)

        teach(range(20))
        with present.following():
            await_that(
                lambda: present.answer("", event) == Now(DEFINED + 20, fold.answer(event)), 60.0
            )
            before = fold.answer(event)
            teach(range(20, 40))
            assert fold.answer(event) != before
            await_that(
                lambda: present.answer("", event) == Now(DEFINED + 40, fold.answer(event)), 30.0
            )
        assert present.answer("", event) is None
