"""The demos as a newcomer runs them: one command, their own broker, and an audit at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KEYS = {
    *(
        "inputs",
        "predictions",
        "feedback",
        "learned",
        "dead_letters",
        "accuracy",
        "accuracy_frozen",
    ),
    *("model_version", "verdict_to_model_ms_p99", "audit"),
}


@pytest.mark.parametrize(
    ("name", "events"), [("phishing", 1250), ("digits", 1797), ("trump", 1001)]
)
def test_a_demo_ends_by_itself_with_everything_learned_once(
    name: str, events: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", "demo", name, "--headless", "--json"],
        cwd=tmp_path,
        env={**os.environ, "COUNTERPOINT_STATE_DIR": str(tmp_path / "state")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.keys() >= KEYS
    assert told["audit"] == "ok"
    assert told["inputs"] == told["predictions"] == told["feedback"] == told["learned"] == events
    assert told["dead_letters"] == 0
    assert (tmp_path / f"demo-{name}.png").stat().st_size > 10_000
    if name == "phishing":
        assert told["accuracy"] > told["accuracy_frozen"] > 0.5
