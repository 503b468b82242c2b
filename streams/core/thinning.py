"""Which of many stored states are kept as they age: all of the last ones, then fewer and fewer, never a gap too wide.

Of what is no longer among the last, the first of each hour is kept for a day, the first of each day for a week, and the
first of each week for ever.  Hours lie in days and days in weeks of seven days since the epoch, so what is kept at one
time holds all that is to be kept at any later one: thinning often, seldom or late gives the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS
HOURLY, DAILY = 24, 7
"""For so many hours the first of each is kept, then for so many days."""
LAST = 10


class Kept(NamedTuple):
    """Something that is kept or not.

    Attributes:
        version: What orders them.
        created_at: When it was stored, in milliseconds since the epoch.
    """

    version: int
    created_at: int
    name: str


def thin(stored: Iterable[Kept], now_ms: int, last: int = LAST) -> set[str]:
    """The names of those that are kept: at most ``last`` + 24 + 7, and one for each week.

    >>> hours = [Kept(n, n * HOUR_MS, str(n)) for n in range(60)]
    >>> sorted(map(int, thin(hours, 59 * HOUR_MS, last=2)))[:3]
    [0, 24, 36]
    """
    newest_first = sorted(stored, reverse=True)
    kept = {each.name for each in newest_first[:last]}
    firsts: dict[tuple[int, int], Kept] = {}
    for each in newest_first:
        span = _span(each.created_at, now_ms)
        bucket = span, each.created_at // span
        first = firsts.get(bucket)
        if first is None or _age(each) < _age(first):
            firsts[bucket] = each
    return kept | {each.name for each in firsts.values()}


def _span(created_at: int, now_ms: int) -> int:
    """How long the stretch is of which one is kept; all of an hour, and of a day, changes over at once."""
    if now_ms // HOUR_MS - created_at // HOUR_MS < HOURLY:
        return HOUR_MS
    if now_ms // DAY_MS - created_at // DAY_MS < DAILY:
        return DAY_MS
    return WEEK_MS


def _age(each: Kept) -> tuple[int, int, str]:
    return each.created_at, each.version, each.name
