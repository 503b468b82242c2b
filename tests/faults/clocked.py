"""A worker whose wall clock is off: ``clocked.py SECONDS ARGUMENTS``.  Its monotonic clock and the broker's are right."""

from __future__ import annotations

import sys
import time

OFF_BY_S = float(sys.argv.pop(1))
right = time.time
time.time = lambda: right() + OFF_BY_S

from streams.cli import main  # noqa: E402  the clock first

main()
