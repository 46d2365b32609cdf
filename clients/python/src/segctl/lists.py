"""`segmentd import` and `segmentd export`."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.prompt import Confirm

from segctl.connection import USUAL, Where
from segctl.failures import DIFFERENCES, CommandFailed, WrongUse
from segctl.files import write
from segctl.output import say, show
from segctl.values import moment, seconds
from segmentd_client import Client
from segmentd_client.calls.jobs import FileFormat, ImportOperation
from segmentd_client.jobs import Import
from segmentd_client.synchronous.rows import CHUNK, Rows

_EVERY_S: Final = 0.5
_SHOWN: Final = 10


def import_list(  # noqa: PLR0913 - each is a flag of the contract
    file: str,
    /,
    *,
    segment: Annotated[str | None, Parameter(help="Of rows that name none.")] = None,
    operation: Annotated[ImportOperation, Parameter(help="add, remove or replace.")] = "add",
    until: Annotated[str | None, Parameter(help="Of rows that name no term.")] = None,
    ttl: Annotated[str | None, Parameter(help="The same as a duration: 2d, 12h.")] = None,
    reason: Annotated[str | None, Parameter(help="For the history.")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Change nothing; 3 if it would.")] = False,
    skip_invalid: Annotated[bool, Parameter(negative="", help="Apply the good rows.")] = False,
    idempotency_key: Annotated[str | None, Parameter(help="The same key again is the same import.")] = None,
    format: Annotated[FileFormat | None, Parameter(help="By the name of the file unless given.")] = None,  # noqa: A002
    where: Where = USUAL,
) -> None:
    """Change many users by a file, or by standard input (-). Ctrl-C asks whether to cancel."""
    term, ttl_seconds = moment("--until", until), seconds("--ttl", ttl)
    names = [suffix.lower() for suffix in Path(file).suffixes]
    kind: FileFormat = "ndjson" if {".ndjson", ".jsonl"} & {*names} else "csv"
    with where.opened() as client, _progress() as progress:
        sending = progress.add_task("sending", total=_size(file))
        begun = None
        try:
            begun = client.imports.create(
                _rows(file),
                format=format or kind,
                segment=segment,
                operation=operation,
                until=term,
                ttl_seconds=ttl_seconds,
                reason=reason,
                dry_run=dry_run,
                skip_invalid=skip_invalid,
                idempotency_key=idempotency_key,
                is_gzipped=names[-1:] == [".gz"],
                sent=lambda count: progress.advance(sending, count),
            )
            say(f"the import {begun.id} has begun")
            found = _ended(client, begun, progress)
        except KeyboardInterrupt:
            progress.stop()
            found = _interrupted(client, begun, progress.console)
    _tell(found)
    show(found, where.output)
    if found.status != "done":
        raise CommandFailed(f"the import is {found.status}: {found.detail or 'stopped'}")
    if dry_run and found.added + found.removed + found.updated:
        raise CommandFailed("", DIFFERENCES)


def export(
    slug: str,
    /,
    *,
    at: Annotated[str | None, Parameter(help="As of this time.")] = None,
    header: Annotated[bool, Parameter(negative="", help="csv: with the names of the columns.")] = False,
    to: Annotated[Path | None, Parameter(alias="-o", help="A file instead of standard output.")] = None,
    where: Where = USUAL,
) -> None:
    """Write everybody in a segment: user_id;source;since;until."""
    if where.output == "table" or (header and where.output in {"json", "ndjson"}):
        raise WrongUse("an export is csv, with --header or without, or ndjson")
    form: FileFormat = "ndjson" if where.output in {"json", "ndjson"} else "csv"
    with where.opened() as client:
        write(client.segments.export_file(slug, format=form, at=moment("--at", at), header=header), to)


def _interrupted(client: Client, begun: Import | None, console: Console) -> Import:
    if begun is None:
        raise CommandFailed("stopped: an import that was sent whole goes on, any other fails")
    if not _wants_to_cancel(console):
        raise CommandFailed(f"the import {begun.id} goes on")
    client.imports.cancel(begun.id)
    return client.imports.wait(begun.id)


def _wants_to_cancel(console: Console) -> bool:
    try:
        return sys.stdin.isatty() and Confirm.ask("Cancel the import?", console=console)
    except (EOFError, KeyboardInterrupt):  # Ctrl-D or Ctrl-C in place of an answer
        return False


def _ended(client: Client, begun: Import, progress: Progress) -> Import:
    task = progress.add_task("applying", total=None)
    found = begun
    while not found.is_final:
        progress.update(task, total=found.users, completed=found.applied_users)
        found = client.imports.get(found.id)
        if not found.is_final:
            time.sleep(_EVERY_S)
    return found


def _tell(found: Import) -> None:
    for bad in found.errors[:_SHOWN]:
        say(f"line {bad.line}: {bad.detail}")
    if found.invalid_rows > _SHOWN:
        say(f"{found.invalid_rows} bad rows in all")


def _rows(file: str) -> Rows:
    if file == "-":
        return _pieces(sys.stdin.buffer)
    if not Path(file).is_file():
        raise WrongUse(f"there is no file {file}")
    return Path(file)


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(CHUNK):
        yield piece


def _size(file: str) -> int | None:
    return Path(file).stat().st_size if file != "-" and Path(file).is_file() else None


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
