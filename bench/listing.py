"""Rows about a list of many users: an import of it, and an export of everybody in a segment."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from statistics import median
from typing import Final, LiteralString

import msgspec
import psycopg
from psycopg import sql

from bench.bulk import copied
from bench.figures import Figure, Target
from bench.lab import Lab
from bench.nodes import Node
from bench.programs import BenchError, postgres_program
from segmentd.domain.exports import ExportOrder
from segmentd.domain.identifiers import Slug
from segmentd.domain.imports import Status
from segmentd.storage.database import Database
from segmentd.storage.exports import HOLD_TO_MERGES, copy_of, export_snapshot, find

# Which an import has to reach whatever COPY does.
LEAST_ROWS_A_SECOND: Final = 30_000
# In an order in which no row refers to a later one.
_LEFT_BEHIND: Final[dict[LiteralString, LiteralString]] = {
    "users": "id",
    "registrations": "user_id",
    "memberships": "user_id",
    "membership_events": "user_id",
}
_IMPORT_SECONDS: Final = 7200.0
_LOOK_EVERY_SECONDS: Final = 0.05
IMPORTED: Final = "imported"
_EXPORTED: Final = "exported"
_PIECE_BYTES: Final = 1 << 18


class Import(msgspec.Struct, frozen=True):
    """What the rows look at of an import."""

    id: str
    status: Status
    applied_users: int
    added: int

    @classmethod
    def of(cls, connection: HTTPConnection, import_id: str) -> "Import":
        """As it is now."""
        answer = sent(connection, "GET", f"/api/v1/imports/{import_id}")
        return msgspec.json.decode(answer.read(), type=cls)


def imports(lab: Lab) -> Iterator[Figure]:
    """Lists of unknown users into one segment, as many rows as the plan has users, against raw COPY."""
    rows = max(1, lab.plan.size // lab.plan.rounds)
    ours: list[float] = []
    theirs: list[float] = []
    url, copy = lab.migrated("bench_import"), lab.migrated("bench_copy")
    with lab.node_on(url, "node of imports") as node, connected(node) as connection:
        made(connection, {"slug": IMPORTED})
        for number in range(lab.plan.rounds):
            first = 1 + number * rows
            lab.say(f"import: {rows:,} rows, round {number + 1}")
            ours.append(rows / _imported(connection, first, rows))
            lab.say(f"import: COPY of what it left, round {number + 1}")
            with node.paused():
                theirs.append(rows / _copied_rows(url, copy, lab.folder, first, rows))
            node.wait_for_replica()
    least = LEAST_ROWS_A_SECOND / median(theirs)
    yield Figure(
        name="import",
        work=f"a list of {rows:,} new users into one segment, to its end",
        unit="rows/s",
        values=ours,
        reference="raw COPY of the rows that it leaves behind",
        reference_values=theirs,
        target=Target(least, max(least, 0.4)),
        note=f"must: {LEAST_ROWS_A_SECOND:,} rows/s",
    )


def exports(lab: Lab) -> Iterator[Figure]:
    """Everybody in a segment of half of all users, against COPY of the same SELECT."""
    psql, url = postgres_program("psql"), lab.database_url
    ours: list[float] = []
    theirs: list[float] = []
    lines = 0
    with connected(lab.node) as connection:
        made(connection, {"slug": _EXPORTED, "percent": 50})
        for number in range(lab.plan.rounds):
            lab.say(f"export: COPY, round {number + 1}")
            statement = asyncio.run(_export_statement(url))
            theirs.append(copied(psql, url, statement, _as_options(HOLD_TO_MERGES)))
            lab.say(f"export: segmentd, round {number + 1}")
            begun = time.perf_counter()
            answer = sent(connection, "GET", f"/api/v1/segments/{_EXPORTED}/export")
            lines = 0
            while piece := answer.read(_PIECE_BYTES):
                lines += piece.count(b"\n")
            ours.append(time.perf_counter() - begun)
        sent(connection, "DELETE", f"/api/v1/segments/{_EXPORTED}").read()
    if not 0.4 * lab.plan.size < lines < 0.6 * lab.plan.size:
        raise BenchError(f"the export has {lines} lines of half of {lab.plan.size} users")
    yield Figure(
        name="export",
        work=f"everybody in a segment of {lines:,}",
        unit="s",
        values=ours,
        rate=False,
        reference="COPY of the same SELECT by psql, in s",
        reference_values=theirs,
        target=Target(0.5, 0.8),
        note=f"{lines / min(ours):,.0f} rows/s",
    )


def connected(node: Node) -> "closing[HTTPConnection]":
    """A connection to a node."""
    return closing(HTTPConnection(*node.address, timeout=_IMPORT_SECONDS))


def made(connection: HTTPConnection, segment: Mapping[str, object]) -> None:
    """Makes a segment. Raises BenchError."""
    sent(connection, "POST", "/api/v1/segments", msgspec.json.encode(segment)).read()


def _imported(connection: HTTPConnection, first: int, rows: int) -> float:
    """Seconds from the first byte of a list until its import is done. Raises BenchError."""
    begun = time.perf_counter()
    state = import_begun(connection, first, rows)
    while not state.status.final:
        time.sleep(_LOOK_EVERY_SECONDS)
        state = Import.of(connection, state.id)
    if (state.status, state.added) != (Status.DONE, rows):
        raise BenchError(f"the import ended as {state.status} with {state.added} of {rows} added")
    return time.perf_counter() - begun


def import_begun(connection: HTTPConnection, first: int, rows: int) -> Import:
    """Sends a list of users; its import once all rows are there."""
    body = "".join(f"{number}\n" for number in range(first, first + rows)).encode()
    answer = sent(connection, "POST", f"/api/v1/imports?segment={IMPORTED}", body, "text/csv")
    return msgspec.json.decode(answer.read(), type=Import)


def _copied_rows(url: str, copy: str, folder: Path, first: int, rows: int) -> float:
    """Seconds for COPY of the rows of some users into another database with the same indexes."""
    seconds = 0.0
    file = folder / "rows.copy"
    with psycopg.connect(url) as source, psycopg.connect(copy) as target:
        target.execute("SELECT ensure_event_partition(now())")
        target.commit()
        for table, column in _LEFT_BEHIND.items():
            names = {"table": sql.Identifier(table), "column": sql.Identifier(column)}
            users = {"first": sql.Literal(first), "last": sql.Literal(first + rows - 1)}
            statement = sql.SQL(
                "COPY (SELECT * FROM {table} WHERE {column} BETWEEN {first} AND {last})"
                " TO STDOUT (FORMAT binary)"
            ).format(**names, **users)
            with file.open("wb") as out, source.cursor() as cursor, cursor.copy(statement) as read:
                for piece in read:
                    out.write(piece)
            statement = sql.SQL("COPY {table} FROM STDIN (FORMAT binary)").format(**names)
            begun = time.perf_counter()
            with file.open("rb") as into, target.cursor() as cursor, cursor.copy(statement) as written:
                while piece := into.read(_PIECE_BYTES):
                    written.write(piece)
            target.commit()
            seconds += time.perf_counter() - begun
    file.unlink()
    return seconds


async def _export_statement(url: str) -> str:
    """The COPY that the service sends for an export of now."""
    async with Database(url, pool_size=1) as database, export_snapshot(database, 60) as connection:
        segment = await find(connection, Slug(_EXPORTED), None)
        return copy_of(segment, ExportOrder(Slug(_EXPORTED))).as_string(connection)


def _as_options(settings: str) -> str:
    """`SET LOCAL a = b;` lines as options of a connection."""
    pairs = (line.strip().removeprefix("SET LOCAL ").removesuffix(";") for line in settings.split("\n"))
    return " ".join(f"-c {pair.replace(' ', '')}" for pair in pairs if pair)


def sent(
    connection: HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    kind: str = "application/json",
) -> HTTPResponse:
    """The answer to a request, which has to be a success. Raises BenchError."""
    connection.request(method, path, body, {} if body is None else {"Content-Type": kind})
    answer = connection.getresponse()
    if answer.status >= 300:  # noqa: PLR2004 - not a success
        raise BenchError(f"{method} {path} was answered with {answer.status}: {answer.read().decode()}")
    return answer
