"""Whatever fails, nothing is lost and each verdict is learned once, with the default delivery: see ``exact``."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.loop import AT_LEAST_ONCE
from tests.faults.exact import TIMEOUT_S, assert_exact


@pytest.mark.timeout(TIMEOUT_S)
def test_whatever_fails_nothing_is_lost_and_each_verdict_is_learned_once(tmp_path: Path) -> None:
    assert_exact(tmp_path, AT_LEAST_ONCE)
