"""Up to where a learner has told what became of the log's lessons, where that is acknowledged with the telling.

Of a partition that is one offset, but for model keys whose records wait: they are told of later than what follows them.
Theirs goes on the note beside the group's offset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

NOTE_BYTES = 3_000
"""The broker takes 4 kB.  With more keys that wait at once, those left out may be told of twice after a crash."""


class Told:
    """By partition and model key, the offset below which all was told.

    Args:
        keeps: Whether anything is to be remembered; else nothing counts as told.
    """

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._upto: dict[int, int] = {}
        self._behind: dict[int, dict[str, int]] = {}

    def start(self, upto: Mapping[int, int], notes: Mapping[int, str]) -> None:
        """Begins where the group is."""
        self.forget()
        if self._keeps:
            self._upto.update(upto)
            self._behind.update({p: json.loads(note) for p, note in notes.items() if note})

    def forget(self) -> None:
        """Lets go of all partitions."""
        self._upto.clear()
        self._behind.clear()

    def has(self, partition: int, key: str, offset: int) -> bool:
        """Whether a record was told of."""
        upto = self._upto.get(partition, 0)
        return offset < min(self._behind.get(partition, {}).get(key, upto), upto)

    def passed(self, partition: int, key: str, offset: int) -> None:
        """A record was told of, or tells of nothing."""
        if not self._keeps:
            return
        upto = self._upto[partition] = max(self._upto.get(partition, 0), offset + 1)
        behind = self._behind.get(partition)
        if behind and key in behind:
            behind[key] = max(behind[key], offset + 1)
            if behind[key] >= upto:
                del behind[key]

    def waits(self, partition: int, key: str, offset: int) -> None:
        """A record waits, to be told of later; those of its key that follow wait too."""
        if self._keeps:
            self._behind.setdefault(partition, {}).setdefault(key, offset)
            self._upto[partition] = max(self._upto.get(partition, 0), offset + 1)

    def note(self, partition: int) -> str:
        """What to write beside the partition's offset."""
        behind = dict(self._behind.get(partition, {}))
        note = json.dumps(behind, separators=(",", ":")) if behind else ""
        while len(note.encode()) > NOTE_BYTES:
            behind.popitem()
            note = json.dumps(behind, separators=(",", ":"))
        return note
