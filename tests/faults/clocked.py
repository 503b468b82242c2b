"""A worker whose wall clock is off: ``clocked.py SECONDS ARGUMENTS``.  Its monotonic clock and the broker's are right."""

from __future__ import annotations

import sys
import time


def main() -> None:
    """Sets the clock, and then imports and runs the program, which takes ``time`` as it is by then."""
    off_by_s, right = float(sys.argv.pop(1)), time.time
    time.time = lambda: right() + off_by_s
    from streams.cli import main as counterpoint

    counterpoint()


if __name__ == "__main__":
    main()
