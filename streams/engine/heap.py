"""Keeps a process as small as what it holds: glibc keeps what was freed, in pieces and for each thread, otherwise.

Where the C library is another (musl, macOS) it does nothing.
"""

from __future__ import annotations

import ctypes
from typing import Any

ARENAS = 2
_M_ARENA_MAX = -8


def share_arenas() -> None:
    """Lets all threads allocate from a few arenas; to be called before there are threads.

    By default each of RocksDB's, librdkafka's and Python's threads gets its own, and what one frees no other can
    use: a joiner at work held 80 MB more, and was no faster.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Returns what was freed to the system; takes milliseconds.

    Reading millions of records in bulk fills queues once; without this the process keeps that size for ever.
    """
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
