"""The OpenFeature SDK of Python against a real server: the guide's example, and what else it reads."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason

from tests.support.postgres import new_database
from tests.support.processes import serving
from tests.support.readme_examples import blocks

PAGE: Final = Path(__file__).parents[4] / "docs/guide/openfeature.md"
README_URL: Final = "http://localhost:8080"
USER: Final = EvaluationContext(targeting_key="1000", attributes={"plan": "premium", "visits": 3})


@pytest.fixture(scope="module")
def url(postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        new_database(postgres_url, template_database) as database_url,
        serving("--database-url", database_url, cwd=tmp_path_factory.mktemp("served")) as node,
    ):
        url = node.ready().url
        for segment in ({"slug": "AVITO_VOICE_MESSAGES", "percent": 100}, {"slug": "OUT", "percent": 0}):
            httpx.post(f"{url}/api/v1/segments", json=segment).raise_for_status()
        yield url


@pytest.fixture
def client(url: str) -> Iterator[OpenFeatureClient]:
    api.set_provider(OFREPProvider(url))
    yield api.get_client()
    api.shutdown()


def test_the_example_of_the_guide_prints_what_the_guide_shows(url: str) -> None:
    every = blocks(PAGE.read_text("utf-8"))
    [place] = [index for index, block in enumerate(every) if block.language == "python"]
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        exec(every[place].text.replace(README_URL, url), {})  # noqa: S102 - the example is ours

    assert printed.getvalue() == every[place + 1].text
    api.shutdown()


def test_a_flag_has_its_value_reason_variant_and_source(client: OpenFeatureClient) -> None:
    inside = client.get_boolean_details("AVITO_VOICE_MESSAGES", False, USER)  # noqa: FBT003 - the SDK's own
    outside = client.get_boolean_details("OUT", True, USER)  # noqa: FBT003 - the SDK's own

    assert (inside.value, inside.variant, inside.reason) == (True, "on", Reason.SPLIT)
    assert (outside.value, outside.variant, outside.reason) == (False, "off", Reason.SPLIT)
    assert inside.flag_metadata == {"source": "rollout"}


@pytest.mark.parametrize(
    ("key", "user", "code"),
    [
        ("NOBODY", USER, ErrorCode.FLAG_NOT_FOUND),
        ("OUT", EvaluationContext(), ErrorCode.TARGETING_KEY_MISSING),
        ("OUT", EvaluationContext(targeting_key="x"), ErrorCode.INVALID_CONTEXT),
    ],
)
def test_the_sdk_knows_each_refusal_and_gives_the_default(
    client: OpenFeatureClient, key: str, user: EvaluationContext, code: ErrorCode
) -> None:
    found = client.get_boolean_details(key, True, user)  # noqa: FBT003 - the SDK's own

    assert (found.value, found.error_code) == (True, code)
    assert re.search(r"\w", found.error_message or "")
