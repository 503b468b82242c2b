"""Takes a batch of records into the projection: what the rows become, in one transaction with the positions read to.

Which order the topics come in does not matter: whatever of an event arrives last completes it.  It reads no topics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Table,
    bindparam,
    delete,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from streams.core.errors import BadRecord, Conflict
from streams.core.events import (
    REVIEW,
    DeadLetter,
    Feedback,
    Outcome,
    Prediction,
    Review,
    Score,
    Status,
)
from streams.core.standing import standing
from streams.core.verdicts import Lesson, Rules, lesson
from streams.desk import rows
from streams.desk.tables import (
    ANSWERED,
    EXPIRED,
    WAITING,
    bodies,
    dead_letters,
    outcomes,
    positions,
    predictions,
    reviews,
    scores,
    verdicts,
    workers,
)

KEEP = 200_000
"""Predictions that nobody is asked about which are kept, the newest ones; those that somebody is asked about all are."""
PRUNED_EVERY = 5_000
AT_ONCE = 500
"""Event ids that are asked for in one statement."""


class Came(NamedTuple):
    """A record, and its place."""

    topic: str
    partition: int
    offset: int
    at: int
    key: bytes | None
    value: bytes


class Read(NamedTuple):
    """How far a partition was read."""

    topic: str
    partition: int
    position: int


class Folding:
    """Keeps the projection's tables.

    Attributes:
        topic_ids: By topic, its identity: one that was made anew is not read on.
        unreadable: Records that were none.

    Args:
        decode: The record that bytes hold; BadRecord if none.
        keep: How many predictions that nobody is asked about are kept.
    """

    def __init__(
        self,
        rules: Rules,
        decode: Callable[[bytes], Any],
        *,
        is_sqlite: bool,
        keep: int = KEEP,
    ) -> None:
        self._rules, self._decode = rules, decode
        self._is_sqlite = is_sqlite
        self._insert: Any = (sqlite if is_sqlite else postgresql).insert
        self._sql: dict[str, str] = {}
        self._keep, self._unpruned, self._clock = keep, PRUNED_EVERY, 0
        self.topic_ids: Mapping[str, str] = {}
        self.unreadable = 0

    def positions(self, connection: Connection) -> dict[tuple[str, int], int]:
        """Where to go on reading.

        Raises:
            Conflict: A topic is not the one that was read: it was made anew.
        """
        found = {}
        for row in connection.execute(select(positions)):
            if self.topic_ids.get(row.topic, row.topic_id) != row.topic_id:
                message = (
                    f"topic {row.topic} was made anew since the desk has read it: "
                    "stop the desk and run `counterpoint desk rebuild`"
                )
                raise Conflict(message)
            found[row.topic, row.partition] = row.position
        return found

    def take(
        self, connection: Connection, came: Sequence[Came], read: Iterable[Read]
    ) -> dict[type, int]:
        """Takes records in, and notes how far the partitions were read; how many there were of each kind.

        Raises:
            Conflict: Another desk has read on in the same tables; nothing is to be changed.
        """
        self._advance(connection, read)
        by_kind: dict[type, list[tuple[Any, Came]]] = defaultdict(list)
        for each in came:
            try:
                record = self._decode(each.value)
            except BadRecord:
                self.unreadable += 1  # a dead letter tells of it, where it matters
            else:
                by_kind[type(record)].append((record, each))
                self._clock = max(self._clock, each.at)
        touched = self._predictions(connection, by_kind[Prediction])
        touched |= self._reviews(connection, by_kind[Review])
        touched |= self._verdicts(connection, by_kind[Feedback])
        self._outcomes(connection, by_kind[Outcome])
        self._scores(connection, by_kind[Score])
        self._workers(connection, by_kind[Status])
        self._letters(connection, by_kind[DeadLetter])
        self._settle(connection, touched)
        self._expire(connection)
        self._prune(connection, len(by_kind[Prediction]))
        return {kind: len(found) for kind, found in by_kind.items() if found}

    def _advance(self, connection: Connection, read: Iterable[Read]) -> None:
        for each in read:
            row = each._asdict() | {"topic_id": self.topic_ids.get(each.topic, "")}
            forward = (
                self._insert(positions)
                .values(row)
                .on_conflict_do_update(
                    index_elements=["topic", "partition"],
                    set_={"position": each.position},
                    where=positions.c.position < each.position,
                )
                .returning(positions.c.position)
            )
            if connection.scalar(forward) is None:
                message = (
                    f"{each.topic}-{each.partition} was read by another desk in the same database"
                )
                raise Conflict(message)

    def _new(self, connection: Connection, table: Table, made: Sequence[rows.Fields]) -> None:
        """Adds rows; those that are there stay as they are."""
        if made:
            self._add(connection, self._insert(table).on_conflict_do_nothing(), made)

    def _add(self, connection: Connection, into: Insert, made: Sequence[rows.Fields]) -> None:
        """Adds rows by the text of a statement, made once: SQLAlchemy's own way takes a third of all time."""
        name = into.table.name
        if name not in self._sql:
            dialect = sqlite.dialect(paramstyle="named") if self._is_sqlite else connection.dialect
            self._sql[name] = str(into.compile(dialect=dialect, column_keys=list(made[0])))
        connection.exec_driver_sql(self._sql[name], list(made))

    def _predictions(self, connection: Connection, came: list[tuple[Any, Came]]) -> set[str]:
        """The first of an event counts, until it is forgotten: as the joiner has it."""
        made = [rows.prediction_row(record, *each[1:4]) for record, each in came]
        if not made:
            return set()
        self._replace_forgotten(connection, predictions, made)
        shown = [
            {"event_id": row["event_id"], "at": each.at, "value": each.value}
            for row, (_, each) in zip(made, came, strict=True)
        ]
        self._replace_forgotten(connection, bodies, shown)
        return {row["event_id"] for row in made}

    def _replace_forgotten(
        self, connection: Connection, table: Table, made: Sequence[rows.Fields]
    ) -> None:
        into = self._insert(table)
        forgotten_after: ColumnElement[int] = literal_column(str(2 * self._rules.window_ms))
        added = into.on_conflict_do_update(
            index_elements=["event_id"],
            set_={name: into.excluded[name] for name in made[0] if name != "event_id"},
            where=table.c.at + forgotten_after < into.excluded.at,
        )
        self._add(connection, added, made)

    def _reviews(self, connection: Connection, came: list[tuple[Any, Came]]) -> set[str]:
        made = [rows.review_row(record, *each[1:4], each.value) for record, each in came]
        self._new(connection, reviews, made)
        return {row["event_id"] for row in made}

    def _verdicts(self, connection: Connection, came: list[tuple[Any, Came]]) -> set[str]:
        made = [rows.verdict_row(record, *each[1:4], each.value) for record, each in came]
        self._new(connection, verdicts, made)
        return {row["event_id"] for row in made}

    def _outcomes(self, connection: Connection, came: list[tuple[Any, Came]]) -> None:
        self._new(
            connection, outcomes, [rows.outcome_row(record, each.at) for record, each in came]
        )

    def _scores(self, connection: Connection, came: list[tuple[Any, Came]]) -> None:
        made = [rows.score_row(record, *each[1:4]) for record, each in came]
        self._new(connection, scores, made)

    def _workers(self, connection: Connection, came: list[tuple[Any, Came]]) -> None:
        """The last heartbeat of each."""
        newest = {
            f"{record.role}/{record.worker}": {"at": each.at, "value": each.value}
            for record, each in came
        }
        if newest:
            into = self._insert(workers)
            fresh = into.on_conflict_do_update(
                index_elements=["worker"],
                set_={"at": into.excluded.at, "value": into.excluded.value},
            )
            made = [{"worker": rows.storable(name), **row} for name, row in newest.items()]
            connection.execute(fresh, made)

    def _letters(self, connection: Connection, came: list[tuple[Any, Came]]) -> None:
        made = [rows.letter_row(record, *each[1:4], each.value) for record, each in came]
        self._new(connection, dead_letters, made)

    def _settle(self, connection: Connection, touched: set[str]) -> None:
        """What the verdicts on these events come to."""
        said: dict[str, list[Any]] = defaultdict(list)
        for ids in _chunks(sorted(touched)):
            wanted = select(verdicts).where(verdicts.c.event_id.in_(ids))
            for row in connection.execute(wanted.order_by(verdicts.c.partition, verdicts.c.offset)):
                said[row.event_id].append(row)
        if not said:
            return
        seen = self._seen(connection, sorted(said))
        settled, asked, teach = [], [], []
        nothing: Any = None
        for event_id, found in said.items():
            given = [self._decode(row.value) for row in found]
            stands = standing(given)
            record = seen.get(event_id)
            row = next((r for r, g in zip(found, given, strict=True) if g is stands), nothing)
            settled.append(_settled(event_id, row, self._says(record, stands)))
            asked.append({"of": event_id, "is": WAITING if stands is None else ANSWERED})
            teach += [
                {"p": each.partition, "o": each.offset, "teaches": self._says(record, verdict)}
                for each, verdict in zip(found, given, strict=True)
            ]
        p, v = predictions.c, verdicts.c
        names = ("verdict", "truth", "reviewer", "channel", "answered_at")
        stands_on: dict[str, Any] = {name: bindparam(f"_{name}") for name in names}
        connection.execute(
            update(predictions).where(p.event_id == bindparam("of")).values(stands_on), settled
        )
        connection.execute(
            update(reviews)
            .where(reviews.c.event_id == bindparam("of"))
            .values(state=bindparam("is")),
            asked,
        )
        connection.execute(
            update(verdicts)
            .where(v.partition == bindparam("p"), v.offset == bindparam("o"))
            .values(says=bindparam("teaches")),
            teach,
        )

    def _seen(self, connection: Connection, event_ids: list[str]) -> dict[str, Prediction]:
        """What was predicted of these events, as a prediction or a review tells."""
        seen: dict[str, Prediction] = {}
        for ids in _chunks(event_ids):
            for table in (reviews, bodies):
                wanted = select(table.c.event_id, table.c.value).where(table.c.event_id.in_(ids))
                for event_id, value in connection.execute(wanted):
                    seen[event_id] = rows.as_prediction(self._decode(value))
        return seen

    def _says(self, seen: Prediction | None, verdict: Feedback | None) -> str | None:
        """The label that a verdict teaches; None if it teaches none, as far as is known."""
        if seen is None or verdict is None:
            return None
        try:
            found = lesson(self._rules, seen, verdict)
        except BadRecord:  # the joiner has made a dead letter of it
            return None
        return rows.storable(rows.text_of(found.label)) if isinstance(found, Lesson) else None

    def _expire(self, connection: Connection) -> None:
        """By the broker's clock, as far as it was read: so a rebuild comes to the same."""
        connection.execute(
            update(reviews)
            .where(reviews.c.state == WAITING, reviews.c.deadline < self._clock)
            .values(state=EXPIRED)
        )

    def _prune(self, connection: Connection, came: int) -> None:
        self._unpruned += came
        if self._unpruned < PRUNED_EVERY:
            return
        self._unpruned = 0
        auto = predictions.c.route != REVIEW
        oldest_kept = (
            select(predictions.c.at, predictions.c.event_id)
            .where(auto)
            .order_by(predictions.c.at.desc(), predictions.c.event_id.desc())
            .offset(self._keep)
            .limit(1)
        )
        edge = connection.execute(oldest_kept).first()
        if edge is None:
            return
        gone = auto & (predictions.c.at <= edge.at)
        ids = select(predictions.c.event_id).where(gone)
        connection.execute(delete(bodies).where(bodies.c.event_id.in_(ids)))
        connection.execute(delete(predictions).where(gone))


def _settled(event_id: str, row: Any, truth: str | None) -> rows.Fields:
    found = {"of": event_id, "_truth": truth}
    names = {"_verdict": "verdict", "_reviewer": "reviewer", "_channel": "channel"}
    found |= {name: None if row is None else getattr(row, of) for name, of in names.items()}
    return found | {"_answered_at": None if row is None else row.at}


def _chunks(ids: list[str]) -> Iterable[list[str]]:
    return (ids[at : at + AT_ONCE] for at in range(0, len(ids), AT_ONCE))
