"""Draws keyed by the event's id: an event meets the same luck always, and another salt draws independently."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from math import ceil


def drawer(salt: str) -> Callable[[str], float]:
    """Make a keyed draw: the same number in [0, 1) for an event id, always; another salt draws independently."""
    salted = blake2b(salt.encode(), digest_size=8, person=b"counterpoint")
    copy, number = salted.copy, int.from_bytes

    def draw(event_id: str) -> float:
        hashed = copy()
        hashed.update(event_id.encode())
        return (number(hashed.digest(), "big") >> 11) * 2.0**-53

    return draw


def lot(salt: str, share: float) -> Callable[[str], bool]:
    """Make what tells whether the draw of an event id is below ``share``: the same as comparing it, for less.

    >>> draw, wins = drawer("audit"), lot("audit", 0.3)
    >>> all(wins(name) == (draw(name) < 0.3) for name in map(str, range(1000)))
    True
    """
    if share >= 1.0:
        return lambda event_id: True
    copy = blake2b(salt.encode(), digest_size=8, person=b"counterpoint").copy
    # The number drawn is whole in 53 bits, and big-endian bytes sort as the numbers do.
    edge = (ceil(share * 2.0**53) << 11).to_bytes(8, "big")

    def wins(event_id: str) -> bool:
        hashed = copy()
        hashed.update(event_id.encode())
        return hashed.digest() < edge

    return wins
