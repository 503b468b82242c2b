"""Routing on a real broker: what it remembers comes back with the offsets, however the predictor ends."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from streams.core.events import Prediction
from streams.core.review import FEW
from tests.conftest import Kafka
from tests.e2e.system import PHISHING, System, await_that

BUDGET = 50
MORE = (
    f"partitions=1, review=(review.Uncertain(0.05) | review.Everything().limit("
    f"review.Budget(per_day={BUDGET}))),"
)


def first_predictions(system: System) -> dict[str, Prediction]:
    """By event, the one that counts."""
    found: dict[str, Prediction] = {}
    for prediction in system.records("predictions", Prediction):
        found.setdefault(prediction.event_id, prediction)
    return found


@pytest.mark.parametrize(
    ("delivery", "end"),
    [("at-least-once", signal.SIGKILL), ("transactional", signal.SIGTERM)],
)
def test_a_restarted_predictor_goes_on_with_what_its_routing_remembers(
    broker: Kafka, tmp_path: Path, unique: str, delivery: str, end: signal.Signals
) -> None:
    more = MORE + f"delivery={delivery!r},"
    with System(broker.bootstrap, tmp_path, PHISHING, unique, more) as system:
        system.prepare()
        for first, last in ((0, FEW - 10), (FEW - 10, BUDGET + 10)):
            worker = system.start("predictor", "predictor-1")
            system.await_running(worker)
            system.send_inputs(f"event-{n}" for n in range(first, last))
            await_predicted(system, last)
            await_kept_back(system, worker, max(last - BUDGET, 0))
            system.end(worker, end)
        decided = first_predictions(system).values()
        asked = [p.reason for p in decided if p.route == "review"]
        reasons = Counter(reason for whole in asked for reason in whole.split(" + "))
        assert reasons["cold start"] == FEW
        assert reasons["everything"] == BUDGET


def await_predicted(system: System, count: int) -> None:
    """So many are predicted, and committed."""
    await_that(lambda: len(first_predictions(system)) == count, what=f"{count} predicted")
    await_that(lambda: system.committed("predictor", "inputs").get(0, 0) >= count)


def await_kept_back(system: System, worker: str, count: int) -> None:
    def told() -> bool:
        status = system.status(worker)
        return status is not None and status.numbers.get("kept_back") == count

    await_that(told, within_s=60, what=f"{count} kept back in the status")
