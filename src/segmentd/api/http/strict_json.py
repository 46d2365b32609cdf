"""Request bodies: JSON decoded by msgspec into the body's type, strictly, with a pointer to what is wrong.

Litestar's own decoding converts "10" to 10 and loses the place of an error; this takes its place.
"""

import json
import re
from collections.abc import Generator, Iterator
from typing import Final, TypeVar

import msgspec
from litestar._openapi.schema_generation import SchemaCreator
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.exceptions import ClientException, HTTPException
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from segmentd.domain.errors import Fault, Invalid

Body = TypeVar("Body")

_PATH: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def decode(body: bytes, body_type: type[Body]) -> Body:
    """The body as its type. Raises Invalid with a pointer, or ClientException (400) for what is not JSON."""
    try:
        return msgspec.json.decode(body, type=body_type)
    except msgspec.ValidationError as error:
        raise Invalid(_fault(str(error))) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        if faults := [
            Fault(pointer, "half a surrogate pair is not text") for pointer in _lone_surrogates(body)
        ]:
            raise Invalid(*faults) from None
        raise ClientException("The body is not well-formed JSON in UTF-8.") from None


class StrictJson(AbstractDTO[Body]):
    """`dto=StrictJson[ChangeBody]` on a handler whose `data` is a ChangeBody."""

    def decode_bytes(self, value: bytes) -> Body:
        """The request's body; 415 unless it says that it is JSON, or says nothing."""
        media_type, _, parameters = self.asgi_connection.headers.get(
            "content-type", "application/json"
        ).partition(";")
        charset = parameters.partition("charset=")[2].strip(' "').lower()
        if media_type.strip().lower() != "application/json" or charset not in {"", "utf-8", "utf8"}:
            raise HTTPException(
                status_code=415,
                detail="The body must be application/json in UTF-8.",
                headers={"Accept": "application/json"},
            )
        return decode(value, self.model_type)

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: object = None
    ) -> None:
        """Needs no preparation: msgspec decodes straight into the type."""

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003 - Litestar's signature
        schema_creator: SchemaCreator,
    ) -> Reference | Schema:
        """The body's own schema."""
        return schema_creator.for_field_definition(field_definition)

    @classmethod
    def generate_field_definitions(
        cls,
        model_type: type[Body],  # noqa: ARG003 - Litestar's signature
    ) -> Generator[DTOFieldDefinition, None, None]:
        """No fields of its own."""
        yield from ()

    @classmethod
    def detect_nested_field(
        cls,
        field_definition: FieldDefinition,  # noqa: ARG003 - Litestar's signature
    ) -> bool:
        """No fields of its own."""
        return False


def pointer_of(path: str) -> str:
    """Msgspec's `$.add[1].slug` as an RFC 6901 pointer, `/add/1/slug`."""
    steps = (name or index for name, index in _PATH.findall(path.removeprefix("$")))
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def _fault(message: str) -> Fault:
    what, _, path = message.partition(" - at `")
    return Fault(pointer_of(path.rstrip("`")), what)


def _lone_surrogates(body: bytes) -> Iterator[str]:
    """The pointers of strings that JSON can write with escapes but that no text is."""
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return
    yield from _walk(document, "")


def _walk(value: object, pointer: str) -> Iterator[str]:
    match value:
        case str() if any("\ud800" <= character <= "\udfff" for character in value):
            yield pointer
        case dict():
            for key, member in value.items():
                yield from _walk(member, f"{pointer}/{key}")
        case list():
            for index, item in enumerate(value):
                yield from _walk(item, f"{pointer}/{index}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
