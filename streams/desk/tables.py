"""The tables of the desk, for SQLite and PostgreSQL alike.

``projection`` is a cache of the topics and nothing else: it may be emptied, and is filled again from them.  ``own`` is
what only the desk knows: who holds what, what was postponed, and the verdicts that were confirmed.  Labels are JSON, so
that true, 1, 1.0 and "1" stay four different ones; times are milliseconds since the epoch.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    desc,
    text,
)
from sqlalchemy.schema import CreateIndex, CreateTable

own = MetaData()
projection = MetaData(schema="projection")

WAITING, ANSWERED, EXPIRED = "waiting", "answered", "expired"
DISPUTED = "disputed"
"""Waiting for a senior, since those who were asked disagree."""
UNANSWERED = (WAITING, DISPUTED)
_THEIRS = text("answered_at IS NOT NULL")
SEQUENCE = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself in a column of this very type alone."""


def shape(tables: MetaData, dialect: Dialect) -> str:
    """A digest of how tables are made: another one, and they are another version's."""
    made: list[str] = []
    for table in tables.sorted_tables:
        made.append(str(CreateTable(table).compile(dialect=dialect)))
        indexes = sorted(table.indexes, key=lambda index: index.name or "")
        made += (str(CreateIndex(index).compile(dialect=dialect)) for index in indexes)
    return sha256("\n".join(made).encode()).hexdigest()[:16]


def _cached(name: str, *columns: Column[Any] | Index) -> Table:
    return Table(name, projection, *columns)


positions = _cached(
    "positions",
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("topic_id", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
)

predictions = _cached(
    "predictions",
    Column("event_id", Text, primary_key=True),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("label", Text, nullable=False),
    Column("confidence", Float),
    Column("probability", Float, nullable=False),
    Column("model_key", Text, nullable=False),
    Column("model_version", BigInteger, nullable=False),
    Column("route", Text, nullable=False),
    Column("text", Text),
    # What the verdicts on it come to; nothing while there is none that stands.
    Column("verdict", Text),
    Column("truth", Text),
    Column("reviewer", Text),
    Column("channel", Text),
    Column("answered_at", BigInteger),
    Index("predictions_by_time", desc("at"), desc("event_id")),
    Index("predictions_by_route", "route", "at", "event_id"),
    Index("predictions_by_place", "route", "partition", "offset"),
    Index("predictions_answered", "answered_at"),
    Index(
        "predictions_alike",
        "model_key",
        "label",
        "truth",
        sqlite_where=_THEIRS,
        postgresql_where=_THEIRS,
    ),
)

bodies = _cached(
    "bodies",  # beside the predictions, whose rows are to be short: a filter reads many of them
    Column("event_id", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("value", LargeBinary, nullable=False),
)

reviews = _cached(
    "reviews",
    Column("event_id", Text, primary_key=True),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("label", Text, nullable=False),
    Column("priority", Float, nullable=False),
    Column("requested_at", BigInteger, nullable=False),
    Column("deadline", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Index("reviews_in_order", "state", desc("priority"), "deadline", "event_id"),
    Index("reviews_by_deadline", "state", "deadline"),
)

looked = _cached(
    "looked",  # where several have to agree: who is not to be asked again
    Column("event_id", Text, primary_key=True),
    Column("reviewer", Text, primary_key=True),
)

verdicts = _cached(
    "verdicts",
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("feedback_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column(
        "says", Text
    ),  # its label, if it is the last word of its author on a prediction that is known
    Column("reviewer", Text),
    Column("channel", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Index("verdicts_by_event", "event_id"),
    Index("verdicts_by_id", "feedback_id"),
    Index("verdicts_by_time", "at"),
)

outcomes = _cached(
    "outcomes",
    Column("partition", Integer, primary_key=True),  # of the feedback
    Column("offset", BigInteger, primary_key=True),
    Column("feedback_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("detail", Text),
    Column("model_version", BigInteger),
    Index("outcomes_by_status", "status", "at"),
    Index("outcomes_by_event", "event_id"),
)

scores = _cached(
    "scores",
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("model_key", Text, nullable=False),
    Column("model_version", BigInteger, nullable=False),
    Column("learned", BigInteger, nullable=False),
    Column("metrics", Text, nullable=False),
    Index("scores_by_time", "at", "offset"),
    Index("scores_by_model", "model_key", "at", "offset"),
)

watches = _cached(
    "watches",
    Column("model_key", Text, primary_key=True),
    Column("drifts", Text),  # the newest alarms of its detectors; null where none watches
)

dead_letters = _cached(
    "dead_letters",
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("topic", Text, nullable=False),  # where the record was, and its place there
    Column("of_partition", Integer, nullable=False),
    Column("of_offset", BigInteger, nullable=False),
    Column("role", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("event_id", Text),
    Column("feedback_id", Text),
    Column("value", LargeBinary, nullable=False),
    Index("dead_letters_by_event", "event_id"),
    Index("dead_letters_by_feedback", "feedback_id"),
)

about = Table(
    "about",
    own,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

leases = Table(
    "leases",
    own,
    Column("event_id", Text, primary_key=True),
    Column("reviewer", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("until", BigInteger, nullable=False),
    Index("leases_by_reviewer", "reviewer"),
)

postponed = Table(
    "postponed",
    own,
    Column("event_id", Text, primary_key=True),
    Column("reviewer", Text, nullable=False),
    Column("until", BigInteger, nullable=False),
)

outbox = Table(
    "outbox",
    own,
    Column("number", SEQUENCE, primary_key=True, autoincrement=True),
    Column("feedback_id", Text, nullable=False, unique=True),
    Column("event_id", Text, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("said", Text, nullable=False),  # the whole verdict, as JSON
    Column("channel", Text, nullable=False),
    # Its author has not taken it back: until the topics tell more, nobody is asked for the item.
    Column("settles", Boolean, nullable=False),
    Column("confirmed_at", BigInteger, nullable=False),
    Column("delivered_at", BigInteger),
    Index("outbox_by_event", "event_id"),
    Index("outbox_by_reviewer", "reviewer", "number"),
    Index("outbox_undelivered", "delivered_at", "number"),
)
