"""The short plan, as it is: a real broker, all roles, over forty faults, and nothing is lost or learned twice.

There is a test file for each delivery, so that the two can run beside each other.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.faults.plan import KINDS, faults, points_of, short
from tests.faults.report import as_json
from tests.faults.run import run
from tests.faults.traffic import KINDS as VERDICTS

SEED = 1
TIMEOUT_S = 900
"""It takes four minutes on two idle cores."""


def assert_exact(folder: Path, delivery: str) -> None:
    """Runs the plan with a delivery, and sees that it did all it is made for and found nothing."""
    stages = short(SEED, delivery)
    result = run(
        folder,
        stages,
        seed=SEED,
        per_s=200,
        until=time.time() + 700,
        delivery=delivery,
        say=lambda line: None,
    )
    told, wrong = as_json(result), result.wrong()
    assert not wrong, "\n".join(wrong)
    assert (told["lost"], told["learned_twice"], told["audit"]["ok"]) == (0, 0, True)
    assert len(result.done) == len(faults(stages)) >= 40
    assert set(told["faults"]) == set(KINDS)
    assert set(told["failpoints"]) == points_of(delivery)
    assert set(result.verdicts) == set(VERDICTS)
    assert {"learned", "duplicate", "orphaned", "expired"} <= result.statuses.keys()
    assert result.rebuilt.compared == 500
