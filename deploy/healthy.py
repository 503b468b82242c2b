#!/usr/bin/env python3
"""Ends with 0 if the worker on this host is heard of: counterpoint status LOOP --json | healthy."""

from __future__ import annotations

import json
import socket
import sys


def main() -> int:
    """The exit code: 0 healthy, 1 not."""
    states = [
        worker["state"]
        for worker in json.load(sys.stdin)["workers"]
        if worker["host"] == socket.gethostname()
    ]
    sys.stdout.write(f"{', '.join(states) or 'never heard of'}\n")
    return 0 if any(state not in ("silent", "stopped") for state in states) else 1


if __name__ == "__main__":
    sys.exit(main())
