"""The other process of the replay check: folds the lessons that it is given, and prints the digest of the answers.

    python -m streams.engine.replay < pickled (model, task, lessons)

It answers between its lessons and stores the model halfway: whatever learns, draws or forgets then shows.
"""

from __future__ import annotations

import pickle
import sys

from streams.core.model import replayed


def main() -> None:
    """Reads, folds, prints."""
    model, task, lessons = pickle.load(sys.stdin.buffer)  # noqa: S301  of the process that started this
    digest = replayed(model, task, lessons, pickled_after=len(lessons) // 2, predicting=True)
    sys.stdout.write(digest)


if __name__ == "__main__":
    main()
