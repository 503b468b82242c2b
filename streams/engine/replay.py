"""The replay check: two processes fold the same lessons, and their models must answer alike to the last bit.

One of them answers between its lessons and stores the model halfway: whatever learns, draws or forgets then shows.

    python -m streams.engine.replay plain | restless    reads a pickled (model, task, lessons), prints the answers' digest
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from streams.core.model import replayed

PLAIN, RESTLESS = "plain", "restless"
log = logging.getLogger("counterpoint")


def replays(given: bytes) -> bool:
    """Whether two processes make the same of a pickled (model, task, lessons)."""
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(_elsewhere, (PLAIN, RESTLESS), (given, given))
    return one is not None and one == other


def _elsewhere(how: str, given: bytes) -> str | None:
    done = subprocess.run(
        [sys.executable, "-m", "streams.engine.replay", how],
        input=given,
        capture_output=True,
        check=False,
        # as roles run: some models iterate over sets
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"},
    )
    if done.returncode:
        told = done.stderr.decode(errors="replace")[-500:]
        log.warning("the model cannot be tried in another process: %s", told)
        return None
    return done.stdout.decode().strip()


def main(how: str) -> None:
    """Reads, folds, prints."""
    model, task, lessons = pickle.load(sys.stdin.buffer)  # noqa: S301  of the process that started this
    halfway = len(lessons) // 2 if how == RESTLESS else None
    digest = replayed(model, task, lessons, pickled_after=halfway, predicting=how == RESTLESS)
    sys.stdout.write(digest)


if __name__ == "__main__":
    main(sys.argv[1])
