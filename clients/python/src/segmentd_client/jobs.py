"""What the service works on in the background, imports and reports, and the changes of its feed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec

from segmentd_client.models import Operation

FINAL: Final = frozenset({"done", "failed", "canceled"})
"""The statuses that never change again."""


class BadRow(msgspec.Struct, frozen=True):
    """A row of an import that cannot be applied: its line from 1 on, what is wrong, how it begins."""

    line: int
    detail: str
    text: str


class Difference(msgspec.Struct, frozen=True):
    """What a dry run found for one user and one segment: added, removed or updated."""

    user_id: int
    segment: str
    outcome: str


class Import(msgspec.Struct, frozen=True):
    """An import. `errors` and `sample` have the first 100 of their kind; `detail` says why it failed.

    `status` is receiving, checking, applying, done, failed or canceled. The four counts are of users and
    segments. `users` is None until the rows are checked; `sha256` is that of the rows, uncompressed.
    """

    id: str
    status: str
    operation: str
    segment: str | None
    dry_run: bool
    rows: int
    invalid_rows: int
    users: int | None
    applied_users: int
    added: int
    removed: int
    updated: int
    unchanged: int
    errors: Sequence[BadRow]
    sample: Sequence[Difference]
    reason: str | None
    sha256: str | None
    created_at: datetime
    finished_at: datetime | None
    detail: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether it never changes again."""
        return self.status in FINAL


class ImportPage(msgspec.Struct, frozen=True):
    """Imports, the newest first."""

    imports: Sequence[Import]
    next_cursor: str | None


class Report(msgspec.Struct, frozen=True):
    """A report: `status` is pending, running, done or failed; `url` is the link to its file."""

    id: str
    status: str
    url: str
    rows: int | None
    sha256: str | None
    as_of: datetime | None
    created_at: datetime
    expires_at: datetime
    reason: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether it is done or has failed."""
        return self.status in FINAL


class MembershipChange(msgspec.Struct, frozen=True, tag_field="kind", tag="membership"):
    """A user was added to a segment, perhaps with another term than before, or removed."""

    position: str
    user_id: int
    segment: str
    operation: Operation
    at: datetime
    cause: str
    actor: str
    on_behalf_of: str | None
    reason: str | None
    until: datetime | None


class SegmentChange(msgspec.Struct, frozen=True, tag_field="kind", tag="segment"):
    """A segment was created, renamed or deleted, or its percentage changed."""

    position: str
    segment: str
    operation: Literal["created", "renamed", "percent", "deleted"]
    at: datetime
    actor: str
    percent_before: float | None
    percent_after: float | None
    slug_before: str | None


Change = MembershipChange | SegmentChange
"""One entry of the feed."""


class ChangesPage(msgspec.Struct, frozen=True):
    """Some changes; `next` is the position after them."""

    changes: Sequence[Change]
    next: str
