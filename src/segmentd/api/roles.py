"""The one table of roles: operation → the role that it needs. Every door reads it."""

from collections.abc import Mapping
from typing import Final

from segmentd.domain.access import Principal, Role

ROLES: Final[Mapping[str, Role | None]] = {
    # For everybody: they show nothing about users and segments, or the signature of the link is the proof.
    "livez": None,
    "readyz": None,
    "hot_reads_readyz": None,
    "docs": None,
    "docs_asset": None,
    "openapi": None,
    "options": None,
    "get_report_file": None,
    "watch_flags": None,
    # The console's pages to log in and out, the choice of a language, and its files. Each of its other pages
    # is in this table under the operation that it shows or does.
    "console": None,
    # Reading.
    "list_segments": Role.READER,
    "get_segment": Role.READER,
    "list_members": Role.READER,
    "count_members": Role.READER,
    "preview_percent": Role.READER,
    "export_segment": Role.READER,
    "list_users": Role.READER,
    "get_user": Role.READER,
    "get_user_segments": Role.READER,
    "lookup": Role.READER,
    "evaluate_flag": Role.READER,
    "evaluate_flags": Role.READER,
    "explain_membership": Role.READER,
    "get_history": Role.READER,
    "follow_changes": Role.READER,
    "get_report": Role.READER,
    "list_imports": Role.READER,
    "get_import": Role.READER,
    "list_import_errors": Role.READER,
    "metrics": Role.READER,
    # Changing.
    "create_segment": Role.EDITOR,
    "update_segment": Role.EDITOR,
    "delete_segment": Role.EDITOR,
    "register_user": Role.EDITOR,
    "delete_user": Role.EDITOR,
    "change_user_segments": Role.EDITOR,
    "change_many_users": Role.EDITOR,
    "order_report": Role.EDITOR,
    "create_import": Role.EDITOR,
    "cancel_import": Role.EDITOR,
    # What cannot be undone, the audit log, and tokens.
    "erase_user": Role.ADMIN,
    "list_audit_log": Role.ADMIN,
    # What other nodes ask for: the whole replica, and the hashes of the tokens.
    "copy_replica": Role.ADMIN,
    "copy_users": Role.ADMIN,
    "copy_changes": Role.ADMIN,
    "copy_tokens": Role.ADMIN,
    # These are in the console, the last three on the command line too.
    "list_reports": Role.READER,
    "list_tokens": Role.ADMIN,
    "create_token": Role.ADMIN,
    "revoke_token": Role.ADMIN,
}
"""Roles by the name of the operation, which is the operationId of OpenAPI; None: no token is needed.

`erase_user` is `delete_user` with `erase=true`.
"""


def allows(principal: Principal, operation: str) -> bool:
    """Whether this operation is for everybody or within the principal's role."""
    needed = ROLES[operation]
    return needed is None or principal.role.covers(needed)


def check(principal: Principal, operation: str) -> None:
    """Raises Forbidden unless this operation is for everybody or within the principal's role."""
    needed = ROLES[operation]
    if needed is not None:
        principal.require(needed)
