"""Receives a list that the form sends."""

from typing import Final

from litestar import Response, post
from litestar.exceptions import ClientException

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.types import AnyRequest, UseCases
from segmentd.console.forms import Refusal
from segmentd.console.layout import see_other
from segmentd.console.pages.import_form import PATH, is_packed, ordered
from segmentd.console.pages.imports import imports_page
from segmentd.console.uploads import read_upload
from segmentd.console.visit import Visit
from segmentd.domain.errors import Fault, Invalid, SegmentdError, SegmentNotFound
from segmentd.imports.receive import BodyBrokeOff, Upload


@post(PATH, opt={OPERATION: "create_import"}, request_max_body_size=None)
async def bring(request: AnyRequest, service: UseCases) -> Response[bytes]:
    """Brings a list; leads to its page, or says what is wrong with the form."""
    visit = Visit.of(request)
    sent = await read_upload(request, visit)
    try:
        if not sent.name:
            raise Invalid(Fault("/file", "choose a file"))
        order = ordered(sent.form, sent.name)
        upload = Upload(sent.content, is_packed(sent.name), request.content_length or 0)
        found = await service.imports.bring(order, upload, visit.actor())
    except BodyBrokeOff:
        raise ClientException("The body broke off.") from None
    except SegmentdError as error:
        field = "segment" if isinstance(error, SegmentNotFound) else None
        refusal = Refusal.of(
            error, sent.form, {"/file": "file", "/segment": "segment", "/ttl_seconds": "ttl_seconds"}, field
        )
        return await imports_page(visit, service, refusal)
    return see_other(visit, visit.link(f"{PATH}/{found.id}"))


HANDLERS: Final = [bring]
