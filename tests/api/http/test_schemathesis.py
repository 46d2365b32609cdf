"""The service does what its OpenAPI document says, also with requests that nobody thought of."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy, one_of
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from segmentd.auth.tokens import digest_of, new_secret
from segmentd.domain.access import Actor, CallerName, Role
from segmentd.storage import tokens
from segmentd.storage.database import Database
from tests.support.client import ORIGIN
from tests.support.openapi import DOCUMENT
from tests.support.postgres import new_database
from tests.support.served import served

CONFORMANCE = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SHORT = settings(
    max_examples=5,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[*HealthCheck],
)
LONG = settings(SHORT, max_examples=60, derandomize=False)
EFFORTS = [pytest.param(SHORT, id="short"), pytest.param(LONG, marks=pytest.mark.proof, id="proof")]

TOKEN = new_secret()

AnyCase = Case[Any]
AnyOperation = APIOperation[Any, Any, Any, Any]
Send = Callable[[AnyCase], httpx.Response]


API = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [result.ok() for result in API.get_all_operations() if isinstance(result, Ok)]


@pytest.fixture(scope="module")
def send(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Send]:
    """Sends a generated request to a service that knows the segments A and B and the user 1."""
    with ExitStack() as stack:
        url = stack.enter_context(new_database(postgres_url, template_database))
        runner = stack.enter_context(asyncio.Runner())
        runner.run(make_token(url))
        service = served(url, tmp_path_factory.mktemp("data"))
        api = runner.run(service.__aenter__())
        stack.callback(lambda: runner.run(service.__aexit__(None, None, None)))
        api.headers["Authorization"] = f"Bearer {TOKEN}"
        runner.run(api.create("A"))
        runner.run(api.create("B", percent=50))
        runner.run(api.add(1, "A"))

        def send(case: AnyCase) -> httpx.Response:
            generated = requests.Request(**case.as_transport_kwargs(base_url=ORIGIN)).prepare()
            assert not isinstance(generated.body, Iterator)
            headers = dict(generated.headers)
            # A made-up token becomes a good one; where a token shall be missing, it is.
            if "Authorization" in headers:
                headers["Authorization"] = f"Bearer {TOKEN}"
            else:
                api.headers.pop("Authorization", None)
            return runner.run(
                api.request(
                    generated.method or "",
                    generated.url or "",
                    headers=headers,
                    content=generated.body,
                )
            )

        yield send


async def make_token(database_url: str) -> None:
    async with Database(database_url, pool_size=1) as database:
        await tokens.create(database, CallerName("admin"), Role.ADMIN, digest_of(TOKEN), None, Actor("test"))


def requests_of(operation: AnyOperation, mode: GenerationMode) -> SearchStrategy[AnyCase]:
    """Requests to addresses made up, and to those of what is there."""
    there = {
        name: value for name, value in {"slug": "B", "user_id": 1}.items() if f"{{{name}}}" in operation.path
    }
    return one_of(operation.as_strategy(mode), operation.as_strategy(mode, path_parameters=there))


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_requests_that_fit_the_document_are_answered_as_it_says(
    operation: AnyOperation, send: Send, effort: settings
) -> None:
    @effort
    @given(requests_of(operation, GenerationMode.POSITIVE))
    def run(case: AnyCase) -> None:
        case.validate_response(send(case), checks=CONFORMANCE)

    run()


@pytest.mark.parametrize(
    "operation",
    [
        operation
        for operation in OPERATIONS
        # Any bytes are the body of an import: what is wrong with them is in the import.
        if operation.label != "POST /api/v1/imports" and (operation.body or [*operation.iter_parameters()])
    ],
    ids=lambda operation: operation.label,
)
@pytest.mark.parametrize("effort", EFFORTS)
def test_requests_that_do_not_fit_the_document_are_refused_as_it_says(
    operation: AnyOperation, send: Send, effort: settings
) -> None:
    @effort
    @given(operation.as_strategy(GenerationMode.NEGATIVE))
    def run(case: AnyCase) -> None:
        case.validate_response(send(case), checks=[*CONFORMANCE, negative_data_rejection])

    run()
