"""What a request to a page holds: a filter, a form, a verdict; whatever it is not, is refused in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from streams.core.errors import BadRecord
from streams.core.events import CORRECT, Label
from streams.desk.filters import Filter
from streams.desk.outbox import Verdict
from streams.desk.views import Choice

FILTERS = (
    *("text", "label", "confidence_from", "confidence_to", "model_version"),
    *("route", "answered", "reviewer", "channel"),
)
PLACES = ("sure_after", "unsure_after")
"""Where the lanes go on: what their pages gave."""


def filter_of(query: Mapping[str, str]) -> Filter:
    """The filter that a form asks for; BadRecord if a number is none."""
    return Filter(
        label=_label(query["label"]),
        confidence_from=_number(query, "confidence_from"),
        confidence_to=_number(query, "confidence_to"),
        model_version=None
        if not query["model_version"]
        else int(_number(query, "model_version") or 0),
        route=query["route"] or None,
        channel=query["channel"] or None,
        reviewer=query["reviewer"] or None,
        text=query["text"] or None,
        answered={"yes": True, "no": False}.get(query["answered"]),
    )


def _label(text: str) -> Label | None:
    if not text:
        return None
    try:
        label = json.loads(text)
    except ValueError:
        return text
    return label if isinstance(label, bool | int | float | str) else text


def _number(query: Mapping[str, str], name: str) -> float | None:
    text = query[name].strip()
    if not text:
        return None
    try:
        number = float(text.replace(",", "."))
    except ValueError as error:
        raise BadRecord(f"{name} = {text!r} is not a number") from error
    if not -1e15 < number < 1e15:
        raise BadRecord(f"{name} = {text!r} is too large")
    return number


def verdict_of(given: object, choices: Sequence[Choice]) -> Verdict:
    """A verdict; BadRecord if it is none."""
    if not isinstance(given, dict):
        raise BadRecord("a verdict has to be an object")
    texts = ("event_id", "kind", "comment", "lease", "feedback_id", "typed")
    fields = {name: given.get(name) for name in texts}
    for name, value in fields.items():
        if not (isinstance(value, str) or (value is None and name not in texts[:2])):
            raise BadRecord(f"{name} has to be text")
    label = given.get("label")
    if not isinstance(label, bool | int | float | str | None):
        raise BadRecord("label has to be a label, not a list or an object")
    typed = fields.pop("typed")
    if typed is not None and fields["kind"] == CORRECT:
        label = _typed(typed, choices)
    return Verdict(label=label, **{name: value for name, value in fields.items() if value})


def _typed(text: str, choices: Sequence[Choice]) -> Label:
    """The label that somebody wrote."""
    for choice in choices:
        if text.casefold() == choice.label.casefold():
            return json.loads(choice.value)  # type: ignore[no-any-return]
    if choices:
        names = ", ".join(choice.label for choice in choices)
        raise BadRecord(f"{text!r} is none of {names}")
    try:
        return float(text.replace(",", "."))
    except ValueError as error:
        raise BadRecord(f"{text!r} is not a number") from error


def path_of(to: str) -> str:
    """A page of ours, and never another site's."""
    return to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/queue"


async def json_of(request: Request) -> Mapping[str, Any]:
    """The object that came."""
    body = await request.body()
    try:
        told = json.loads(body.decode())
    except ValueError as error:
        raise BadRecord("the body is not JSON in UTF-8") from error
    if not isinstance(told, dict):
        raise BadRecord("the body has to be an object")
    return told


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form."""
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
