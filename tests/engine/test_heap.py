from __future__ import annotations

import subprocess
import sys

FREED = """
from pathlib import Path
from streams.engine import heap

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))

heap.share_arenas()
before = held()
pieces = [bytes(2_000) for _ in range(100_000)]
del pieces[:-1]  # the last one keeps the heap from shrinking by itself
kept = held()
heap.give_back()
print(kept - before, held() - before)
"""


def test_what_was_freed_in_front_of_what_is_held_is_given_back() -> None:
    told = subprocess.run(
        [sys.executable, "-c", FREED], capture_output=True, text=True, check=True, timeout=60
    )
    kept_mb, left_mb = map(int, told.stdout.split())
    assert kept_mb > 150
    assert left_mb < 50
