from __future__ import annotations

import socket
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from streams import opening
from streams.config import Settings
from streams.core.errors import Unavailable
from streams.desk.serving import listen, url_of
from streams.loop import load
from tests.e2e.system import await_that

NO_KAFKA = {"COUNTERPOINT_BOOTSTRAP": "127.0.0.1:1"}


def settings(folder: Path) -> Settings:
    """Of a desk whose Kafka is away."""
    return Settings.from_env({**NO_KAFKA, "COUNTERPOINT_STATE_DIR": str(folder)})


def test_a_desk_without_kafka_is_alive_and_not_ready_and_says_what_is_wrong(tmp_path: Path) -> None:
    with opening.opened(load("phishing"), settings(tmp_path)) as desk:
        desk.projection.start()
        await_that(lambda: desk.projection.trouble, what="trouble")
        doors = opening.doors_of(desk.board, settings(tmp_path))
        with TestClient(opening.application(desk.board, doors)) as client:
            assert client.get("/healthz").text == "alive"
            assert client.get("/readyz").status_code == 503
            assert client.get("/api/v1/reviews").status_code == 401
            assert "Sign in" in client.get("/", headers={"accept": "text/html"}).text
        health = desk.board.health()
        assert not health.ready
        assert "127.0.0.1:1" in (health.trouble or "")


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match="COUNTERPOINT_DESK_PORT"):
            listen("127.0.0.1", port)
    with listen("127.0.0.1", 0) as free:
        assert url_of(free) == f"http://127.0.0.1:{free.getsockname()[1]}/"
