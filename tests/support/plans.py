"""Plans: how PostgreSQL runs the service's own statements, according to EXPLAIN."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, LiteralString, NamedTuple, TypeVar

import psycopg
from psycopg import sql

from segmentd.storage.database import Database, Parameters

Row = TypeVar("Row")
Node = Mapping[str, Any]

# A connection prepares a frequent statement; the server may then plan it once for all parameters.
PLAN_MODES: Final[Sequence[LiteralString]] = ("force_custom_plan", "force_generic_plan")


_EVERYTHING: Final = (
    ("auto_explain.log_analyze", "on"),
    ("auto_explain.log_buffers", "on"),
    ("auto_explain.log_format", "json"),
    ("auto_explain.log_min_duration", "0"),
    ("auto_explain.log_nested_statements", "on"),
    ("client_min_messages", "log"),
)


_TABLES: Final = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"


class Statement(NamedTuple):
    """A statement as the service sends it."""

    query: LiteralString
    parameters: Parameters


class Recorder(Database):
    """The service's access to a database, which records its statements."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sent: list[Statement] = []

    async def all(self, row: type[Row], query: LiteralString, parameters: Parameters = None) -> list[Row]:
        """As the original."""
        self.sent.append(Statement(query, parameters))
        return await super().all(row, query, parameters)


class Plan(NamedTuple):
    """A plan that was executed."""

    root: Node

    def nodes(self) -> Iterator[Node]:
        """All executed nodes, from the top."""
        yield from _walk(self.root)

    def scans(self, table: str) -> list[Node]:
        """The nodes that read a table or a partition; for a bitmap, the ones that read its indexes."""
        bitmaps = [node for node in self.nodes() if _reads(node, table) and "Bitmap" in node["Node Type"]]
        found = [node for node in self.nodes() if _reads(node, table) and node not in bitmaps]
        for bitmap in bitmaps:
            found += [node for node in _walk(bitmap) if node["Node Type"] == "Bitmap Index Scan"]
        return found

    def indexes(self, table: str) -> set[str]:
        """The indexes by which a table is read; "none" for one that is read from end to end."""
        return {node.get("Index Name", "none") for node in self.scans(table)}

    def months(self) -> list[str]:
        """The months of the history that were read."""
        scans = self.scans("membership_events")
        return sorted(
            {re.findall(r"\d{4}_\d\d", node.get("Relation Name") or node["Index Name"])[0] for node in scans}
        )

    def read(self, table: str) -> float:
        """How many rows of a table, or entries of its indexes, were read."""
        return sum(_rows(node) for node in self.scans(table))

    @property
    def buffers(self) -> int:
        """The pages that were touched, in memory or not."""
        return int(self.root["Shared Hit Blocks"]) + int(self.root["Shared Read Blocks"])

    @property
    def rows(self) -> float:
        """The rows that all nodes gave, and those that they left out."""
        return sum(_rows(node) for node in self.nodes())


def _rows(node: Node) -> float:
    seen = (
        node["Actual Rows"]
        + node.get("Rows Removed by Filter", 0)
        + node.get("Rows Removed by Index Recheck", 0)
    )
    return float(seen * node["Actual Loops"])


def _walk(node: Node) -> Iterator[Node]:
    if node["Actual Loops"]:
        yield node
        for child in node.get("Plans", ()):
            yield from _walk(child)


def _reads(node: Node, table: str) -> bool:
    return re.fullmatch(rf"{table}(_\d{{4}}_\d\d)?", node.get("Relation Name", "")) is not None


def settle(connection: psycopg.Connection) -> None:
    """Brings all tables into the state in which plans are compared, and switches autovacuum off for them.

    The statistics are current, and every page is marked as visible to all, so that an index-only scan reads
    nothing but its index.
    """
    # VACUUM does not mark a page while the commit of one of its rows is not in the log. An asynchronous
    # commit gets there up to half a second later; a synchronous one flushes all earlier ones too.
    connection.execute("SET synchronous_commit = on")
    for (table,) in connection.execute(_TABLES).fetchall():
        alter = sql.SQL("ALTER TABLE {} SET (autovacuum_enabled = off)")
        connection.execute(alter.format(sql.Identifier(table)))
    while True:
        connection.execute("VACUUM (FREEZE, ANALYZE)")
        # Another process's snapshot can also prevent it while it lasts.
        if not connection.execute(f"{_TABLES} AND relallvisible < relpages").fetchall():
            return


def explained(connection: psycopg.Connection, statement: Statement, mode: LiteralString) -> Plan:
    """How the statement runs as a prepared one, once planned for its parameters and once for any."""
    connection.execute("SELECT set_config('plan_cache_mode', %s, false)", [mode])
    connection.execute("DEALLOCATE ALL")
    connection.execute(statement.query, statement.parameters, prepare=True)
    [(name,)] = connection.execute("SELECT name FROM pg_prepared_statements").fetchall()
    call = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {}").format(sql.Identifier(name))
    if values := _in_order(statement):
        call += sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, values)))
    # The cheaper of two runs: one may have to read catalogs again, because another process changed a table.
    return min((_carried_out(connection, call) for _ in range(2)), key=lambda plan: plan.buffers)


def _carried_out(connection: psycopg.Connection, explain: sql.Composed) -> Plan:
    [(document,)] = connection.execute(explain).fetchall()
    return Plan(document[0]["Plan"])


def _in_order(statement: Statement) -> list[object]:
    parameters = statement.parameters or ()
    if isinstance(parameters, Mapping):
        names = dict.fromkeys(re.findall(r"%\((\w+)\)s", statement.query))
        return [parameters[name] for name in names]
    return [*parameters]


@contextmanager
def nested_plans(url: str, mode: LiteralString) -> Iterator[tuple[psycopg.Connection, list[Plan]]]:
    """A connection, and the plans of all that it runs, inside of functions too; all is undone at the end.

    It needs PostgreSQL's module auto_explain.
    """
    plans: list[Plan] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        _, found, document = (diagnostic.message_primary or "").partition("plan:\n")
        if found:
            plans.append(Plan(json.loads(document)["Plan"]))

    with psycopg.connect(url) as connection:
        connection.add_notice_handler(note)
        connection.execute("LOAD 'auto_explain'")
        for name, value in (*_EVERYTHING, ("plan_cache_mode", mode)):
            connection.execute("SELECT set_config(%s, %s, true)", [name, value])
        plans.clear()
        yield connection, plans
        connection.rollback()
