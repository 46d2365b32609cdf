"""What the audit log holds: changes of segments and tokens, and erasures."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NewType

import msgspec

from segmentd.domain.pages import RowKey

AuditId = NewType("AuditId", int)

AUDIT_KEYS: Final[msgspec.msgpack.Decoder[AuditId]] = msgspec.msgpack.Decoder(RowKey)


class AuditEntry(msgspec.Struct, frozen=True):
    """One operation: who, when, what, and from what to what.

    `subject` is the segment's slug or the token's name; an erasure has none, for nothing personal may stay.
    """

    id: AuditId
    at: datetime
    actor: str
    on_behalf_of: str | None
    operation: str
    subject: str | None
    before: Mapping[str, str | float | None] | None
    after: Mapping[str, str | float | None] | None
