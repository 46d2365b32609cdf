"""The routes of the console, below /console."""

from typing import Final

from litestar import Response, Router, get
from litestar.di import Provide
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from segmentd.api.http.edge.guard import ADMITS, OPERATION, AnyConnection
from segmentd.console import access, files
from segmentd.console.pages import (
    activity,
    audit,
    import_upload,
    imports,
    reports,
    search,
    segment,
    segment_actions,
    segment_chart,
    segments,
    tokens,
    user,
)
from segmentd.console.refusals import EXCEPTION_HANDLERS
from segmentd.console.rendering import in_slices
from segmentd.console.sessions import Sessions
from segmentd.console.visit import ROOT, admit
from segmentd.domain.access import Principal


@get("/{path:path}", opt={OPERATION: "console"})
async def nothing_here(path: FromPath[str]) -> Response[bytes]:  # noqa: ARG001 - Litestar wants it
    """An address below the console that no page has."""
    raise NotFoundException


# Each page's handlers; `opt` names the operation of the table of roles that it shows or does.
HANDLERS: Final[list[ControllerRouterHandler]] = [
    files.console_file,
    access.show_login,
    access.log_in,
    access.log_out,
    access.choose_language,
    *search.HANDLERS,
    *user.HANDLERS,
    *segments.HANDLERS,
    *segment.HANDLERS,
    *segment_actions.HANDLERS,
    *segment_chart.HANDLERS,
    *imports.HANDLERS,
    *import_upload.HANDLERS,
    *reports.HANDLERS,
    *activity.HANDLERS,
    *audit.HANDLERS,
    *tokens.HANDLERS,
    nothing_here,
]


def console_router(sessions: Sessions) -> Router:
    """The console, for people whose sessions these are."""

    async def admits(connection: AnyConnection) -> Principal:
        return await admit(connection, sessions)

    return Router(
        ROOT,
        route_handlers=HANDLERS,
        dependencies={"sessions": Provide(lambda: sessions, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        after_request=in_slices,
        opt={ADMITS: admits},
        include_in_schema=False,
    )
