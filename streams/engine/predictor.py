"""The predictor: raw inputs in, predictions out, by its own replica of the model.

It never waits for learning: before each batch the replica may fold lessons for a few milliseconds, no more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import perf_counter, time
from typing import ClassVar, TypeAlias

from faust.types import TP

from streams.core.errors import BadRecord, Unavailable
from streams.core.events import AUTO, Features, Input, Prediction
from streams.core.explain import Explanation
from streams.core.fold import Fold
from streams.core.model import Answer
from streams.core.review import Memory, Policy, Router
from streams.engine.codec import Codec
from streams.engine.guard import Guard
from streams.engine.producer import Headers, Made, Outputs
from streams.engine.replica import Replica
from streams.engine.status import Heart, Progress
from streams.engine.transport import Batch
from streams.engine.worker import Role

FOLD_BUDGET_S = 0.005
TO_PERSON: Headers = [("route", b"review")]
TO_NOBODY: Headers = [("route", b"auto")]
Explained: TypeAlias = Explanation | tuple[None, None]
NOT_EXPLAINED: Explained = (None, None)


class Predictor(Role):
    """See the module.

    Args:
        inputs: Topic of the raw inputs.
        read: Turns (key, value) into an input; raises BadRecord or Unavailable.
        model_key: Gives the model's key for features, and may raise BadRecord; None if there is one model.
        policy: Who is asked for a verdict.
        partitions: Tells how many the inputs have; a budget is split over them.
        predictions: Topic of the predictions.
        explains: Whether those that are sent to a person are explained.
    """

    name: ClassVar[str] = "predictor"
    notes_always: ClassVar[bool] = True

    def __init__(
        self,
        *,
        inputs: str,
        read: Callable[[bytes | None, bytes | None], Input],
        model_key: Callable[[Features], str] | None,
        policy: Policy,
        partitions: Callable[[], int],
        explains: bool,
        predictions: str,
        replica: Replica,
        codec: Codec,
        outputs: Outputs,
        guard: Guard,
        heart: Heart,
    ) -> None:
        self.topics, self._inputs, self._partitions = (inputs,), inputs, partitions
        self._read, self._policy = read, policy
        self._model_key, self._is_one = model_key or (lambda features: ""), model_key is None
        self._predictions, self.replica = predictions, replica
        self._encode = codec.encoder(Prediction, predictions)
        self._outputs, self._guard, self._heart = outputs, guard, heart
        self._routers: dict[int, Router] = {}
        self._memories: dict[int, Memory] = {}
        self._noted: Mapping[TP, str] = {}
        self._explains, self._unexplained, self._why_not = explains, 0, list[str]()
        self._count = self._asked = 0
        self._rested = 0.0

    def open(self) -> None:
        """Loads the model: the newest snapshot, and the log after it."""
        self.replica.open()

    def noted(self, notes: Mapping[TP, str]) -> None:
        """Hears what the routing remembered when the offsets were committed."""
        self._noted = notes

    def assigned(self, committed: Mapping[TP, int | None], abort: threading.Event) -> None:
        """Has no state of its own but the routing's, which goes on where the offsets are."""
        count, noted = self._partitions() if committed else 1, self._noted
        self._memories = {
            tp.partition: Memory(tp.partition, count, noted.get(tp, "")) for tp in committed
        }
        self._routers = {p: self._policy.router(memory) for p, memory in self._memories.items()}

    def notes(self) -> Mapping[TP, str]:
        """What the routing remembers of all that was handled so far."""
        return {TP(self._inputs, p): memory.note() for p, memory in self._memories.items()}

    def handle(self, batch: Batch) -> None:
        """Predicts a batch, by the newest model that folding it in time allows."""
        replica, topic, made = self.replica, self._predictions, list[Made]()
        self._fold()
        route = self._routers[batch.tp.partition]
        self._memories[batch.tp.partition].now = time()
        read, encode, new = self._read, self._encode, tuple.__new__
        limit, key_of, key, asked = self._guard.limit, self._model_key, "", 0
        only = replica.serving(key) if self._is_one else None
        for record in batch.records:
            stage, event_id = "decode", None
            try:
                payload = record.value
                if payload is not None and len(payload) > limit:
                    self._guard.check_size(record)
                event_id, features, text, occurred_at = read(record.key, payload)
                stage = "predict"
                fold = only
                if fold is None:
                    key = key_of(features)
                    fold = replica.serving(key)
                label, scores, confidence = answer = fold.answer(features)
                path, reason, probability = route(
                    event_id, label, scores, confidence, features, fold.experience
                )
                why = NOT_EXPLAINED if path == AUTO else self._explain(fold, features, answer)
                made_of = (
                    *(event_id, label, scores, confidence, features, text, occurred_at),
                    *(key, fold.version, path, reason, probability, *why),
                )
                value = encode(new(Prediction, made_of))
            except Unavailable:
                raise
            except BadRecord as error:
                made.append(self._guard.letter(record, stage, error, event_id))
            except Exception as error:  # noqa: BLE001  the guard: the model and the key are the user's code
                made.append(self._guard.letter(record, stage, error, event_id))
            else:
                if path == AUTO:
                    made.append((topic, value, event_id.encode(), TO_NOBODY))
                else:
                    asked += 1
                    made.append((topic, value, event_id.encode(), TO_PERSON))
        self._asked += asked
        self._outputs.send_all(made)
        self._count += len(batch.records)
        self._outputs.poll()

    def _explain(self, fold: Fold, features: Features, answer: Answer) -> Explained:
        """Why the model said so; nothing if that cannot be told: a prediction is more than its explanation."""
        if not self._explains:
            return NOT_EXPLAINED
        try:
            return fold.explain(features, answer) or NOT_EXPLAINED
        except Exception as error:  # noqa: BLE001  the model is the user's code
            self._unexplained += 1
            if not self._why_not:
                told = f"{type(error).__name__}: {error}"
                self._why_not.append(f"sends predictions without an explanation: {told}")
            return NOT_EXPLAINED

    def tick(self) -> float:
        """Folds while no inputs come; the versions served are told within a few milliseconds."""
        more = self._fold()
        pause = self._heart.served(self.replica.versions)
        return FOLD_BUDGET_S if more else pause  # the replica wakes us when a record comes

    def _fold(self) -> bool:
        """Folds for a moment, and then not for as long: far behind, half of the time is for predicting."""
        if perf_counter() < self._rested:
            return True
        more = self.replica.fold(FOLD_BUDGET_S)
        if more:
            self._rested = perf_counter() + FOLD_BUDGET_S
        return more

    def prepare(self) -> None:
        """Delivers the predictions."""
        self._outputs.flush()

    def beat(self, state: str, progress: Mapping[TP, Progress]) -> None:
        """Tells versions, positions and counts."""
        unasked = sum(memory.unasked for memory in list(self._memories.values()))
        short = [f"the review budget kept back {unasked:,} events"] if unasked else []
        self._heart.beat(
            state,
            progress,
            versions=self.replica.versions,
            numbers={
                "inputs": self._count,
                "reviews": self._asked,
                "kept_back": unasked,
                "unexplained": self._unexplained,
                "dead_letters": self._guard.count,
                **self.replica.numbers(),
            },
            notes=[*self.replica.notes, *self.replica.refused(), *self._why_not, *short],
        )

    def close(self, progress: Mapping[TP, Progress]) -> None:
        """Stops following the log."""
        self.replica.close()
        self._heart.stop(progress)
