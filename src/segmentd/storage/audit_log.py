"""The audit log: who changed segments and tokens, or erased users (functions/03_audit_log.sql)."""

from collections.abc import Sequence

from segmentd.domain.audit import AuditEntry, AuditId
from segmentd.storage.database import Database


async def list_before(database: Database, before: AuditId | None, limit: int) -> Sequence[AuditEntry]:
    """Up to `limit` entries older than that one, the newest first. Raises Unavailable."""
    return await database.all(
        AuditEntry,
        "SELECT id, at, actor, on_behalf_of, operation, subject, before, after FROM audit_log"
        " WHERE %(before)s::bigint IS NULL OR id < %(before)s ORDER BY id DESC LIMIT %(limit)s",
        {"before": before, "limit": limit},
    )
