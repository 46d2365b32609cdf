"""Whom an evaluation is about: the targetingKey of the context is the id of the user."""

import json
from codecs import BOM_UTF8
from typing import Annotated, Final

import msgspec
from litestar.exceptions import ClientException
from msgspec import Meta

from segmentd.api.http.strict_json import StrictJson
from segmentd.domain.errors import Fault, Invalid, TargetingKeyMissing, read
from segmentd.domain.identifiers import UserId, UserIdText, read_user_id

_POINTER: Final = "/context/targetingKey"


class Context(msgspec.Struct, frozen=True):
    """The context of an evaluation. Attributes besides the targetingKey are ignored."""

    targeting_key: Annotated[UserIdText, Meta(description="the id of the user, in digits")] = msgspec.field(
        name="targetingKey"
    )


class EvaluationRequest(msgspec.Struct, frozen=True):
    """What an OFREP provider sends."""

    context: Context

    @property
    def user_id(self) -> UserId:
        """The user. Raises Invalid for an id that is too large."""
        return read(read_user_id, self.context.targeting_key, _POINTER)


class ContextJson(StrictJson[EvaluationRequest]):
    """`dto=ContextJson` on a handler whose `data` is an EvaluationRequest."""

    def decode_bytes(self, value: bytes) -> EvaluationRequest:
        """The request's body. Raises TargetingKeyMissing, Invalid, HTTPException (400, 415)."""
        if not value:
            raise TargetingKeyMissing
        self.check_headers()
        return read_request(value)


def read_request(body: bytes) -> EvaluationRequest:
    """The request in a body. Raises TargetingKeyMissing, Invalid, ClientException (400)."""
    try:
        document = json.loads(
            body.removeprefix(BOM_UTF8).decode(), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise ClientException("The body is not well-formed JSON in UTF-8, or names a key twice.") from None
    if not isinstance(document, dict):
        raise ClientException("The body must be a JSON object.")
    context = document.get("context")
    if not isinstance(context, dict | None):
        raise ClientException("/context must be a JSON object.")
    key = (context or {}).get("targetingKey")
    if key is None or key == "":
        raise TargetingKeyMissing
    if not isinstance(key, str):
        raise Invalid(Fault(_POINTER, "must be a string: the id of the user, in digits"))
    read(read_user_id, key, _POINTER)
    return EvaluationRequest(Context(key))


def _object(members: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
