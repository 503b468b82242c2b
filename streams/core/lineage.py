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
        base: Snapshot that the lineage starts from in place of the unlearned model, whoever made it.
        mode: How the lineage began.
    """

    define: bool
    defined_at: int
    learn_from: int
    snapshot_from: int
    base: str | None
    mode: str

    @property
    def needs_snapshot(self) -> bool:
        """A model key with examples below ``learn_from`` must have a snapshot: the log alone does not make its model."""
        return self.mode == CONTINUE


BEGINNING = Start(True, -1, 0, 1, None, FRESH)


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
        base=newest.base,
        mode=newest.mode,
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
    """The same model from the same start: a trained model that is seeded is another start, and so is another mode."""
    return define.definition == before.definition and _starts_alike(define, before)


def _starts_alike(define: Define, before: Define | Start) -> bool:
    return define.mode == before.mode and define.base in (None, before.base)


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
    if begun is None:
        return
    if begun.define:  # a fold that began before the first definition: any mode is a beginning
        define = define._replace(mode=begun.mode)
    if not _starts_alike(define, begun):
        start = f"from snapshot {define.base}" if define.base else f"with --{define.mode}"
        raise Conflict(
            f"The models of loop {loop!r} start anew {start} (offset {offset}, by {define.who}): restart this process"
        )


def refusal(offset: int, define: Define, mine: str, loop: str) -> str:
    """Say that the log is another model's, and how to change that."""
    return (
        f"The models of loop {loop!r} are made by definition {define.definition} (offset {offset}, by {define.who}, "
        f"River {define.river}, Python {define.python}), this process has definition {mine}: start it with that code "
        f"and those versions, or run `counterpoint models adopt {loop} --refold | --continue | --fresh`"
    )


class Standing(NamedTuple):
    """How one partition of the log stands to a definition that is to be adopted.

    An adoption is more than its record: what it stands for has to be done too, and a process may die in between.  So
    what was begun is told from what was done, and an adoption that is run again does what is left (``engine/log``).

    Attributes:
        in_force: The definition in force; None in a log without any.
        before: The one in force before it.
        is_mine: The definition in force is the one to be adopted, in whatever mode.
        is_begun: It is, in this very mode: there is nothing to append.
        is_told: The outcomes that the lineage before owed have been told.
    """

    in_force: Defined | None
    before: Defined | None
    is_mine: bool
    is_begun: bool
    is_told: bool

    @property
    def at(self) -> int:
        """Offset of the definition in force; -1 without one."""
        return -1 if self.in_force is None else self.in_force[0]


def standing(definitions: Iterable[Defined], define: Define) -> Standing:
    """Tell what an adoption finds in a partition.

    Raises:
        Conflict: There is no such mode.
    """
    if define.mode not in MODES:
        raise Conflict(f"mode is {define.mode!r}, expected one of {', '.join(MODES)}")
    defined = list(definitions)
    lineages = effective(defined)
    if not lineages:
        return Standing(None, None, is_mine=False, is_begun=False, is_told=True)
    offset, newest = lineages[-1]
    return Standing(
        in_force=lineages[-1],
        before=lineages[-2] if len(lineages) > 1 else None,
        is_mine=newest.definition == define.definition,
        is_begun=_repeats(define, newest),
        # Said again, after it was done: what follows the newest lineage can only repeat it.
        is_told=len(lineages) == 1 or newest.mode != FRESH or any(at > offset for at, _ in defined),
    )


def check_adoption(standings: Iterable[Standing], define: Define, *, usable: bool) -> None:
    """Check that there is something to adopt.

    Args:
        standings: Those of all partitions.
        define: What is to be adopted.
        usable: Whether the models of the lineages in force can be had.

    Raises:
        Conflict: It is in force already, or would continue a model that does not exist.
    """
    found = list(standings)
    first = next((each.in_force for each in found if each.in_force is not None), None)
    if first is None:
        if define.mode == CONTINUE:
            raise Conflict(
                f"Loop {define.loop!r} has no model to continue yet: start it, or run "
                f"`counterpoint models seed {define.loop} FILE`"
            )
    elif usable and all(each.is_mine and each.is_told for each in found):
        raise Conflict(
            f"Definition {define.definition} has made the models of loop {define.loop!r} since offset {first[0]}: "
            "there is nothing to adopt"
        )
