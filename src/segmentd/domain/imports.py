"""Imports: changes of many users, given as a file and made in the background."""

import enum
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Final, NamedTuple, NewType
from uuid import UUID

import msgspec

from segmentd.domain.described import Described
from segmentd.domain.errors import Fault, ImportNotFound, ImportStoreFull, Invalid, TooManyImports
from segmentd.domain.identifiers import Slug, UserId, read_uuid
from segmentd.domain.instants import LAST_INSTANT
from segmentd.domain.memberships import TtlSeconds
from segmentd.domain.pages import RowKey
from segmentd.domain.texts import Reason

ImportId = NewType("ImportId", UUID)
"""Random, so that nobody guesses it."""

ImportNumber = NewType("ImportNumber", int)
"""In the order in which the imports began; it names their tables, and callers never see it."""

IMPORT_KEYS: Final[msgspec.msgpack.Decoder[ImportNumber]] = msgspec.msgpack.Decoder(RowKey)

IdempotencyKey = NewType("IdempotencyKey", str)
"""Names an import, so that a caller can send it again: 1 to 255 printable characters."""

MOST_ROWS: Final = 2**31 - 1
"""Of one import."""

MOST_BAD_ROWS: Final = 1_000_000
"""An import with more of them fails: it is the wrong file, and each is stored until the import is removed."""

MOST_SHOWN: Final = 100
"""Bad rows and differences that an import shows itself."""

LONGEST_TEXT: Final = 200
"""Characters of a bad row that are shown."""

LongestKey = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Status(Described):
    """How far an import is."""

    RECEIVING = "receiving", "The rows are being received."
    CHECKING = "checking", "All rows are here; they wait to be checked, or are being checked."
    APPLYING = "applying", "The users are being changed, one batch after the other."
    DONE = "done", "All users were changed, or a dry run has ended."
    FAILED = "failed", "The import ended before that; `detail` says why."
    CANCELED = "canceled", "A caller stopped the import."

    @property
    def final(self) -> bool:
        """Whether it never changes again."""
        return self in (Status.DONE, Status.FAILED, Status.CANCELED)


class ImportOperation(Described):
    """What an import does with the users that its rows name."""

    ADD = "add", "Adds them to the segment."
    REMOVE = "remove", "Removes them from the segment."
    REPLACE = "replace", "Adds them to the segment, and removes all other explicit members."


class FileFormat(enum.StrEnum):
    """How the rows are written."""

    CSV = "csv"
    NDJSON = "ndjson"


class Outcome(Described):
    """What an import does to one user and one segment."""

    ADDED = "added", "The user gets in."
    REMOVED = "removed", "The user gets out."
    UPDATED = "updated", "Only the stored decision changes."


class ImportOrder(msgspec.Struct, frozen=True):
    """What a caller wants of the rows; `segment`, `operation` and the term hold for rows that name none."""

    operation: ImportOperation = ImportOperation.ADD
    segment: Slug | None = None
    until: datetime | None = None
    ttl_seconds: TtlSeconds | None = None
    reason: Reason | None = None
    dry_run: bool = False
    skip_invalid: bool = False
    format: FileFormat = FileFormat.CSV

    def check(self, now: datetime) -> None:
        """Raises Invalid for an order that contradicts itself, or whose term is not ahead."""
        if faults := [*self._faults(now)]:
            raise Invalid(*faults)

    def _faults(self, now: datetime) -> Iterator[Fault]:
        if self.operation is ImportOperation.REPLACE and self.segment is None:
            yield Fault("/segment", "replace needs the segment whose members are replaced")
        if self.until is not None and self.ttl_seconds is not None:
            yield Fault("/until", "until and ttl_seconds exclude each other")
        if self.operation is ImportOperation.REMOVE and (self.until or self.ttl_seconds):
            yield Fault("/operation", "a removal has no term")
        if self.until is not None and self.until <= now:
            yield Fault("/until", "the term must end in the future")
        if self.ttl_seconds is not None and timedelta(seconds=self.ttl_seconds) > LAST_INSTANT - now:
            yield Fault("/ttl_seconds", "the term must end before the year 10000")


class BadRow(msgspec.Struct, frozen=True):
    """A row that cannot be applied: its line, from 1 on, what is wrong, and the beginning of its text."""

    line: int
    detail: str
    text: str


class Difference(msgspec.Struct, frozen=True):
    """What an import would do to one user and one segment."""

    user_id: UserId
    segment: Slug
    outcome: Outcome


class Import(msgspec.Struct, frozen=True):
    """An import. `errors` and `sample` have the first of their kind; `detail` says why it failed."""

    number: ImportNumber
    id: ImportId
    status: Status
    operation: ImportOperation
    segment: Slug | None
    dry_run: bool
    rows: int
    invalid_rows: int
    users: int | None
    """None until the rows are checked."""
    applied_users: int
    added: int
    removed: int
    updated: int
    unchanged: int
    errors: Sequence[BadRow]
    sample: Sequence[Difference]
    reason: Reason | None
    detail: str | None
    sha256: str | None
    """Of the rows as they were before any compression; None until all are received."""
    created_at: datetime
    finished_at: datetime | None


class ImportLoad(msgspec.Struct, frozen=True):
    """The imports that are not final, of one caller and of all, and the bytes that all imports store."""

    of_caller: int
    of_all: int
    stored_bytes: int


class ImportLimits(NamedTuple):
    """How many imports may be under way, and how many bytes they may store; 0 bytes are no limit."""

    of_caller: int = 10
    store_bytes: int = 20 * 2**30
    most_rows: int = MOST_ROWS
    most_bad_rows: int = MOST_BAD_ROWS

    @property
    def of_all(self) -> int:
        """Of all callers together."""
        return 10 * self.of_caller

    def check(self, load: ImportLoad, announced_bytes: int) -> None:
        """Checks whether one more may begin. Raises TooManyImports, ImportStoreFull."""
        if load.of_caller >= self.of_caller:
            raise TooManyImports(
                f"{load.of_caller} of your imports are not done yet, as many as a caller may have; wait for"
                " one of them (GET /api/v1/imports), or cancel one."
            )
        if load.of_all >= self.of_all:
            raise TooManyImports(
                f"{load.of_all} imports are not done yet, as many as this service takes; try again later."
            )
        if self.store_bytes and load.stored_bytes + announced_bytes > self.store_bytes:
            raise ImportStoreFull(store_full(self.store_bytes))


def store_full(most_bytes: int) -> str:
    """The message when there is no room for the rows of another import, or for more of one."""
    return (
        f"The rows of imports take all of the {most_bytes} bytes that they may take; try again when others"
        " are done, or have the setting import_store_bytes raised."
    )


def read_import_id(text: str) -> ImportId:
    """The id in a text. Raises ImportNotFound if it is no id."""
    try:
        return ImportId(read_uuid(text))
    except ValueError:
        raise ImportNotFound from None


def read_idempotency_key(text: str) -> IdempotencyKey:
    """The key in a text. Raises ValueError."""
    try:
        key = msgspec.convert(text, LongestKey)
    except msgspec.ValidationError:
        key = ""
    if not key or not key.isprintable():
        raise ValueError("must be 1 to 255 printable characters")
    return IdempotencyKey(key)
