"""The errors of Counterpoint, split by whose fault it is and what follows.

    StreamsError
      BadRecord      the data is wrong            -> dead letter, go on
      Unavailable    something outside failed     -> back off and try again; at last, stop
      ConfigError    the operator is wrong        -> print every mistake, exit 2
      Conflict       the caller is wrong: state   -> refuse, say what is in the way
      NotFound       the caller is wrong: name    -> refuse, say what exists

Each carries its data as attributes and a sentence as ``str``: what happened, to which record, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class StreamsError(Exception):
    """Base of all errors that Counterpoint raises on purpose."""


class BadRecord(StreamsError):
    """A record cannot be used as it is; it belongs into the dead letters, and the stream goes on.

    Attributes:
        reason: One sentence for the person who can mend the record.
        event_id: The event it is about, where that could be read.
        feedback_id: The verdict it is about, where that could be read.
    """

    def __init__(
        self, reason: str, *, event_id: str | None = None, feedback_id: str | None = None
    ) -> None:
        super().__init__(reason)
        self.reason, self.event_id, self.feedback_id = reason, event_id, feedback_id


class Unavailable(StreamsError):
    """Something outside (broker, registry, disk) does not answer now and may later."""


class Mistake(NamedTuple):
    """One thing that an operator has to change."""

    name: str
    value: object
    expected: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value!r}: {self.expected}"


class ConfigError(StreamsError):
    """A loop, a setting or a topic is not as it must be; all mistakes are told together."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class Conflict(StreamsError):
    """What was asked does not fit the state things are in (another worker, another definition)."""


class NotFound(StreamsError):
    """What was asked for does not exist."""
