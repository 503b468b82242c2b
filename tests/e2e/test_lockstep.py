"""In lockstep the loop is River's own progressive validation, to the last digit, through a real broker."""

from __future__ import annotations

from pathlib import Path

import pytest
from river import datasets, metrics

from streams.client import Client
from tests.conftest import Kafka
from tests.e2e.system import System

SOURCE = """
from river import linear_model, naive_bayes, preprocessing, tree
from streams import Loop

loop = Loop(name={name!r}, task="binary", partitions=2, model={more})
"""


@pytest.mark.parametrize(
    ("model", "accuracy"),
    [
        ("preprocessing.StandardScaler() | linear_model.LogisticRegression()", 0.892800),
        ("naive_bayes.GaussianNB()", 0.884708),
        ("tree.HoeffdingTreeClassifier()", 0.879904),
    ],
)
def test_in_lockstep_the_loop_has_the_progressive_accuracy_of_river(
    broker: Kafka, tmp_path: Path, unique: str, model: str, accuracy: float
) -> None:
    """Send, wait for the prediction, give the verdict, wait until it is served, next."""
    with System(broker.bootstrap, tmp_path, SOURCE, unique, model) as system:
        system.prepare()
        system.start_all()
        measured = metrics.Accuracy()
        with Client(loop=unique, settings=system.settings) as client:
            for number, (features, truth) in enumerate(datasets.Phishing()):
                event_id = f"site-{number}"
                client.send_input(event_id, features)
                prediction = client.wait_prediction(event_id)
                if prediction.label is not None:
                    measured.update(truth, prediction.label)
                verdict = client.send_feedback(event_id, label=truth, reviewer="river")
                outcome = client.wait_outcome(verdict)
                assert outcome.model_version is not None
                client.wait_served(outcome.model_version)
        assert measured.get() == pytest.approx(accuracy, abs=5e-7)
