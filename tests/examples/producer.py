"""Tells a loop what happened, and asks what its model thinks of it: `producer.py LOOP`."""

import sys

from streams import Client

with Client(loop=sys.argv[1]) as client:  # Kafka: COUNTERPOINT_BOOTSTRAP
    client.send_input("payment-1", {"amount": 129.9, "country": "SE", "hour": 3})
    answer = client.wait_prediction("payment-1", timeout=10)
    print(answer.label, answer.confidence, answer.model_version, answer.route)
