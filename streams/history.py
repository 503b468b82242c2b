"""Labelled history as examples: what a loop can learn before its first prediction.

The file's digest and the line are an example's identity, so the same file seeded twice is learned once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path

from streams.core.errors import BadRecord
from streams.core.events import AUTO, Example, Features, Label, Source
from streams.core.model import REGRESSION
from streams.files import Numbered, inputs, rows

LABEL = "label"
CHANNEL = "seed"
REASON = "labelled history"
WORDS = {"0": "False", "1": "True", "false": "False", "true": "True"}


def history(
    path: Path, task: str, classes: Sequence[Label], model_key: Callable[[Features], str]
) -> Iterator[Example]:
    """Yields the examples in a file (see ``files``): the column ``label`` is the truth, ``event_id`` may be missing.

    Raises:
        BadRecord: A line cannot be used; the message names it.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    with path.open("rb") as file:
        lines = rows(file)  # kept until the file is closed: an error in here would warn otherwise
        for line, row in lines:
            told = dict(row)
            if LABEL not in told:
                message = f"line {line}: no column {LABEL!r}; the columns are {', '.join(told)}"
                raise BadRecord(message)
            label = label_of(told.pop(LABEL), task, classes, line)
            identity = f"{CHANNEL}-{digest}-{line}"
            told.setdefault("event_id", identity)
            (event,) = inputs([Numbered(line, told)])
            yield Example(
                event_id=event.event_id,
                model_key=model_key(event.features),
                features=event.features,
                label=label,
                weight=1.0,
                sources=[Source(f"{CHANNEL}:{digest}", 0, line, identity, None, CHANNEL)],
                predicted=None,
                scores={},
                model_version=0,
                route=AUTO,
                reason=REASON,
                probability=1.0,
                predicted_at=None,
                answered_at=event.occurred_at,
            )


def label_of(value: object, task: str, classes: Sequence[Label], line: int) -> Label:
    """The label that a cell stands for.

    >>> label_of(1, "binary", (False, True), 1), label_of("2", "multiclass", (1, 2), 1)
    (True, 2)
    """
    if task == REGRESSION:
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            return float(value)
        message = f"line {line}: label is {value!r}, expected a finite number"
        raise BadRecord(message)
    text = str(value)
    for known in classes:
        if str(known) == text or (
            isinstance(known, bool) and str(known) == WORDS.get(text.lower())
        ):
            return known
    message = f"line {line}: label is {value!r}, expected one of {', '.join(map(str, classes))}"
    raise BadRecord(message)
