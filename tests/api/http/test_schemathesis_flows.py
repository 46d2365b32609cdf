"""The served API does what its OpenAPI document says, call after call: what one gives, the next one takes."""

import time
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.support.openapi import DOCUMENT
from tests.support.processes import Serving, serving

TOKEN = "a-secret-of-forty-characters-or-more-1234567890"
# One flow at a time: what schemathesis may choose depends on the flows before, and Hypothesis would take that
# for a mistake of the test.
FLOW = settings(
    max_examples=1,
    stateful_step_count=25,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)

# What fits the schema may still contradict itself, as with a segment that is named twice: that is 422.
ACCEPTED = ["2xx", "304", "401", "403", "404", "409", "410", "413", "422", "429", "503"]
API = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=schemathesis.Config.from_dict(
        {"checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}}
    ),
)
CHECKED: list[Any] = CHECKS.get_all()
TOO_LARGE_AN_ID = b"targetingKey: must be at most"
MANY_CALLS = 10_000
MOST_SECONDS = 600


def checks_of(case: schemathesis.Case[Any], response: Response) -> list[Any]:
    """All checks; but any bytes are the body of an import, and what is wrong with them is in the import.

    And the pattern of an id that is text has every number of nineteen digits.
    """
    if response.status_code == 400 and TOO_LARGE_AN_ID in response.content:
        return [check for check in CHECKED if check is not positive_data_acceptance]
    components = case.meta.components if case.meta else {}
    negative = {place for place, part in components.items() if part.mode.is_negative}
    if case.operation.label == "POST /api/v1/imports" and negative == {ParameterLocation.BODY}:
        return [check for check in CHECKED if check is not negative_data_rejection]
    return CHECKED


def flows(service: Serving, session: requests.Session) -> type[Any]:
    """Calls that follow each other; each answer meets all checks of schemathesis."""

    machine: Any = API.as_state_machine()

    class Flows(machine):  # type: ignore[misc] # it is made from the document
        calls = 0

        def get_call_kwargs(self, case: schemathesis.Case[Any]) -> dict[str, Any]:
            # A made-up token becomes a good one; where a token shall be missing, it is.
            has_token = "authorization" in {name.lower() for name in case.headers or ()}
            headers = {"Authorization": f"Bearer {TOKEN}"} if has_token else {}
            return {"base_url": service.url, "session": session, "headers": headers, "timeout": 60}

        def validate_response(
            self, response: Response, case: schemathesis.Case[Any], **options: object
        ) -> None:
            Flows.calls += 1
            if response.status_code == 414:  # of every address alike, so no operation names it
                return
            case.validate_response(response, checks=checks_of(case, response), transport_kwargs=options)

    return Flows


def own_bytes(pid: int) -> int:
    """The memory of a process without the files that it maps, such as the replica."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("calls", "most_growth_mebibytes"),
    # Of few calls, what is done for the first time takes most; of many, 900 bytes for each would be too much.
    [(30, 16), pytest.param(MANY_CALLS, 6, marks=pytest.mark.proof, id="proof")],
)
def test_calls_that_follow_each_other_are_answered_as_the_document_says_and_take_no_memory(
    database_url: str, tmp_path: Path, calls: int, most_growth_mebibytes: int
) -> None:
    env = {"SEGMENTD_ADMIN_TOKEN": TOKEN}
    with (
        # A forked process has its memory from another one, and takes over more and more of it.
        serving(
            "--database-url", database_url, cwd=tmp_path, env=env, as_shipped=calls == MANY_CALLS
        ) as service,
        requests.Session() as session,
    ):
        [worker] = service.ready().workers()
        machine = flows(service, session)
        usual = 0
        over = time.monotonic() + MOST_SECONDS
        while machine.calls < calls and time.monotonic() < over:
            machine.run(settings=FLOW)
            if machine.calls > min(calls, MANY_CALLS // 2) / 2:
                usual = usual or own_bytes(worker)
        grown = own_bytes(worker) - usual

        assert machine.calls >= min(calls, MANY_CALLS // 2), "on a busy machine fewer calls are made"
        assert [*service.workers()] == [worker]
        assert "Traceback" not in service.errors
        assert grown < most_growth_mebibytes * 2**20, grown
