"""Serves an application over HTTP until the process is told to stop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from streams.core.errors import Unavailable

log = logging.getLogger("counterpoint.desk")

GRACE_S = 1
"""An open stream of events does not hold up the end for longer."""


def listen(host: str, port: int) -> socket.socket:
    """A socket for the desk; with port 0 one that is free.

    Raises:
        Unavailable: The address cannot be had.
    """
    try:
        return socket.create_server((host, port), backlog=512)
    except OSError as error:
        message = (
            f"the desk cannot listen on {host}:{port}: {error.strerror}; set COUNTERPOINT_DESK_PORT"
        )
        raise Unavailable(message) from error


def url_of(listening: socket.socket) -> str:
    """Where people find it."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


def serve(app: Any, listening: socket.socket, ending: Callable[[], None]) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        ending: Called when it begins to stop, before it waits for open requests: streams are to end.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        proxy_headers=False,  # who is behind a proxy is decided by the doors, not by any header
    )
    server = _Server(config, ending)
    log.info("the desk is at %s", url_of(listening))
    server.run([listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Of a signal."""
        self._ending()
        super().handle_exit(sig, frame)
