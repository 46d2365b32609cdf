"""Writes postman/ from the OpenAPI document and the story beside it; `make postman` runs it."""

import json
import re
import uuid
from pathlib import Path
from typing import Any, Final

from postman_calls import FOLDERS
from postman_steps import Step

from segmentd.api.http.app import create_app
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.service import Service
from segmentd.storage.database import Database

FOLDER: Final = Path("postman")
COLLECTION: Final = "segmentd.postman_collection.json"
ENVIRONMENT: Final = "segmentd.postman_environment.json"
FORM: Final = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
NAMESPACE: Final = uuid.UUID("6b7f9f5a-2f0a-4a39-9a0c-3a6d0f1f7b11")
# What only people read.
WORDS: Final = {"description", "example", "examples", "title", "discriminator"}
DESCRIPTION: Final = """\
Every call of segmentd: the story of the assignment first, then the rest. Run the whole collection against a
service for trials, as often as you like: it deletes the segments of the story and erases the users 1000, 1002
and 1005, before and after. The environment has the address (`base_url`) and a token of an admin (`token`),
which may be empty where there is no access control.

Written by `make postman` from the OpenAPI document; edit `.ci/postman_story.py`, `.ci/postman_calls.py`."""
AUTHORIZED: Final = """\
if (pm.environment.get("token") && !pm.request.headers.has("Authorization")) {
    pm.request.headers.upsert({key: "Authorization", value: `Bearer ${pm.environment.get("token")}`});
}"""
OF_EVERY_ANSWER: Final = """\
pm.test("it has a request id, and is no failure of the service", () => {
    pm.response.to.have.header("X-Request-Id");
    pm.expect(pm.response.code).to.be.below(500);
});"""

Json = dict[str, Any]


class Nowhere(Service):
    """Enough of a service for its OpenAPI document."""

    def __init__(self) -> None:
        """Has nothing and serves nobody."""


def document() -> Json:
    """The OpenAPI document, as a client gets it."""
    app = create_app(Nowhere(), Authenticator(Database(""), AccessRules(may_be_open=True, bound_seconds=1)))
    made: Json = json.loads(json.dumps(app.openapi_schema.to_schema()))
    return made


class Collection:
    """Makes the collection of one document."""

    def __init__(self, openapi: Json) -> None:
        self._schemas = openapi["components"]["schemas"]
        self._operations = {
            operation["operationId"]: (method.upper(), path, operation)
            for path, item in openapi["paths"].items()
            for method, operation in item.items()
        }

    def made(self) -> Json:
        """The whole collection."""
        return {
            "info": {
                "_postman_id": str(uuid.uuid5(NAMESPACE, "collection")),
                "name": "segmentd",
                "description": DESCRIPTION,
                "schema": FORM,
            },
            "auth": {"type": "noauth"},
            "event": [event("prerequest", AUTHORIZED), event("test", OF_EVERY_ANSWER)],
            "item": [
                {"name": folder, "item": [self._item(step) for step in steps]}
                for folder, steps in FOLDERS.items()
            ],
        }

    def _item(self, step: Step) -> Json:
        _, _, operation = self._operations[step.operation]
        request = self._request(step)
        events = [event("test", self._tests(step))]
        if step.before:
            events.insert(0, event("prerequest", step.before))
        return {
            "name": step.name,
            "event": events,
            "request": request,
            "response": [
                saved(request, status, answer)
                for status, answer in operation["responses"].items()
                if int(status) in step.status and status < "400"
            ],
        }

    def _request(self, step: Step) -> Json:
        method, path, operation = self._operations[step.operation]
        parameters = operation.get("parameters", [])
        headers = [
            *({"key": key, "value": value} for key, value in step.headers.items()),
            *unused(parameters, "header", step.headers),
        ]
        request: Json = {
            "method": method,
            "description": f"{operation['summary']}. {operation['description']}",
            "header": headers,
            "url": step.link or url(path, parameters, step),
        }
        if step.body is not None:
            is_json = not isinstance(step.body, str)
            raw = json.dumps(step.body, indent=2) if is_json else step.body
            request["body"] = {"mode": "raw", "raw": raw}
            if is_json:
                request["body"]["options"] = {"raw": {"language": "json"}}
                headers.insert(0, {"key": "Content-Type", "value": "application/json"})
        return request

    def _tests(self, step: Step) -> str:
        _, _, operation = self._operations[step.operation]
        lines = [
            f'pm.test("the status is {" or ".join(map(str, step.status))}", () => {{',
            f"    pm.expect(pm.response.code).to.be.oneOf({[*step.status]});",
            "});",
        ]
        is_json = False
        for status in step.status:
            for media_type, content in operation["responses"][str(status)].get("content", {}).items():
                if media_type.endswith("json") and content["schema"] not in ({}, {"type": "string"}):
                    is_json = True
                    schema = json.dumps(self._inlined(content["schema"]))
                    lines += [
                        'pm.test("the body is as OpenAPI says", () => {',
                        f"    if (pm.response.code === {status}) pm.response.to.have.jsonSchema({schema});",
                        "});",
                    ]
        for promise, script in step.tests.items():
            lines += [f"pm.test({json.dumps(promise)}, () => {{"]
            lines += ["    const answer = pm.response.json();"] if is_json and "answer" in script else []
            lines += [f"    {line}" for line in script.splitlines()] + ["});"]
        return "\n".join(lines)

    def _inlined(self, value: Any) -> Any:  # noqa: ANN401 # any value of a JSON document
        """A schema without references, and without what only people read."""
        match value:
            case {"$ref": str(reference)}:
                return self._inlined(self._schemas[reference.rsplit("/", maxsplit=1)[-1]])
            case {"properties": dict(properties), **rest}:
                fields = {name: self._inlined(each) for name, each in properties.items()}
                return {**self._inlined(rest), "properties": fields}
            case dict():
                return {name: self._inlined(each) for name, each in value.items() if name not in WORDS}
            case list():
                return [self._inlined(each) for each in value]
        return value


def url(path: str, parameters: list[Json], step: Step) -> Json:
    """An address in Postman's form: `:name` in the path, and switched off what this request does not need."""
    parts = re.sub(r"{(\w+)}", r":\1", path).strip("/").split("/")
    query = [{"key": key, "value": value} for key, value in step.query.items()]
    asked = "&".join(f"{key}={value}" for key, value in step.query.items())
    return {
        "raw": f"{{{{base_url}}}}/{'/'.join(parts)}" + (f"?{asked}" if asked else ""),
        "host": ["{{base_url}}"],
        "path": parts,
        "query": query + unused(parameters, "query", step.query),
        "variable": [{"key": key, "value": value} for key, value in step.path.items()],
    }


def unused(parameters: list[Json], where: str, used: Any) -> list[Json]:  # noqa: ANN401 # a mapping
    """The parameters that a request could have too."""
    return [
        {"key": each["name"], "value": "", "description": each["description"], "disabled": True}
        for each in parameters
        if each["in"] == where and each["name"] not in used
    ]


def saved(request: Json, status: str, answer: Json) -> Json:
    """An example of an answer."""
    contents: Json = answer.get("content", {})
    media_type, content = next(iter(contents.items()), ("", Json()))
    example = content.get("example")
    is_json = media_type.endswith("/json")
    return {
        "name": answer["description"],
        "originalRequest": request,
        "status": answer["description"],
        "code": int(status),
        "_postman_previewlanguage": "json" if is_json else "text",
        "header": [{"key": "Content-Type", "value": media_type}] if media_type else [],
        "cookie": [],
        "body": json.dumps(example, indent=2) if is_json else example or "",
    }


def event(listen: str, script: str) -> Json:
    """JavaScript that runs before a request or after its answer."""
    return {"listen": listen, "script": {"type": "text/javascript", "exec": script.splitlines()}}


def environment() -> Json:
    """The address and the token."""
    return {
        "id": str(uuid.uuid5(NAMESPACE, "environment")),
        "name": "segmentd on this machine",
        "values": [
            {"key": "base_url", "value": "http://localhost:8080", "type": "default", "enabled": True},
            {"key": "token", "value": "", "type": "secret", "enabled": True},
        ],
        "_postman_variable_scope": "environment",
    }


def files(openapi: Json) -> dict[str, str]:
    """The files of postman/ and what is in them."""
    made = {COLLECTION: Collection(openapi).made(), ENVIRONMENT: environment()}
    return {name: json.dumps(each, indent=1) + "\n" for name, each in made.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in files(document()).items():
        (FOLDER / name).write_text(text, "utf-8")
