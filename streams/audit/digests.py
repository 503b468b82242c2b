"""Many ids in little memory: 8 bytes of each."""

from __future__ import annotations

from array import array
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Digests: TypeAlias = npt.NDArray[np.int64]
RECENT = 1 << 16


class Column:
    """A growing column of digests or other whole numbers."""

    __slots__ = ("_values", "add")

    def __init__(self) -> None:
        self._values = array("q")
        self.add = self._values.append

    def __len__(self) -> int:
        return len(self._values)

    def all(self) -> Digests:
        """All of them, in order.  Not to be called before the last is added."""
        if not self._values:
            return np.empty(0, np.int64)
        return np.frombuffer(self._values, np.int64)

    def unique(self) -> Digests:
        """Each once, sorted."""
        return np.unique(self.all())


class Seen:
    """Which digests came already: the newest in a set, the others in a few sorted arrays."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._levels: list[Digests] = []

    def __contains__(self, digest: int) -> bool:
        return digest in self._recent or any(holds(level, digest) for level in self._levels)

    def add(self, digest: int) -> bool:
        """Adds one, and tells whether it is new."""
        if digest in self:
            return False
        self._recent.add(digest)
        if len(self._recent) >= RECENT:
            self._settle()
        return True

    def _settle(self) -> None:
        level = np.fromiter(self._recent, np.int64, len(self._recent))
        while self._levels and len(self._levels[-1]) <= 4 * len(level):
            level = np.concatenate([level, self._levels.pop()])
        level.sort()
        self._levels.append(level)
        self._recent.clear()


def holds(level: Digests, digest: int) -> bool:
    """Whether a sorted array holds a digest."""
    at = level.searchsorted(digest)
    return bool(at < len(level) and level[at] == digest)


def without(these: Digests, *others: Digests) -> Digests:
    """Each of these that is in none of the others, sorted."""
    left = np.unique(these)
    for other in others:
        left = left[np.isin(left, other, invert=True)]
    return left


def with_several(ids: Digests, values: Digests) -> Digests:
    """The ids that stand beside more than one value."""
    order = np.lexsort((values, ids))
    ids, values = ids[order], values[order]
    return np.unique(ids[1:][(ids[1:] == ids[:-1]) & (values[1:] != values[:-1])])


def far_apart(ids: Digests, values: Digests, most: float) -> Digests:
    """The ids that stand beside values of which the least and the greatest are more than so much apart."""
    order = np.lexsort((values, ids))
    found, first = np.unique(ids[order], return_index=True)
    if not len(found):
        return found
    least = values[order][first]
    greatest = values[order][np.append(first[1:], len(ids)) - 1]
    return without(found[greatest - least > most])
