"""A worker's slot on this machine: its name and state directory, held by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO
from uuid import uuid4

from streams.core.errors import Conflict, Unavailable


class Slot:
    """A held slot.  The system lets go of it when the process ends, however it ends.

    Attributes:
        name: The worker's name.
        path: Its state directory.
    """

    def __init__(self, name: str, path: Path, file: IO[str]) -> None:
        self.name, self.path, self._file = name, path, file

    def identity(self) -> str:
        """Text that no other slot has, on this machine or another; it stays as long as the directory does.

        Raises:
            Unavailable: It cannot be read or written.
        """
        path = self.path / "identity"
        try:
            if not path.exists():
                path.write_text(uuid4().hex)
            return path.read_text()
        except OSError as error:
            message = f"no identity for worker {self.name!r}: {error}. Set COUNTERPOINT_STATE_DIR"
            raise Unavailable(message) from error

    def release(self) -> None:
        """Lets another process have it."""
        self._file.close()


def take(folder: Path, role: str, name: str | None) -> Slot:
    """Takes the slot of a name; without one, the first that is free of ``<role>-1``, ``<role>-2``, ...

    Raises:
        Conflict: Another process holds it.
        Unavailable: The folder cannot be written.
    """
    for candidate in [name] if name is not None else _names(role):
        slot = _try(folder, candidate)
        if slot is not None:
            return slot
    message = (
        f"worker {name!r} runs already on this machine, with its state in {folder / str(name)}: "
        "stop it, or give this one another --worker name"
    )
    raise Conflict(message)


def _names(role: str) -> Iterator[str]:
    return (f"{role}-{number}" for number in count(1))


def _try(folder: Path, name: str) -> Slot | None:
    path = folder / name
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / "lock").open("a+")
    except OSError as error:
        message = f"no state directory for worker {name!r}: {error}. Set COUNTERPOINT_STATE_DIR"
        raise Unavailable(message) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return Slot(name, path, file)
