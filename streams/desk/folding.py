"""Takes a batch of records into the projection: what the rows become, in one transaction with the positions read to.

Which order the topics come in does not matter: whatever of an event arrives last completes it.  It reads no topics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    Column,
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
    AUTO,
    DeadLetter,
    Feedback,
    Label,
    Outcome,
    Prediction,
    Review,
    Score,
)
from streams.core.standing import Said, Standing, standing
from streams.core.verdicts import Rules
from streams.desk import rows
from streams.desk.tables import (
    ANSWERED,
    DISPUTED,
    EXPIRED,
    UNANSWERED,
    WAITING,
    bodies,
    dead_letters,
    looked,
    outcomes,
    positions,
    predictions,
    reviews,
    scores,
    verdicts,
    watches,
)

AT_ONCE = 500
"""Event ids that are asked for in one statement."""

_EVENT: BindParameter[str] = bindparam("of")
_STANDS: dict[str, Any] = {
    name: bindparam(f"_{name}")
    for name in ("verdict", "truth", "reviewer", "channel", "answered_at")
}
_SETTLE = update(predictions).where(predictions.c.event_id == _EVENT).values(_STANDS)
_STATE = update(reviews).where(reviews.c.event_id == _EVENT).values(state=bindparam("is"))
_TEACH = (
    update(verdicts)
    .where(verdicts.c.partition == bindparam("p"), verdicts.c.offset == bindparam("o"))
    .values(says=bindparam("teaches"))
)


class Came(NamedTuple):
    """A record, and its place."""

    topic: str
    partition: int
    offset: int
    at: int
    key: bytes | None
    value: bytes


class Read(NamedTuple):
    """How far a partition was read.

    Attributes:
        keep_from: Of predictions that nobody is asked about, those at earlier offsets are forgotten.  It depends on the
            position alone, so that what is kept does not depend on when it was read.
    """

    topic: str
    partition: int
    position: int
    keep_from: int = 0


class Folding:
    """Keeps the projection's tables.

    Attributes:
        topic_ids: By topic, its identity: one that was made anew is not read on.
        unreadable: Records that were none.

    Args:
        decode: The record that bytes hold; BadRecord if none.
    """

    def __init__(
        self,
        rules: Rules,
        decode: Callable[[bytes], Any],
        *,
        is_sqlite: bool,
    ) -> None:
        self._rules, self._decode = rules, decode
        self._is_sqlite = is_sqlite
        self._insert: Any = (sqlite if is_sqlite else postgresql).insert
        self._sql: dict[str, str] = {}
        self._clock = 0
        self.topic_ids: Mapping[str, str] = {}
        self._known: dict[tuple[str, int], int] = {}
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
        self._known = dict(found)
        return found

    def take(
        self, connection: Connection, came: Sequence[Came], read: Sequence[Read]
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
        self._letters(connection, by_kind[DeadLetter])
        self._settle(connection, touched)
        self._expire(connection)
        self._prune(connection, read)
        return {kind: len(found) for kind, found in by_kind.items() if found}

    def _advance(self, connection: Connection, read: Sequence[Read]) -> None:
        for each in read:
            place = each.topic, each.partition
            # Where this desk's last look ended: if another has read on since, these records are partly taken already.
            known = self._known.get(place)
            self._known[place] = each.position
            row = {
                "topic": each.topic,
                "partition": each.partition,
                "topic_id": self.topic_ids.get(each.topic, ""),
                "position": each.position,
            }
            forward = (
                self._insert(positions)
                .values(row)
                .on_conflict_do_update(
                    index_elements=["topic", "partition"],
                    set_={"position": each.position},
                    where=(positions.c.position == known) & (positions.c.position < each.position),
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
        self._replace_forgotten(connection, predictions.c.at, made)
        shown = [
            {"event_id": row["event_id"], "at": each.at, "value": each.value}
            for row, (_, each) in zip(made, came, strict=True)
        ]
        self._replace_forgotten(connection, bodies.c.at, shown)
        return {row["event_id"] for row in made}

    def _replace_forgotten(
        self, connection: Connection, at: Column[int], made: Sequence[rows.Fields]
    ) -> None:
        """Adds rows, by when the prediction was made; one that the joiner has forgotten gives way."""
        if not made:
            return
        into = self._insert(at.table)
        forgotten_after: ColumnElement[int] = literal_column(str(2 * self._rules.window_ms))
        added = into.on_conflict_do_update(
            index_elements=["event_id"],
            set_={name: into.excluded[name] for name in made[0] if name != "event_id"},
            where=at + forgotten_after < into.excluded[at.name],
        )
        self._add(connection, added, made)

    def _reviews(self, connection: Connection, came: list[tuple[Any, Came]]) -> set[str]:
        """The first of an event counts, until its prediction is forgotten: then it is asked again."""
        made = [rows.review_row(record, *each[1:4], each.value) for record, each in came]
        self._replace_forgotten(connection, reviews.c.requested_at, made)
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
        newest = {row["model_key"]: row for row in (rows.watch_row(record) for record, _ in came)}
        if newest:
            into = self._insert(watches)
            told = {"drifts": into.excluded["drifts"]}
            replaced = into.on_conflict_do_update(index_elements=["model_key"], set_=told)
            self._add(connection, replaced, list(newest.values()))

    def _letters(self, connection: Connection, came: list[tuple[Any, Came]]) -> None:
        made = [rows.letter_row(record, *each[1:4], each.value) for record, each in came]
        self._new(connection, dead_letters, made)

    def _settle(self, connection: Connection, touched: set[str]) -> None:
        """What the verdicts on these events come to."""
        said = self._said(connection, touched)
        shown = self._seen(connection, bodies.c.at, sorted(said))
        asked = self._seen(connection, reviews.c.requested_at, sorted(said))
        settled: list[rows.Fields] = []
        states: list[rows.Fields] = []
        teach: list[rows.Fields] = []
        look: list[rows.Fields] = []
        for event_id, found in said.items():
            given = [Said(row.at, self._decode(row.value)) for row in found]
            opinions: dict[int, Label] = {}
            if event_id in asked:
                stands = standing(self._rules, *asked[event_id], given)
                states.append({"of": event_id, "is": _state(stands)})
                look += _looks(event_id, stands, given)
                opinions |= stands.opinions
            if event_id in shown:
                stands = standing(self._rules, *shown[event_id], given)
                row = None if stands.place is None else found[stands.place]
                settled.append(_settled(event_id, row, stands.truth))
                opinions |= stands.opinions
            teach += [
                {"p": row.partition, "o": row.offset, "teaches": _stored(opinions.get(place))}
                for place, row in enumerate(found)
            ]
        for change, made in ((_SETTLE, settled), (_STATE, states), (_TEACH, teach)):
            if made:
                connection.execute(change, made)
        if self._rules.reviewers is not None:
            for ids in _chunks(sorted(asked)):
                connection.execute(delete(looked).where(looked.c.event_id.in_(ids)))
            self._new(connection, looked, look)

    def _said(self, connection: Connection, touched: set[str]) -> dict[str, list[Any]]:
        """The verdicts on these events, in their order."""
        said: dict[str, list[Any]] = defaultdict(list)
        for ids in _chunks(sorted(touched)):
            wanted = select(verdicts).where(verdicts.c.event_id.in_(ids))
            for row in connection.execute(wanted.order_by(verdicts.c.partition, verdicts.c.offset)):
                said[row.event_id].append(row)
        return said

    def _seen(
        self, connection: Connection, at: Column[int], event_ids: list[str]
    ) -> dict[str, tuple[Prediction, int]]:
        """What was predicted of these events, and when, as a table of predictions or of reviews tells."""
        table = at.table
        seen = {}
        for ids in _chunks(event_ids):
            wanted = select(table.c.event_id, table.c.value, at).where(table.c.event_id.in_(ids))
            for event_id, value, predicted_at in connection.execute(wanted):
                seen[event_id] = (rows.as_prediction(self._decode(value)), predicted_at)
        return seen

    def _expire(self, connection: Connection) -> None:
        """By the broker's clock, as far as it was read: so a rebuild comes to the same."""
        connection.execute(
            update(reviews)
            .where(reviews.c.state.in_(UNANSWERED), reviews.c.deadline < self._clock)
            .values(state=EXPIRED)
        )

    def _prune(self, connection: Connection, read: Sequence[Read]) -> None:
        p = predictions.c
        for each in read:
            if each.keep_from > 0:
                old = (p.partition == each.partition) & (p.offset < each.keep_from)
                gone = (p.route == AUTO) & old
                ids = select(p.event_id).where(gone)
                connection.execute(delete(bodies).where(bodies.c.event_id.in_(ids)))
                connection.execute(delete(predictions).where(gone))


def _state(stands: Standing) -> str:
    if stands.place is not None:
        return ANSWERED
    return DISPUTED if stands.senior else WAITING


def _looks(event_id: str, stands: Standing, given: Sequence[Said]) -> list[rows.Fields]:
    """Who is not to be asked about the event again."""
    names = {given[place].verdict.reviewer for place in stands.heard}
    return [
        {"event_id": event_id, "reviewer": rows.storable(name)}
        for name in sorted(name for name in names if name is not None)
    ]


def _settled(event_id: str, row: Any, truth: Label | None) -> rows.Fields:
    found = {"of": event_id, "_truth": _stored(truth)}
    names = {"_verdict": "verdict", "_reviewer": "reviewer", "_channel": "channel"}
    found |= {name: None if row is None else getattr(row, of) for name, of in names.items()}
    return found | {"_answered_at": None if row is None else row.at}


def _stored(label: Label | None) -> str | None:
    return None if label is None else rows.storable(rows.text_of(label))


def _chunks(ids: list[str]) -> Iterable[list[str]]:
    return (ids[at : at + AT_ONCE] for at in range(0, len(ids), AT_ONCE))
