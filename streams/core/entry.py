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


class Held(NamedTuple):
    """A prediction.

    Attributes:
        t: Its time, by the broker's clock.
        offset: Its place in its partition.
        value: Its bytes; None once its window has passed and nothing more can be learned from it.
        answered: Whether a verdict came within the window, whatever it said.
        asked: Whether people were asked about it.
        taught: The verdicts that gave an example and were neither corrected nor taken back, in their order.
    """

    t: int
    offset: int
    value: bytes | None
    answered: bool = False
    asked: bool = False
    taught: tuple[Taught, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether it waits for a verdict."""
        return self.value is not None and not self.answered


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


ALONE, WHOLE = 1, 4
"""The first byte: a prediction that nobody was asked about and nothing else, or everything.  Another layout gets another
number."""
ANSWERED, ASKED, WITH_VALUE = 1, 2, 4

_ALONE = Struct("<BQQ")
_WHOLE = Struct("<BII")
_HELD = Struct("<BQQII")
_TAUGHT = Struct("<QI")
_GIVEN = Struct("<BQQII")


def alone(t: int, offset: int, value: bytes) -> bytes:
    """The bytes of an entry that is one prediction, which nobody was asked about and which has seen no verdict yet.

    >>> decode(alone(7, 0, b"..."))
    Entry(predictions=(Held(t=7, offset=0, value=b'...', answered=False, asked=False, taught=()),), feedback=())
    """
    return _ALONE.pack(ALONE, t, offset) + value


def encode(entry: Entry) -> bytes:
    """The bytes of an entry."""
    predictions, feedback = entry
    if len(predictions) == 1 and not feedback:
        t, offset, value, answered, asked, taught = predictions[0]
        if value is not None and not (answered or asked or taught):
            return alone(t, offset, value)
    parts = [_WHOLE.pack(WHOLE, len(predictions), len(feedback))]
    for t, offset, value, answered, asked, taught in predictions:
        flags = answered * ANSWERED | asked * ASKED | (value is not None) * WITH_VALUE
        value = value or b""
        parts += (_HELD.pack(flags, t, offset, len(value), len(taught)), value)
        for place, author in taught:
            name = author.encode()
            parts += (_TAUGHT.pack(place, len(name)), name)
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
    if kind != WHOLE:
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
        was = bool(flags & ANSWERED), bool(flags & ASKED)
        predictions.append(Held(t, offset, value, *was, tuple(taught)))
    for _ in range(given):
        flags, t, offset, named, size = _GIVEN.unpack_from(data, at)
        at += _GIVEN.size + named + size
        name = data[at - size - named : at - size].decode()
        value = data[at - size : at] if flags & WITH_VALUE else None
        feedback.append(Given(t, offset, name, value))
    return Entry(tuple(predictions), tuple(feedback))
