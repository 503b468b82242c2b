"""The other yardstick: the same work as a stock Faust program, the way Faust's own documentation writes it.

python -m tests.benchmarks.stock BOOTSTRAP INPUTS PREDICTIONS
"""

from __future__ import annotations

import sys
from typing import Any

import faust

from streams.core.events import AUTO, Input, Prediction
from streams.core.review import NOBODY_ASKED
from streams.engine.codec import Codec
from tests.benchmarks.loops import trained


def program(bootstrap: str, inputs: str, predictions: str) -> faust.App:
    """An agent that answers each input."""
    app = faust.App(
        f"stock-{predictions}",
        broker=f"kafka://{bootstrap}",
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
    )
    raw = app.topic(inputs, value_type=bytes)
    answers = app.topic(predictions, value_type=bytes)
    codec, model = Codec(), trained()
    decode, encode = codec.decode, codec.encoder(Prediction, predictions)

    @app.agent(raw)  # type: ignore[untyped-decorator]  # Faust's
    async def predict(stream: Any) -> None:
        async for value in stream:
            event = decode(value)
            assert type(event) is Input
            likely = model.predict_proba_one(event.features)
            label = max(likely, key=likely.get)
            prediction = Prediction(
                event.event_id,
                label,
                {str(known): p for known, p in likely.items()},
                likely[label],
                event.features,
                event.text,
                event.occurred_at,
                "",
                0,
                AUTO,
                NOBODY_ASKED,
                0.99,
            )
            await answers.send(
                key=event.event_id.encode(), value=encode(prediction), headers={"route": b"auto"}
            )

    return app


if __name__ == "__main__":
    app = program(*sys.argv[1:4])
    sys.argv[1:] = ["worker", "-l", "info"]
    app.main()
