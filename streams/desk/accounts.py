"""The tables of who may come in: the desk's own, which no rebuild touches.

What is secret is kept as a hash alone: whoever reads these tables can sign in as nobody.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table, Text

from streams.desk.tables import own

people = Table(
    "people",
    own,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("password", Text),  # argon2; none for those who come with tokens, or through a proxy
    Column("added_at", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    own,
    Column("hash", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("scopes", Text, nullable=False),  # with spaces between them
    Column("made_at", BigInteger, nullable=False),
    Index("tokens_by_name", "name"),
)

sessions = Table(
    "sessions",
    own,
    Column("hash", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("until", BigInteger, nullable=False),
    Index("sessions_by_name", "name"),
)

links = Table(
    "links",
    own,
    Column("hash", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("until", BigInteger, nullable=False),
)
