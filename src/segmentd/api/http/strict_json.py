"""Request bodies: JSON decoded by msgspec into the body's type, strictly, with a pointer to what is wrong.

Litestar's own decoding converts "10" to 10 and loses the place of an error; this takes its place.
"""

import json
from collections.abc import Generator, Iterator
from typing import TypeVar

import msgspec
from litestar._openapi.schema_generation import SchemaCreator
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.exceptions import ClientException, HTTPException
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from segmentd.api.http.wording import escaped, fault_of
from segmentd.domain.errors import Fault, Invalid

Body = TypeVar("Body")


def decode(body: bytes, body_type: type[Body]) -> Body:
    """The body as its type. Raises Invalid with a pointer, or ClientException (400) for what is not JSON."""
    try:
        return msgspec.json.decode(body, type=body_type)
    except msgspec.ValidationError as error:
        raise Invalid(fault_of(str(error))) from None
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


def _lone_surrogates(body: bytes) -> Iterator[str]:
    """The pointers of strings that JSON can write with escapes but that no text is."""
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return
    yield from _walk(document, "")


def _walk(value: object, pointer: str) -> Iterator[str]:
    match value:
        case str() if not _is_text(value):
            yield pointer
        case dict():
            for key, member in value.items():
                if _is_text(key):
                    yield from _walk(member, f"{pointer}/{escaped(key)}")
                else:
                    yield pointer  # which cannot name such a key
        case list():
            for index, item in enumerate(value):
                yield from _walk(item, f"{pointer}/{index}")


def _is_text(string: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in string)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
