"""Which sources count: sets of places in topics, and what *exclude* and *include* records make of them.

**What a model is.**  For a model key and a version n, take the key's examples and control records in log[:n].  A source
is *out* if the last control record that names it is an *exclude*.  An example is learned iff it has a source that is not
out and that no earlier example rests on.  So a source counts at its first place in the log, or nowhere: a duplicate of
one that is out teaches nothing, and one that is put back is learned where it first stood.

**When a state stands for it.**  A state that was folded under the exclusions E is that of the exclusions E' too iff E and
E' differ in nothing that it has seen: the same examples are learned then, in the same order.  Which sources were seen
does not depend on exclusions, so ``is_start`` tells this from the state's own sets, without its model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

from pyroaring import BitMap64

from streams.core.errors import BadRecord
from streams.core.events import EXCLUDE, INCLUDE, Excluded, Exclusion

Where: TypeAlias = tuple[str, int]
"""Topic and partition."""
Places: TypeAlias = Mapping[Where, BitMap64]
"""Offsets, by topic and partition; no set is empty.  A value: nobody changes one that he did not make."""
NOWHERE: Places = {}
T = TypeVar("T")


def places(found: Iterable[tuple[str, int, int]]) -> dict[Where, BitMap64]:
    """The places of (topic, partition, offset).

    >>> count(places([("feedback", 0, 7), ("feedback", 0, 7), ("feedback", 1, 7)]))
    2
    """
    made: dict[Where, BitMap64] = {}
    for topic, partition, offset in found:
        made.setdefault((topic, partition), BitMap64()).add(offset)
    return made


def count(some: Places) -> int:
    """How many places there are."""
    return sum(map(len, some.values()))


def union(some: Places, others: Places) -> Places:
    """Those of either."""
    return {
        **some,
        **{where: some[where] | held if where in some else held for where, held in others.items()},
    }


def minus(some: Places, others: Places) -> Places:
    """Those of the first alone."""
    left = {
        where: held - others[where] if where in others else held for where, held in some.items()
    }
    return {where: held for where, held in left.items() if held}


def common(some: Places, others: Places) -> Places:
    """Those of both."""
    shared = {where: held & others[where] for where, held in some.items() if where in others}
    return {where: held for where, held in shared.items() if held}


def difference(some: Places, others: Places) -> Places:
    """Those of one and not of the other."""
    return union(minus(some, others), minus(others, some))


def are_apart(some: Places, others: Places) -> bool:
    """Whether they have nothing in common."""
    return all(held.isdisjoint(others[where]) for where, held in some.items() if where in others)


def dumped(some: Places) -> dict[Where, bytes]:
    """As bytes, for a state."""
    return {where: held.serialize() for where, held in some.items()}


def loaded(held: Mapping[Where, bytes]) -> dict[Where, BitMap64]:
    """Back from them."""
    return {where: BitMap64.deserialize(data) for where, data in held.items()}


def written(some: Places) -> list[Excluded]:
    """As a record holds them."""
    return [
        Excluded(topic, partition, held.serialize())
        for (topic, partition), held in sorted(some.items(), key=lambda item: item[0])
    ]


def read(exclusion: Exclusion) -> Places:
    """The places that a record names.

    Raises:
        BadRecord: They cannot be read, or the record is of a kind that this release does not know.
    """
    if exclusion.kind not in (EXCLUDE, INCLUDE):
        raise BadRecord(f"an exclusion of the kind {exclusion.kind!r}: a newer release wrote it")
    named: Places = {}
    for topic, partition, offsets in exclusion.sources:
        try:
            held = BitMap64.deserialize(offsets)
        except (IndexError, TypeError, ValueError) as error:
            raise BadRecord(
                f"exclusion {exclusion.exclusion_id} has no readable offsets"
            ) from error
        if held:
            named = union(named, {(topic, partition): held})
    return named


def after(excluded: Places, exclusion: Exclusion, fixed: Places = NOWHERE) -> Places:
    """What is out after a control record, given what was before; what is ``fixed`` it cannot change."""
    named = minus(read(exclusion), fixed)
    return union(excluded, named) if exclusion.kind == EXCLUDE else minus(excluded, named)


class Head(NamedTuple):
    """What a state tells of itself before its model is unpickled.

    Attributes:
        version: Its version.
        learned: Lessons that its model took.
        seen: All sources that it has met.
        excluded: Those that were out when it was folded.
        fixed: Those that came with a model that was continued: they stay in, whatever is excluded.
    """

    version: int
    learned: int
    seen: Places
    excluded: Places
    fixed: Places = NOWHERE


def is_start(head: Head, target: Places) -> bool:
    """Whether folding on from this state, under the exclusions ``target``, gives the model under them."""
    return are_apart(difference(head.excluded, target), head.seen)


def start_of(newest_first: Iterable[tuple[T, Head]], target: Places, version: int) -> T | None:
    """The first of these states that a model of this version can be folded on from; None: only the unlearned one."""
    return next(
        (
            state
            for state, head in newest_first
            if head.version <= version and is_start(head, target)
        ),
        None,
    )
