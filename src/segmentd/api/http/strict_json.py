"""Request bodies: JSON decoded by msgspec into the body's type, strictly, with a pointer to what is wrong.

Litestar's own decoding converts "10" to 10 and loses the place of an error. This replaces it
(docs/decisions/0003, 0038).
"""

import json
from codecs import BOM_UTF8
from collections.abc import Generator, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Final, TypeVar

import msgspec
from litestar._openapi.schema_generation import SchemaCreator
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.exceptions import ClientException
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from segmentd.api.http.content import codings_of, media_type, unknown_coding
from segmentd.domain.errors import Fault, Invalid
from segmentd.domain.wording import escaped, fault_of

Body = TypeVar("Body")

_JSON: Final = "application/json"
_NO_TEXT: Final = "half a surrogate pair is not text"


def decode(body: bytes, body_type: type[Body]) -> Body:
    """The body as its type. Raises Invalid with a pointer, or ClientException (400) if it is not JSON."""
    body = body.removeprefix(BOM_UTF8)
    try:
        decoded = msgspec.json.decode(body, type=body_type)
    except msgspec.ValidationError as error:
        raise Invalid(fault_of(str(error))) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        if faults := _unreadable(body):
            raise Invalid(*faults) from None
        raise ClientException("The body is not well-formed JSON in UTF-8.") from None
    check_unambiguous(body)
    return decoded


def check_unambiguous(body: bytes) -> None:
    """Raises Invalid for a key that stands twice in one object, or a number that no float represents.

    msgspec has decoded the body.
    """
    if (document := _Document(body)).is_ambiguous:
        raise Invalid(*document.faults())


class StrictJson(AbstractDTO[Body]):
    """`dto=StrictJson[ChangeBody]` on a handler whose `data` is a ChangeBody."""

    def decode_bytes(self, value: bytes) -> Body:
        """The request's body. Raises Invalid, HTTPException (400, 415)."""
        self.check_headers()
        return decode(value, self.model_type)

    def check_headers(self) -> None:
        """Raises HTTPException (415) unless the body is JSON in UTF-8, and not compressed."""
        headers = self.asgi_connection.headers
        media_type(headers.getall("content-type", []), [_JSON])
        if codings := codings_of(headers.getall("content-encoding", [])):
            raise unknown_coding(codings, "send JSON as it is", "identity")

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


class _Document:
    """Reads a body a second time, for errors that msgspec does not notice or cannot point to.

    msgspec takes the last of two equal keys, and rounds a number to the nearest float.
    """

    def __init__(self, body: bytes) -> None:
        self.is_ambiguous = False
        self._content = json.loads(
            body.decode(),
            object_pairs_hook=self._object,
            parse_float=self._number,
            parse_constant=_refuse_constant,
        )

    def faults(self) -> Iterator[Fault]:
        """Each fault with its pointer."""
        yield from _walk(self._content, "")

    def _object(self, members: list[tuple[str, object]]) -> object:
        found = dict(members)
        if len(found) == len(members):
            return found
        self.is_ambiguous = True
        return _Repeating(members)

    def _number(self, literal: str) -> object:
        nearest = float(literal)
        with suppress(ArithmeticError):  # of an exponent of 20 digits
            if Decimal(literal) == Decimal(repr(nearest)):
                return nearest
        self.is_ambiguous = True
        return _Inexact()


class _Repeating(list[tuple[str, object]]):
    """The members of an object of which two have one key."""


class _Inexact:
    """A number that no float can represent."""


def _unreadable(body: bytes) -> list[Fault]:
    """Strings that JSON can write with escapes but that are no text; none if something else is wrong."""
    try:
        return [*_Document(body).faults()]
    except (ValueError, RecursionError):
        return []


def _walk(value: object, pointer: str) -> Iterator[Fault]:
    match value:
        case str() if not _is_text(value):
            yield Fault(pointer, _NO_TEXT)
        case _Inexact():
            yield Fault(pointer, "the number has more digits than count; write it with fewer")
        case _Repeating():
            seen: set[str] = set()
            for key, member in value:
                if key in seen:
                    yield Fault(f"{pointer}/{escaped(key)}", "this key stands twice in one object")
                seen.add(key)
                yield from _walk_member(key, member, pointer)
        case dict():
            for key, member in value.items():
                yield from _walk_member(key, member, pointer)
        case list():
            for index, item in enumerate(value):
                yield from _walk(item, f"{pointer}/{index}")


def _walk_member(key: str, member: object, pointer: str) -> Iterator[Fault]:
    if _is_text(key):
        yield from _walk(member, f"{pointer}/{escaped(key)}")
    else:
        yield Fault(pointer, _NO_TEXT)  # no pointer can name such a key


def _is_text(string: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in string)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
