"""The schema registry: Confluent's client, with its failures told apart by whose fault they are.

It keeps nothing on disk, and it does not wait: who calls it backs off and tries again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from time import monotonic
from typing import Any

import httpx  # the client lets its HTTP library's errors out
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.error import OAuthTokenError

from streams.core.errors import BadRecord, ConfigError, Mistake, StreamsError, Unavailable

ASK_AGAIN_S = 30.0
"""An id that the registry did not know is not asked for again at once: garbage would cost a request per record."""
BUSY, CONFLICT = (408, 429), 409


class SchemaRegistry:
    """Ids of schemas and schemas of ids, each asked for once.

    What was learned stays valid while the process lives, whatever the registry forgets: an id means one schema.

    Args:
        conf: Properties of ``confluent_kafka.schema_registry.SchemaRegistryClient``, with ``url``.
    """

    def __init__(self, conf: Mapping[str, Any]) -> None:
        self.url = re.sub(r"//[^/@]*@", "//", str(conf["url"]))
        self._client = SchemaRegistryClient({"timeout": 5, "max.retries": 0, **conf})
        self._ids: dict[str, int] = {}
        self._schemas: dict[int, dict[str, Any]] = {}
        self._unknown: dict[int, float] = {}

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        """The id of the schema, which is registered under the subject unless it is there."""
        if subject not in self._ids:
            given = Schema(json.dumps(schema), "AVRO")
            try:
                found = self._registered(subject, given)
            except (SchemaRegistryError, OAuthTokenError, httpx.HTTPError) as error:
                raise self._refused(subject, error) from error
            self._ids[subject] = found
            self._schemas[found] = schema
        return self._ids[subject]

    def _registered(self, subject: str, given: Schema) -> int:
        register = self._client.register_schema
        try:
            found: int = register(subject, given, normalize_schemas=True)
        except SchemaRegistryError as error:
            if error.http_status_code != CONFLICT:
                raise
            # It does not fit the schema before it; or another worker registers the same one right now.
            found = register(subject, given, normalize_schemas=True)
        return found

    def schema(self, schema_id: int) -> dict[str, Any]:
        """The schema of an id; BadRecord if there is none, or it is not Avro."""
        if schema_id not in self._schemas:
            if monotonic() < self._unknown.get(schema_id, 0.0):
                raise BadRecord(self._no_such(schema_id))
            self._schemas[schema_id] = self._fetch(schema_id)
        return self._schemas[schema_id]

    def close(self) -> None:
        """Close the connection; what was learned stays known."""
        self._client.__exit__()  # its only way to be closed

    def _fetch(self, schema_id: int) -> dict[str, Any]:
        try:
            found = self._client.get_schema(schema_id)
        except SchemaRegistryError as error:
            if error.http_status_code != 404:
                raise self._no_answer(f"schema {schema_id}", error) from error
            self._note_unknown(schema_id)
            raise BadRecord(self._no_such(schema_id)) from error
        except (OAuthTokenError, httpx.HTTPError) as error:
            raise self._no_answer(f"schema {schema_id}", error) from error
        if found.schema_type != "AVRO" or found.schema_str is None:
            raise BadRecord(f"schema {schema_id} of {self.url} is {found.schema_type}, not Avro")
        parsed: dict[str, Any] = json.loads(found.schema_str)
        return parsed

    def _note_unknown(self, schema_id: int) -> None:
        if len(self._unknown) >= 10_000:
            self._unknown.clear()
        self._unknown[schema_id] = monotonic() + ASK_AGAIN_S

    def _no_such(self, schema_id: int) -> str:
        return (
            f"written with schema {schema_id}, which the registry {self.url} does not know: "
            "was it written with another registry?"
        )

    def _refused(self, subject: str, error: Exception) -> StreamsError:
        status = getattr(error, "http_status_code", 0)
        if 400 <= status < 500 and status not in BUSY:
            expected = f"a schema that the registry {self.url} accepts; it says: {error}"
            return ConfigError([Mistake("registry subject", subject, expected)])
        return self._no_answer(subject, error)

    def _no_answer(self, what: str, error: Exception) -> Unavailable:
        reason = str(error) or type(error).__name__
        return Unavailable(f"the schema registry {self.url} does not answer for {what}: {reason}")
