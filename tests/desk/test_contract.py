"""The API keeps what its OpenAPI document says, whatever is sent: schemathesis makes the requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from streams.desk.api import make_api
from streams.desk.store import open_store
from tests.desk.desks import Desk, feedback, prediction
from tests.desk.test_api import who


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The document of a desk that has something to show."""
    folder: Path = tmp_path_factory.mktemp("contract")
    desk = Desk(open_store(f"sqlite:///{folder / 'desk.sqlite'}", "tests"))
    desk.take(prediction("site-0001"), feedback("site-0001", reviewer="bob"))
    desk.ask(*(f"asked-{number}" for number in range(200)))
    api = make_api(desk.board(), who)
    # A stream does not end, so that what it says cannot be checked here.
    return schemathesis.openapi.from_asgi("/openapi.json", api).exclude(path="/stream")


def test_no_request_breaks_the_contract(contract: Any) -> None:
    operations = [found.ok() for found in contract.get_all_operations()]
    assert len(operations) == 12
    for operation in operations:

        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def keeps_it(case: Any) -> None:
            case.call_and_validate(
                headers={"Authorization": "Bearer of-ann"},
                # What fits the document may be refused nevertheless: a label that this loop does not have.
                excluded_checks=[positive_data_acceptance],
            )

        keeps_it()
