"""/audit: who changed segments and tokens, imported lists, or erased users."""

from collections.abc import Mapping, Sequence

from litestar import Router, get
from msgspec import Struct

from segmentd.api.http.types import CursorParameter, InstantText, LimitParameter, UseCases
from segmentd.domain.audit import AuditEntry, AuditOperation
from segmentd.domain.instants import rfc3339
from segmentd.domain.pages import USUAL_PAGE


class AuditBody(Struct, frozen=True):
    """One operation. `subject` is a slug or a token's name; null for an erasure, which leaves no data."""

    at: InstantText
    actor: str
    on_behalf_of: str | None
    operation: AuditOperation
    subject: str | None
    before: Mapping[str, str | float | None] | None
    after: Mapping[str, str | float | None] | None

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditBody":
        return cls(
            rfc3339(entry.at),
            entry.actor,
            entry.on_behalf_of,
            entry.operation,
            entry.subject,
            entry.before,
            entry.after,
        )


class AuditPage(Struct, frozen=True):
    """Operations, the newest first."""

    entries: Sequence[AuditBody]
    next_cursor: str | None


@get("/audit")
async def list_audit_log(
    service: UseCases, limit: LimitParameter = USUAL_PAGE, cursor: CursorParameter = None
) -> AuditPage:
    """List changes of segments and tokens, imports, and erasures, the newest first."""
    page = await service.list_audit_log(limit, cursor)
    return AuditPage([AuditBody.of(entry) for entry in page.items], page.next_cursor)


audit_router = Router("/", tags=["Audit"], route_handlers=[list_audit_log])
