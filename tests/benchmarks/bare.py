"""The learner's yardstick: a plain loop that reads the same bytes and does the same River work, and nothing else.

It decodes with the same codec, asks the frozen model, scores the original answer with River's own metrics, and learns.
No duplicates are found, no outcomes written, no snapshots made.

    python -m tests.benchmarks.bare BOOTSTRAP EXAMPLES WARM RECORDS     prints seconds and CPU seconds
"""

from __future__ import annotations

import copy
import gc
import sys
from time import perf_counter, process_time
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from river import metrics, utils

from streams.core.events import Example
from streams.engine.codec import Codec
from tests.benchmarks.loops import asked

FROZEN_AFTER = 100
ROLLING = 500


def main(bootstrap: str, examples: str, warm: int, records: int) -> None:
    """Reads ``warm`` records, and takes its time for ``records`` more."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bare",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(examples, 0, 0)])
    lessons = Lessons()
    gc.collect()
    gc.freeze()
    done = 0
    while done < warm:
        done += lessons.take(consumer.consume(min(1000, warm - done), 0.1))
    started, cpu = perf_counter(), process_time()
    done = 0
    while done < records:
        done += lessons.take(consumer.consume(min(1000, records - done), 0.1))
    sys.stdout.write(f"{perf_counter() - started} {process_time() - cpu}\n")
    consumer.close()


class Lessons:
    """A model that learns, and how good it was."""

    def __init__(self) -> None:
        self._decode = Codec().decode
        self._model = copy.deepcopy(asked.model)
        self._frozen: Any = None
        self._learned = 0
        self._of_labels: list[Any] = [
            metrics.Accuracy(),
            utils.Rolling(metrics.Accuracy(), ROLLING),
            metrics.MacroF1(),
        ]
        self._of_scores: list[Any] = [metrics.LogLoss(), metrics.ROCAUC()]
        self._frozen_accuracy = metrics.Accuracy()

    def take(self, messages: list[Any]) -> int:
        """Learns from a batch; how many records there were."""
        decode, model, frozen = self._decode, self._model, self._frozen
        for message in messages:
            if message.headers():
                continue  # the definition
            example = decode(message.value())
            assert type(example) is Example
            label, said = example.label, example.predicted
            likely = {True: example.scores["True"], False: example.scores["False"]}
            if frozen is not None:
                self._frozen_accuracy.update(label, frozen.predict_one(example.features))
            for metric in self._of_labels:
                metric.update(label, said)
            for metric in self._of_scores:
                metric.update(label, likely)
            model.learn_one(example.features, label)
            self._learned += 1
            if self._learned == FROZEN_AFTER:
                frozen = self._frozen = copy.deepcopy(model)
        return len(messages)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
