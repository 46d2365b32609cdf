"""The audit log: changes of segments and tokens, imports, and erasures."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NewType

import msgspec

from segmentd.domain.described import Described
from segmentd.domain.pages import RowKey

AuditId = NewType("AuditId", int)

AUDIT_KEYS: Final[msgspec.msgpack.Decoder[AuditId]] = msgspec.msgpack.Decoder(RowKey)


class AuditOperation(Described):
    """What was done."""

    SEGMENT_CREATED = "segment-created", "A segment was created."
    SEGMENT_CHANGED = "segment-changed", "A segment was renamed or described, or its percentage changed."
    SEGMENT_DELETED = "segment-deleted", "A segment was deleted."
    TOKEN_CREATED = "token-created", "A token was made."
    TOKEN_REVOKED = "token-revoked", "A token was revoked."
    USER_ERASED = "user-erased", "A user and the user's history were erased."
    IMPORT_STARTED = "import-started", "An import, whose rows are good, began to change users."
    IMPORT_ENDED = "import-ended", "An import that had begun to change users ended, or was canceled."
    HISTORY_SHORTENED = "history-shortened", "The beginning of the history moved; what was before is removed."
    SIGNING_KEY_REPLACED = "signing-key-replaced", "The key that signs the links of reports was replaced."


class AuditEntry(msgspec.Struct, frozen=True):
    """One operation: who, when, what, and the values before and after.

    `subject` is the segment's slug or the token's name; an erasure has none, because no personal data may
    stay, and an import only if its query names a segment.
    """

    id: AuditId
    at: datetime
    actor: str
    on_behalf_of: str | None
    operation: AuditOperation
    subject: str | None
    before: Mapping[str, str | int | float | None] | None
    after: Mapping[str, str | int | float | None] | None
