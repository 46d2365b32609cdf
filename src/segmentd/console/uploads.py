"""A form with a file: its fields first, then the file as it comes, of which only a piece is in memory."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final, NamedTuple, TypeAlias

from litestar.exceptions import ClientException
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from segmentd.api.http.content import media_type
from segmentd.api.http.resources.imports import received_body
from segmentd.api.http.types import AnyRequest
from segmentd.console.forms import FORM_TOKEN, MOST_FIELDS, Form
from segmentd.console.visit import Visit
from segmentd.domain.errors import Fault, Invalid
from segmentd.imports.receive import BodyBrokeOff

_MULTIPART: Final = "multipart/form-data"
# Of all fields before the file together.
MOST_BYTES: Final = 2**16

_Event: TypeAlias = MultipartSegment | bytes | None


class SentFile(NamedTuple):
    """A form whose last field is a file. The content raises BodyBrokeOff."""

    form: Form
    name: str
    content: AsyncIterator[bytes]


async def read_upload(request: AnyRequest, visit: Visit) -> SentFile:
    """The fields of a form of this visit, and the file after them.

    Raises Invalid, FormExpired, HTTPException (400, 415).
    """
    media_type(request.headers.getall("content-type", []), [_MULTIPART])
    boundary = parse_options_header(request.headers["content-type"])[1].get("boundary", "")
    if not boundary:
        raise Invalid(Fault("", "must be a form with a boundary"))
    events = _events(request, boundary)
    try:
        fields, file = await _fields(events)
    except BodyBrokeOff:
        raise ClientException("The form broke off before its file, or is none.") from None
    form = Form({name: value for name, value in fields.items() if value})
    visit.check_form_token(form.text(FORM_TOKEN))
    return SentFile(form, file.filename or "", _content(events))


async def _fields(events: AsyncIterator[_Event]) -> tuple[dict[str, str], MultipartSegment]:
    fields: dict[str, str] = {}
    name, value, size = "", bytearray(), 0
    async for event in events:
        if isinstance(event, MultipartSegment):
            if event.filename is not None:
                return fields, event
            name, value = event.name or "", bytearray()
            if name in fields or len(fields) == MOST_FIELDS:
                raise Invalid(Fault("", f"has a field twice, or more than {MOST_FIELDS}"))
        elif event is None:
            try:
                fields[name] = value.decode()
            except UnicodeDecodeError:
                raise Invalid(Fault(f"/{name}", "must be UTF-8")) from None
        else:
            value += event
            size += len(event)
            if size > MOST_BYTES:
                raise Invalid(Fault("", f"its fields before the file have more than {MOST_BYTES} bytes"))
    raise Invalid(Fault("/file", "choose a file"))


async def _content(events: AsyncGenerator[_Event]) -> AsyncIterator[bytes]:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, bytes):
                yield event
            elif event is not None:  # a field after the file, which our form has not
                raise BodyBrokeOff


async def _events(request: AnyRequest, boundary: str) -> AsyncGenerator[_Event]:
    """What the parser finds. Raises BodyBrokeOff where the body is no form or ends too early."""
    try:
        with PushMultipartParser(boundary, max_segment_count=MOST_FIELDS) as parser:
            async for chunk in received_body(request):
                for event in parser.parse(chunk):
                    yield bytes(event) if isinstance(event, bytearray) else event
    except MultipartError:
        raise BodyBrokeOff from None
