"""Labelled history as examples: what a loop can learn before its first prediction.

The file's digest and the line are an example's identity, so the same file seeded twice is learned once.  What may be
learned is what may be predicted on: each line passes the check that the loop's inputs pass.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path

from streams.core.errors import BadRecord
from streams.core.events import AUTO, Example, Features, Input, Label, Source
from streams.core.model import REGRESSION
from streams.files import Numbered, inputs, rows

LABEL = "label"
CHANNEL = "seed"
REASON = "labelled history"
WORDS = {"0": "False", "1": "True", "false": "False", "true": "True"}


def history(
    path: Path,
    task: str,
    classes: Sequence[Label],
    *,
    model_key: Callable[[Features], str],
    check: Callable[[Input], Input],
    texts: Iterable[str] = (),
) -> Iterator[Example]:
    """Yields the examples in a file (see ``files``): the column ``label`` is the truth, ``event_id`` may be missing.

    Args:
        path: The file.
        task: The loop's.
        classes: The loop's.
        model_key: Tells the model that learns an event; raises BadRecord.
        check: Gives an event as the loop takes it from its inputs, declared features only, by their types; raises
            BadRecord.
        texts: Columns of a CSV file that are text whatever they look like, beside ids and the names of classes.

    Raises:
        BadRecord: A line cannot be used; the message names it.
    """
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()[:16]
    names = () if task == REGRESSION else (LABEL,)
    for line, row in rows(io.BytesIO(data), ["event_id", *names, *texts]):
        told = dict(row)
        if LABEL not in told:
            message = f"line {line}: no column {LABEL!r}; the columns are {', '.join(told)}"
            raise BadRecord(message)
        label = label_of(told.pop(LABEL), task, classes, line)
        identity = f"{CHANNEL}-{digest}-{line}"
        told.setdefault("event_id", identity)
        (given,) = inputs([Numbered(line, told)])
        try:
            event = check(given)
            key = model_key(event.features)
        except BadRecord as error:
            raise BadRecord(f"line {line}: {error.reason}", event_id=given.event_id) from error
        yield Example(
            event_id=event.event_id,
            model_key=key,
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
        if isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value):
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


def _is_finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # an integer beyond what a float holds
        return False
