"""What the joiner keeps about one event, as a value and as bytes.

It decides nothing: that is ``join``.  The bytes are made for the common case, a prediction that waits for a verdict:
a header of 17 bytes, and the prediction's own bytes as they came.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from streams.core.errors import Conflict


class Taught(NamedTuple):
    """A verdict that gave an example, and stands.

    Attributes:
        offset: Its place in its partition.
        author: Who may take it back, as ``verdicts.author`` names them.
    """

    offset: int
    author: str


class Opinion(NamedTuple):
    """A verdict that waits for others to agree, or that a decision which stands rests on: see ``consensus``.

    Attributes:
        t: Its time, by the broker's clock.
        offset: Its place in its partition.
        value: What the verdict is read from.
        decision: The place of the verdict that decided it; None while it waits.
    """

    t: int
    offset: int
    value: bytes
    decision: int | None = None


class Held(NamedTuple):
    """A prediction.

    Attributes:
        t: Its time, by the broker's clock.
        offset: Its place in its partition.
        value: Its bytes; None once its window has passed and nothing more can be learned from it.
        answered: Whether a verdict came within the window, whatever it said.
        asked: Whether people were asked about it.
        taught: The verdicts that gave an example and were neither corrected nor taken back, in their order.
        opinions: Where several people have to agree, their verdicts: in place of ``taught``.
        disagree: Whether a senior was asked to decide between them.
    """

    t: int
    offset: int
    value: bytes | None
    answered: bool = False
    asked: bool = False
    taught: tuple[Taught, ...] = ()
    opinions: tuple[Opinion, ...] = ()
    disagree: bool = False

    @property
    def waits(self) -> bool:
        """Whether it waits for a verdict, or for people to agree on one."""
        if self.value is None:
            return False
        return not self.answered or (
            bool(self.opinions) and all(each.decision is None for each in self.opinions)
        )


class Given(NamedTuple):
    """A feedback.

    Attributes:
        t: Its time, by the broker's clock.
        offset: Its place in its partition.
        feedback_id: Its identity, by which it is known when it comes again.
        value: What is needed to decide it later, as long as it waits for its prediction; then None.
    """

    t: int
    offset: int
    feedback_id: str
    value: bytes | None


class Entry(NamedTuple):
    """All about one event that a later record can still depend on, in the order of the partitions."""

    predictions: tuple[Held, ...] = ()
    feedback: tuple[Given, ...] = ()

    @property
    def pending(self) -> int:
        """How many of its predictions wait for a verdict."""
        return sum(held.waits for held in self.predictions)

    @property
    def pending_reviews(self) -> int:
        """How many of these people were asked about."""
        return sum(held.waits and held.asked for held in self.predictions)


ALONE, WHOLE, WITH_OPINIONS = 1, 4, 5
"""The first byte: a prediction that nobody was asked about and nothing else, everything but opinions, or everything.  Another layout gets another
number."""
ANSWERED, ASKED, WITH_VALUE, DISAGREE = 1, 2, 4, 8

_ALONE = Struct("<BQQ")
_WHOLE = Struct("<BII")
_HELD = Struct("<BQQII")
_TAUGHT = Struct("<QI")
_GIVEN = Struct("<BQQII")
_OPINIONS = Struct("<I")
_OPINION = Struct("<QQqI")
"""Time, place, the place of the decision or -1, and the length of what it is read from."""


def alone(t: int, offset: int, value: bytes) -> bytes:
    """The bytes of an entry that is one prediction, which nobody was asked about and which has seen no verdict yet.

    >>> decode(alone(7, 0, b"..."))
    Entry(predictions=(Held(t=7, offset=0, value=b'...', answered=False, asked=False, taught=(), opinions=(), disagree=False),), feedback=())
    """
    return _ALONE.pack(ALONE, t, offset) + value


def encode(entry: Entry) -> bytes:
    """The bytes of an entry."""
    predictions, feedback = entry
    if len(predictions) == 1 and not feedback:
        t, offset, value, answered, asked, taught, opinions, disagree = predictions[0]
        if value is not None and not (answered or asked or taught or opinions or disagree):
            return alone(t, offset, value)
    whole = not any(held.opinions or held.disagree for held in predictions)
    kind = WHOLE if whole else WITH_OPINIONS
    parts = [_WHOLE.pack(kind, len(predictions), len(feedback))]
    for t, offset, value, answered, asked, taught, opinions, disagree in predictions:
        flags = answered * ANSWERED | asked * ASKED | (value is not None) * WITH_VALUE
        flags |= disagree * DISAGREE
        value = value or b""
        parts += (_HELD.pack(flags, t, offset, len(value), len(taught)), value)
        for place, author in taught:
            name = author.encode()
            parts += (_TAUGHT.pack(place, len(name)), name)
        if kind == WITH_OPINIONS:
            parts.append(_OPINIONS.pack(len(opinions)))
            for at, place, said, decision in opinions:
                parts += (
                    _OPINION.pack(at, place, -1 if decision is None else decision, len(said)),
                    said,
                )
    for t, offset, feedback_id, value in feedback:
        name, flags = feedback_id.encode(), (value is not None) * WITH_VALUE
        value = value or b""
        parts += (_GIVEN.pack(flags, t, offset, len(name), len(value)), name, value)
    return b"".join(parts)


def decode(data: bytes) -> Entry:
    """The entry that the bytes hold.

    Raises:
        Conflict: Another release wrote them.
    """
    kind = data[0]
    if kind == ALONE:
        _, t, offset = _ALONE.unpack_from(data)
        return Entry((Held(t, offset, data[_ALONE.size :]),))
    if kind not in (WHOLE, WITH_OPINIONS):
        message = f"the joiner's state has an entry of layout {kind}, of another release: use that, or delete the state"
        raise Conflict(message)
    _, held, given = _WHOLE.unpack_from(data)
    at, predictions, feedback = _WHOLE.size, [], []
    for _ in range(held):
        flags, t, offset, size, lessons = _HELD.unpack_from(data, at)
        at += _HELD.size + size
        value = data[at - size : at] if flags & WITH_VALUE else None
        taught = []
        for _ in range(lessons):
            place, size = _TAUGHT.unpack_from(data, at)
            at += _TAUGHT.size + size
            taught.append(Taught(place, data[at - size : at].decode()))
        opinions: tuple[Opinion, ...] = ()
        if kind == WITH_OPINIONS:
            opinions, at = _opinions(data, at)
        was = bool(flags & ANSWERED), bool(flags & ASKED)
        disagree = bool(flags & DISAGREE)
        predictions.append(Held(t, offset, value, *was, tuple(taught), opinions, disagree))
    for _ in range(given):
        flags, t, offset, named, size = _GIVEN.unpack_from(data, at)
        at += _GIVEN.size + named + size
        name = data[at - size - named : at - size].decode()
        value = data[at - size : at] if flags & WITH_VALUE else None
        feedback.append(Given(t, offset, name, value))
    return Entry(tuple(predictions), tuple(feedback))


def _opinions(data: bytes, at: int) -> tuple[tuple[Opinion, ...], int]:
    """The opinions that are written there, and where they end."""
    (many,) = _OPINIONS.unpack_from(data, at)
    at, found = at + _OPINIONS.size, []
    for _ in range(many):
        t, place, decision, size = _OPINION.unpack_from(data, at)
        at += _OPINION.size + size
        said = data[at - size : at]
        found.append(Opinion(t, place, said, None if decision < 0 else decision))
    return tuple(found), at
