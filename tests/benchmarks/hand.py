"""The predictor's yardstick: its work as the best hand-written confluent-kafka loop that we can write.

Same bytes in, identical records out, the same delivery guarantee (idempotent; offsets are committed once a second, after
what they stand for is delivered), the same codec and model.  No guard, no routing, no versions, no rebalancing.

What was tried and is in it, because it is faster: inlined answers, named tuples made without their constructor, no
delivery reports for what went well, a frozen heap, and producing the outputs of a large batch in one go: spread over the
time of the batch they leave in many more and smaller requests.  What was tried and is not: flushing in a second thread,
a longer linger, smaller batches.

    python -m tests.benchmarks.hand BOOTSTRAP INPUTS PREDICTIONS
"""

from __future__ import annotations

import gc
import signal
import sys
from time import monotonic
from types import FrameType
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from streams.core.events import AUTO, Input, Prediction
from streams.core.review import NOBODY_ASKED
from streams.engine.codec import Codec
from tests.benchmarks.loops import trained

COMMIT_INTERVAL_S = 1.0
FLUSH_S = 30.0
ROUTE = [("route", b"auto")]
UNEXPLAINED = tuple(Prediction._field_defaults.values())


class Hand:
    """Consumes inputs and produces predictions until it is told to stop."""

    def __init__(self, bootstrap: str, inputs: str, predictions: str) -> None:
        self._predictions = predictions
        self._codec, self._model = Codec(), trained()
        self._done: dict[int, int] = {}
        self._stop = False
        self._error: KafkaError | None = None
        self._inputs = inputs
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"hand-{predictions}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
            }
        )
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": "murmur2_random",
                "compression.type": "zstd",
                "enable.idempotence": True,
                "linger.ms": 2,
                "queue.buffering.max.messages": 500_000,
                "delivery.report.only.error": True,
                "on_delivery": self._on_delivery,
            }
        )
        self.consumer.subscribe([inputs])

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        self._error = self._error or error

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Ends the loop, as a signal's handler."""
        self._stop = True

    def run(self) -> None:
        """Works until it is stopped."""
        committed = monotonic()
        consume, poll = self.consumer.consume, self.producer.poll
        while not self._stop:
            messages = consume(2000, 0.1)
            if messages:
                self._answer(messages)
            poll(0)
            if monotonic() - committed > COMMIT_INTERVAL_S:
                self._commit()
                committed = monotonic()
        self._commit()
        self.consumer.close()

    def _answer(self, messages: list[Any]) -> None:
        predictions, done = self._predictions, self._done
        outputs: list[tuple[bytes, bytes]] = []
        decode, encode = self._codec.decode, self._codec.encoder(Prediction, predictions)
        likely_of, new = self._model.predict_proba_one, tuple.__new__
        for message in messages:
            event = decode(message.value())
            assert type(event) is Input
            event_id, features, text, occurred_at = event
            likely = likely_of(features)
            no, yes = likely[False], likely[True]
            label = yes > no
            answer: tuple[Any, ...] = (
                event_id,
                label,
                {"False": no, "True": yes},
                yes if label else no,
                features,
                text,
                occurred_at,
                "",
                0,
                AUTO,
                NOBODY_ASKED,
                0.99,
                *UNEXPLAINED,
            )
            outputs.append((encode(new(Prediction, answer)), message.key()))
        produce, poll = self.producer.produce, self.producer.poll
        for value, key in outputs:
            while True:
                try:
                    produce(predictions, value, key, headers=ROUTE)
                    break
                except BufferError:
                    poll(0.05)
        for message in messages:
            done[message.partition()] = message.offset() + 1

    def _commit(self) -> None:
        offsets = [TopicPartition(self._inputs, p, end) for p, end in self._done.items()]
        if not offsets:
            return
        if self.producer.flush(FLUSH_S) or self._error is not None:
            raise SystemExit(f"not delivered: {self._error}")
        self.consumer.commit(offsets=offsets, asynchronous=False)


if __name__ == "__main__":
    hand = Hand(*sys.argv[1:4])
    signal.signal(signal.SIGTERM, hand.stop)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    hand.run()
