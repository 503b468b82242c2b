"""The templates of the pages: everything that is put into one is escaped, and a name that nobody gave is an error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from streams.desk import views
from streams.desk.board import About

PAGES = (
    ("/queue", "Queue"),
    ("/browse", "Browse"),
    ("/quality", "Quality"),
    ("/trouble", "Trouble"),
)


class Templates:
    """Renders the templates of a loop's desk."""

    def __init__(self, about: About) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(about=about, pages=PAGES)
        self._environment.filters.update(
            as_json=json.dumps,
            clock=views.clock,
            iso=_iso,
            percent=views.percent,
            span=views.span,
            words=views.words,
        )

    def render(self, name: str, **given: Any) -> str:
        """A template with these values."""
        return self._environment.get_template(name).render(given)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
