"""The intake: records of the user's label topics become feedback, with their position as identity.

Label topics have keys, formats and partition counts of their own; feedback has the loop's, so that it can be joined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time
from typing import ClassVar

from faust.types import TP

from streams.core.errors import BadRecord, Unavailable
from streams.core.events import CORRECT, Feedback
from streams.engine.codec import Codec
from streams.engine.guard import Guard, Raw
from streams.engine.producer import Made, Outputs
from streams.engine.sources import LabelRecord
from streams.engine.status import Heart, Progress
from streams.engine.transport import Batch
from streams.engine.worker import Role

CHANNEL = "label-topic"


def feedback_of(record: Raw, labelled: LabelRecord, now_ms: int) -> Feedback:
    """The verdict in a record of a label topic; the same record always gives the same feedback id."""
    position = f"{record.topic}-{record.partition}-{record.offset}"
    return Feedback(
        feedback_id=position,
        event_id=labelled.event_id,
        verdict=CORRECT,
        label=labelled.label,
        reviewer=labelled.reviewer,
        channel=CHANNEL,
        origin=position,
        comment=labelled.comment,
        given_at=record.timestamp if record.timestamp >= 0 else now_ms,
    )


class Intake(Role):
    """See the module.

    Args:
        readers: By label topic, what turns (key, value) into a labelled event id; raises BadRecord or Unavailable.
        feedback: The feedback topic.
    """

    name: ClassVar[str] = "intake"

    def __init__(
        self,
        *,
        readers: Mapping[str, Callable[[bytes | None, bytes | None], LabelRecord]],
        feedback: str,
        codec: Codec,
        outputs: Outputs,
        guard: Guard,
        heart: Heart,
    ) -> None:
        self.topics = tuple(readers)
        self._readers, self._feedback = readers, feedback
        self._encode = codec.encoder(Feedback, feedback)
        self._outputs, self._guard, self._heart = outputs, guard, heart
        self._count = 0

    def handle(self, batch: Batch) -> None:
        """Turns a batch of labels into feedback."""
        read, now_ms, made = self._readers[batch.tp.topic], int(time() * 1000), list[Made]()
        for record in batch.records:
            try:
                self._guard.check_size(record)
                verdict = feedback_of(record, read(record.key, record.value), now_ms)
                value = self._encode(verdict)
            except Unavailable:
                raise
            except BadRecord as error:
                made.append(self._guard.letter(record, "decode", error))
            except Exception as error:  # noqa: BLE001  the guard: the label's function is the user's code
                made.append(self._guard.letter(record, "decode", error))
            else:
                headers = [("feedback_id", verdict.feedback_id.encode())]
                made.append((self._feedback, value, verdict.event_id.encode(), headers))
        self._outputs.send_all(made)
        self._count += len(batch.records)
        self._outputs.poll()

    def prepare(self) -> None:
        """Delivers the feedback."""
        self._outputs.flush()

    def beat(self, state: str, progress: Mapping[TP, Progress]) -> None:
        """Tells positions and counts."""
        numbers = {"labels": self._count, "dead_letters": self._guard.count}
        self._heart.beat(state, progress, numbers=numbers)

    def close(self, progress: Mapping[TP, Progress]) -> None:
        """Says goodbye."""
        self._heart.stop(progress)
