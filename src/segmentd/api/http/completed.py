"""The OpenAPI document with what Litestar leaves out: meanings of fields, examples of bodies, names, tags."""

from collections.abc import Iterator
from typing import Any, Final

from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import OpenAPI

from segmentd.api.http.body_examples import SCHEMAS, STREAMS
from segmentd.api.http.types import RequestBody
from segmentd.api.http.words import FIELDS, HEADERS, NAMES, TAGS

Node = dict[str, Any]

_REFERENCE: Final = "#/components/schemas/"
_JSON: Final = "application/json"


class CompletedConfig(OpenAPIConfig):
    """Makes a document that completes itself when it is rendered, and not when an application starts."""

    def to_openapi_schema(self) -> OpenAPI:
        """The document."""
        made = super().to_openapi_schema()
        return _Completed(
            openapi=made.openapi,
            info=made.info,
            servers=made.servers,
            paths=made.paths,
            components=made.components,
        )


class _Completed(OpenAPI):
    def to_schema(self) -> Node:
        document: Node = _renamed(super().to_schema())
        bodies = {body.__name__ for body in _below(RequestBody)}
        for name, schema in document["components"]["schemas"].items():
            _describe_fields(name, schema)
            if name in bodies:
                schema["additionalProperties"] = False
            if name in SCHEMAS:
                schema["examples"] = [SCHEMAS[name]]
        for item in document["paths"].values():
            for operation in item.values():
                _complete(operation)
        document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
        return document


def _below(body: type[RequestBody]) -> Iterator[type[RequestBody]]:
    for each in body.__subclasses__():
        yield each
        yield from _below(each)


def _renamed(value: Any) -> Any:  # noqa: ANN401 # any value of a JSON document
    """The same with the names of words.NAMES."""
    match value:
        case dict():
            renamed = {NAMES.get(name, name): _renamed(each) for name, each in value.items()}
            reference = str(value.get("$ref", "")).removeprefix(_REFERENCE)
            if reference in NAMES:
                renamed["$ref"] = f"{_REFERENCE}{NAMES[reference]}"
            for old, new in NAMES.items():
                if old in value:
                    renamed[new]["title"] = new
            return renamed
        case list():
            return [_renamed(each) for each in value]
    return value


def _describe_fields(name: str, schema: Node) -> None:
    for field, described in schema.get("properties", {}).items():
        text = FIELDS.get(f"{name}.{field}", FIELDS.get(field))
        if text is not None:
            described.setdefault("description", text)


def _complete(operation: Node) -> None:
    operation.setdefault("security", [])
    for parameter in operation.get("parameters", []):
        if parameter["name"] in HEADERS:
            parameter.setdefault("description", HEADERS[parameter["name"]])
    answers = [answer for status, answer in operation["responses"].items() if status < "400"]
    bodies = [operation.get("requestBody", {}), *answers]
    for content in (body["content"] for body in bodies if "content" in body):
        if len(content) > 1 and not content.get(_JSON, {"schema": True})["schema"]:
            del content[_JSON]
        for media_type, each in content.items():
            _give_example(operation["operationId"], media_type, each)


def _give_example(operation: str, media_type: str, content: Node) -> None:
    name = content["schema"].get("$ref", "").removeprefix(_REFERENCE)
    if not media_type.endswith("json"):
        content["schema"] = content["schema"] or {"type": "string"}
    if name in SCHEMAS:
        content.setdefault("example", SCHEMAS[name])
    elif operation in STREAMS:
        content["schema"] = content["schema"] or {"type": "string"}
        content.setdefault("example", STREAMS[operation])
