"""Lineages: which definition makes the versions of a log, where its fold starts, and when to refuse.

A pure reading of the ``Define`` records of one partition of ``examples``; it neither reads the log nor writes to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from streams.core.errors import Conflict
from streams.core.events import CONTINUE, FRESH, REFOLD, Define

MODES = (FRESH, REFOLD, CONTINUE)
Defined: TypeAlias = tuple[int, Define]
"""A definition with its offset in the log."""


class Start(NamedTuple):
    """Where a fold of one partition starts.

    Attributes:
        define: The log has no definition yet; I have to write the first, with mode ``fresh``, before I fold.
        defined_at: Offset of the definition in force; -1 if there is none yet.
        learn_from: Examples below this offset only mark their sources as seen; the others are learned.
        snapshot_from: Only a snapshot under my definition of this version or a later one stands for this lineage.
        needs_snapshot: A model key with examples below ``learn_from`` must have such a snapshot: the log alone does
            not make its model.
        base: Snapshot that the lineage starts from in place of the unlearned model, whoever made it.
    """

    define: bool
    defined_at: int
    learn_from: int
    snapshot_from: int
    needs_snapshot: bool
    base: str | None


BEGINNING = Start(True, -1, 0, 1, False, None)


def start(definitions: Iterable[Defined], mine: str, loop: str) -> Start:
    """Tell where the fold of a process starts whose loop has the definition ``mine``.

    Raises:
        Conflict: The log's newest definition is another one.
    """
    lineages = effective(definitions)
    if not lineages:
        return BEGINNING
    offset, newest = lineages[-1]
    if newest.definition != mine:
        raise Conflict(refusal(offset, newest, mine, loop))
    return Start(
        define=False,
        defined_at=offset,
        learn_from=_learn_from(lineages),
        snapshot_from=offset + 1,
        needs_snapshot=newest.mode == CONTINUE,
        base=newest.base,
    )


def effective(definitions: Iterable[Defined]) -> list[Defined]:
    """The definitions that started a lineage, in order; one that repeats the one in force did not."""
    lineages: list[Defined] = []
    for offset, define in sorted(definitions, key=lambda defined: defined[0]):
        if define.mode not in MODES:
            raise Conflict(
                f"The definition at offset {offset} has mode {define.mode!r}, which this release does not know: "
                "a newer one wrote it; upgrade this process"
            )
        if not lineages or not _repeats(define, lineages[-1][1]):
            lineages.append((offset, define))
    return lineages


def _repeats(define: Define, before: Define) -> bool:
    """The same model from the same start: a trained model that is seeded is another start."""
    return define.definition == before.definition and define.base in (None, before.base)


def _learn_from(lineages: Sequence[Defined]) -> int:
    """Examples that came before the log's first definition belong to nobody else: the first lineage learns them."""
    later = lineages[1:]
    if later and later[-1][1].mode == CONTINUE:
        return later[-1][0]
    return max((offset for offset, define in later if define.mode == FRESH), default=0)


def follow(
    define: Define, offset: int, mine: str, loop: str, *, begun: Start | None = None
) -> None:
    """Meet a definition while folding from ``begun``: one that was counted there, or repeats mine, changes nothing.

    Raises:
        Conflict: Another definition was adopted since, or another start of the same one.
    """
    if begun is not None and offset <= begun.defined_at:
        return
    if define.definition != mine:
        raise Conflict(refusal(offset, define, mine, loop))
    if begun is not None and define.base not in (None, begun.base):
        raise Conflict(
            f"The models of loop {loop!r} start anew from snapshot {define.base} (offset {offset}, by {define.who}): "
            "restart this process"
        )


def refusal(offset: int, define: Define, mine: str, loop: str) -> str:
    """Say that the log is another model's, and how to change that."""
    return (
        f"The models of loop {loop!r} are made by definition {define.definition} (offset {offset}, by {define.who}, "
        f"River {define.river}, Python {define.python}), this process has definition {mine}: start it with that code "
        f"and those versions, or run `counterpoint models adopt {loop} --refold | --continue | --fresh`"
    )


def adoption(definitions: Iterable[Defined], define: Define) -> Define:
    """Check that a definition may be appended and will change something, and return it.

    Raises:
        Conflict: It is in force already, or would continue a model that does not exist.
    """
    lineages = effective(definitions)
    if define.mode not in MODES:
        raise Conflict(f"mode is {define.mode!r}, expected one of {', '.join(MODES)}")
    if not lineages:
        if define.mode == CONTINUE:
            raise Conflict(
                f"Loop {define.loop!r} has no model to continue yet: start it, or run "
                f"`counterpoint models seed {define.loop} FILE`"
            )
        return define
    offset, newest = lineages[-1]
    if _repeats(define, newest):
        raise Conflict(
            f"Definition {define.definition} has made the models of loop {define.loop!r} since offset {offset}: "
            "there is nothing to adopt"
        )
    return define
