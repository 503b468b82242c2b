"""The short plan, as it is: a real broker, all roles, over forty faults, and nothing is lost or learned twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from streams.loop import AT_LEAST_ONCE, TRANSACTIONAL
from tests.faults.plan import KINDS, faults, points_of, short
from tests.faults.report import as_json
from tests.faults.run import run
from tests.faults.traffic import KINDS as VERDICTS

SEED = 1


@pytest.mark.timeout(900)  # four minutes on two idle cores
@pytest.mark.parametrize("delivery", [AT_LEAST_ONCE, TRANSACTIONAL])
def test_whatever_fails_nothing_is_lost_and_each_verdict_is_learned_once(
    tmp_path: Path, delivery: str
) -> None:
    stages = short(SEED, delivery)
    result = run(
        tmp_path,
        stages,
        seed=SEED,
        per_s=200,
        until=time.time() + 700,
        delivery=delivery,
        say=lambda line: None,
    )
    told = as_json(result)
    assert result.wrong() == []
    assert (told["lost"], told["learned_twice"], told["audit"]["ok"]) == (0, 0, True)
    assert len(result.done) == len(faults(stages)) >= 40
    assert set(told["faults"]) == set(KINDS)
    assert set(told["failpoints"]) == points_of(delivery)
    assert set(result.verdicts) == set(VERDICTS)
    assert {"learned", "duplicate", "orphaned", "expired"} <= result.statuses.keys()
    assert result.rebuilt.compared == 500
