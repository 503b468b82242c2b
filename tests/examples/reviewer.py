"""Corrects the model on an event, and waits until all predictors have learned it: `reviewer.py LOOP EVENT`."""

import sys

from streams import Client

loop, event_id = sys.argv[1:]
with Client(loop) as client:  # Kafka: COUNTERPOINT_BOOTSTRAP
    verdict = client.send_feedback(event_id, label=True, reviewer="ada", comment="stolen card")
    outcome = client.wait_outcome(verdict, timeout=10)
    if outcome.model_version is not None:
        client.wait_served(outcome.model_version, timeout=10, model_key=outcome.model_key or "")
    print(outcome.status, outcome.model_version)
