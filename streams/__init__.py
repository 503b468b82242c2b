"""Counterpoint: predictions on a Kafka stream, people's verdicts whenever they come, a model that learns each once.

    from streams import Client, Loop, Source, review

The names are looked up when they are first used: ``import streams`` loads neither River nor Faust nor a Kafka client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.client import AsyncClient, Client
    from streams.core import review
    from streams.loop import Loop, Source

__all__ = ["AsyncClient", "Client", "Loop", "Source", "review"]

_HOMES = {
    "AsyncClient": "streams.client",
    "Client": "streams.client",
    "Loop": "streams.loop",
    "Source": "streams.loop",
}


def __getattr__(name: str) -> object:
    if name == "review":
        return import_module("streams.core.review")
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
