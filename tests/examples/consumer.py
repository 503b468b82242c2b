"""Reads predictions without Counterpoint, with its schema alone: `consumer.py LOOP COUNT SCHEMAS`."""

import io
import os
import sys
from typing import Any

import fastavro
from confluent_kafka import Consumer

loop, count, schemas = sys.argv[1:]
schema = fastavro.schema.load_schema(f"{schemas}/prediction.avsc")
kafka = {"bootstrap.servers": os.environ["COUNTERPOINT_BOOTSTRAP"], "group.id": "downstream"}
consumer = Consumer(kafka | {"auto.offset.reset": "earliest"})
consumer.subscribe([f"{loop}.predictions"])
for _ in range(int(count)):
    record = consumer.consume(1)[0]
    body = io.BytesIO(record.value()[10:])  # after C3 01 and the schema's fingerprint
    prediction: Any = fastavro.schemaless_reader(body, schema)
    print(prediction["event_id"], prediction["label"], prediction["route"], record.headers())
consumer.close()
