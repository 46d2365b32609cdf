"""The OpenAPI document: the rules of the standard, rules of our own, and a client generated from it."""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from segmentd.api.http.body_examples import SCHEMAS, STREAMS
from segmentd.api.http.edge.problem_documents import PROBLEM_JSON
from segmentd.api.http.words import FIELDS, HEADERS, NAMES, TAGS
from segmentd.api.roles import ROLES
from tests.support.client import ORIGIN, Api, Json
from tests.support.openapi import DOCUMENT

COMPONENTS: Final[dict[str, Json]] = DOCUMENT["components"]["schemas"]
OPERATIONS: Final[dict[str, Json]] = {
    operation["operationId"]: operation for item in DOCUMENT["paths"].values() for operation in item.values()
}
PARAMETERS: Final = [
    (name, parameter)
    for name, operation in OPERATIONS.items()
    for parameter in operation.get("parameters", [])
]
# Each body: operation, status or "request", media type, and what the document says of it.
BODIES: Final = [
    (name, status, media_type, content)
    for name, operation in OPERATIONS.items()
    for status, body in [("request", operation.get("requestBody", {})), *operation["responses"].items()]
    for media_type, content in body.get("content", {}).items()
]


def fields(schema: Json, where: str) -> Iterator[tuple[str, Json]]:
    """Every field of an object, those of objects inside it too."""
    for name, field in schema.get("properties", {}).items():
        yield f"{where}.{name}", field
        yield from fields(field, f"{where}.{name}")


FIELDS_OF_BODIES: Final = [each for name, schema in COMPONENTS.items() for each in fields(schema, name)]


def fits(example: object, schema: Json) -> bool:
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": DOCUMENT["components"]}
    return jsonschema_rs.is_valid({**whole, **schema}, example)


# The standard


def test_a_validator_of_openapi_finds_nothing_to_say() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


# Rules of our own


def test_every_operation_has_a_name_a_group_a_role_and_words_for_people() -> None:
    assert len(OPERATIONS) == sum(len(item) for item in DOCUMENT["paths"].values())
    assert [tag["name"] for tag in DOCUMENT["tags"]] == [*TAGS]
    assert {tag for operation in OPERATIONS.values() for tag in operation["tags"]} == {*TAGS}
    for name, operation in OPERATIONS.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert len(operation["tags"]) == 1, name
        assert operation["summary"], name
        assert operation["description"].endswith("."), name
        assert bool(operation["security"]) == (ROLES[name] is not None), name


def test_every_parameter_and_every_field_of_a_body_says_what_it_means() -> None:
    assert [(name, each["name"]) for name, each in PARAMETERS if not each.get("description")] == []
    assert [name for name, field in FIELDS_OF_BODIES if not field.get("description")] == []


def test_every_body_has_an_example_that_fits_its_schema() -> None:
    for name, status, media_type, content in BODIES:
        if status == "request" or status < "400":
            examples = [content["example"]] if "example" in content else content["examples"].values()
            for example in examples:
                value = example["value"] if "examples" in content else example
                assert fits(value, content["schema"]), (name, status, media_type, value)


def test_every_example_of_a_schema_and_of_a_field_fits_it() -> None:
    for name, schema in [*COMPONENTS.items(), *FIELDS_OF_BODIES]:
        for example in schema.get("examples", []):
            assert fits(example, schema), (name, example)


def test_an_example_that_does_not_fit_would_be_found() -> None:
    assert not fits({"slug": "A", "percent": 101}, {"$ref": "#/components/schemas/SegmentCreation"})
    assert not fits({"flags": [{"key": 1}]}, {"$ref": "#/components/schemas/Flags"})


def test_every_refusal_has_the_schema_of_a_problem_in_the_form_of_its_door() -> None:
    for name, operation in OPERATIONS.items():
        for status, answer in operation["responses"].items():
            # A range beyond the end is answered by headers alone.
            if status >= "400" and status != "416":
                [(media_type, content)] = answer["content"].items()
                form = (
                    ("application/json", "EvaluationFailure")
                    if operation["tags"] == ["OpenFeature"]
                    else (PROBLEM_JSON, "ProblemBody")
                )
                assert (media_type, content["schema"]["$ref"].rsplit("/")[-1]) == form, (name, status)
            assert answer["description"], (name, status)


def test_no_schema_is_named_after_a_module_and_none_is_left_over() -> None:
    assert {*NAMES.values()} <= COMPONENTS.keys()
    assert [name for name in COMPONENTS if not re.fullmatch(r"([A-Z][a-z]+)+", name)] == []
    referenced = {*re.findall(r"#/components/schemas/(\w+)", json.dumps(DOCUMENT))}
    assert referenced == COMPONENTS.keys()


def test_every_word_and_every_example_is_of_something_that_there_is() -> None:
    names = {name for name, _ in FIELDS_OF_BODIES} | {name.split(".")[-1] for name, _ in FIELDS_OF_BODIES}
    assert FIELDS.keys() - names == set()
    assert HEADERS.keys() - {each["name"] for _, each in PARAMETERS} == set()
    assert SCHEMAS.keys() - COMPONENTS.keys() == set()
    assert STREAMS.keys() - OPERATIONS.keys() == set()


# A generated client


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a package that openapi-python-client has made of the document."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(DOCUMENT), "utf-8")
    settings = {
        "post_hooks": [],
        "package_name_override": "segmentd_generated",
        # It knows no streams of lines, but it can send and fetch bytes.
        "content_type_overrides": dict.fromkeys(
            ["text/csv", "application/x-ndjson", "text/event-stream"], "application/octet-stream"
        ),
    }
    (folder / "settings.json").write_text(json.dumps(settings), "utf-8")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate"),
            *("--path", "openapi.json", "--config", "settings.json", "--meta", "none"),
            *("--output-path", "segmentd_generated", "--fail-on-warning"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    sys.path.insert(0, str(folder))
    yield "segmentd_generated"
    sys.path.remove(str(folder))


async def test_a_generated_client_creates_changes_and_reads(generated: str, api: Api) -> None:
    client = importlib.import_module(f"{generated}.client").Client(ORIGIN).set_async_httpx_client(api)
    models: Any = importlib.import_module(f"{generated}.models")

    async def call(path: str, *arguments: object, **more: object) -> Any:  # noqa: ANN401 # what the client returns
        return await importlib.import_module(f"{generated}.api.{path}").asyncio(
            *arguments, client=client, **more
        )

    created = await call("segments.create_segment", body=models.SegmentCreation(slug="A", percent=0.5))
    await call("segments.create_segment", body=models.SegmentCreation(slug="B"))
    again = await call("segments.create_segment", body=models.SegmentCreation(slug="A"))
    changed = await call(
        "a_users_segments.change_user_segments",
        1000,
        body=models.MembershipChange(add=["A", models.Term(slug="B", ttl_seconds=60)], reason="a ticket"),
    )
    detailed = await call("a_users_segments.get_user_segments", 1000, detail=True)
    explained = await call("a_users_segments.explain_membership", 1000, "A")
    history = await call("a_users_segments.get_history", 1000)
    nobody = await call("users.get_user", 1001)

    assert (created.slug, created.percent) == ("A", 0.5)
    assert (again.type_, again.slug) == ("/problems/segment-exists", "A")
    assert (changed.added, changed.segments) == (["A", "B"], ["A", "B"])
    assert [(each.slug, each.source, each.until is None) for each in detailed.segments] == [
        ("A", models.Source.EXPLICIT, True),
        ("B", models.Source.EXPLICIT, False),
    ]
    assert (explained.member, explained.because) == (True, models.Because.EXPLICIT)
    assert [(each.segment, each.reason) for each in history.events] == [("A", "a ticket"), ("B", "a ticket")]
    assert (nobody.status, nobody.type_) == (404, "/problems/user-not-found")
