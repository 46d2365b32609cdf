"""What a node holds: memory, descriptors, connections, its replica, and the rows and bytes of its tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, LiteralString, NamedTuple

import psycopg

from bench.memory import private_mebibytes
from proof.node import GRPC, HTTP, NODE, Node

# Partitions count as their table. The numbers of rows are PostgreSQL's estimates.
_TABLES: Final[LiteralString] = """
    SELECT coalesce(p.relname, t.relname), sum(t.n_live_tup)::bigint, sum(t.n_dead_tup)::bigint,
           sum(pg_total_relation_size(t.relid))::bigint
    FROM pg_stat_user_tables t
    LEFT JOIN pg_inherits i ON i.inhrelid = t.relid
    LEFT JOIN pg_class p ON p.oid = i.inhparent
    WHERE coalesce(p.relname, t.relname) IN ('users', 'registrations', 'memberships', 'membership_events')
    GROUP BY 1
"""
_CONNECTIONS: Final[LiteralString] = (
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


class Table(NamedTuple):
    """A table with its indexes: rows that can be read, rows that wait for VACUUM, and bytes."""

    rows: int
    dead: int
    size: int


class Vitals(NamedTuple):
    """One look at a node; sizes are in bytes where nothing else is said."""

    memory: Mapping[str, float]
    """Private memory of each process, in MiB."""
    descriptors: Mapping[str, int]
    connections: int
    replica: int
    tables: Mapping[str, Table]


async def vitals(node: Node) -> Vitals:
    """Looks at a node that runs.

    Raises OSError or Missing if one of its processes ends meanwhile, psycopg.Error.
    """
    processes = {
        f"{kind} {number}": pid
        for kind in ("supervisor", NODE, GRPC, HTTP)
        for number, pid in enumerate(node.of(kind), start=1)
    }
    async with await psycopg.AsyncConnection.connect(node.url, autocommit=True) as connection:
        [[connections]] = await (await connection.execute(_CONNECTIONS)).fetchall()
        rows = await (await connection.execute(_TABLES)).fetchall()
    replica = sum(file.stat().st_blocks * 512 for file in node.folder.rglob("*.lmdb"))
    return Vitals(
        {name: private_mebibytes(pid) for name, pid in processes.items()},
        {name: _descriptors(pid) for name, pid in processes.items()},
        connections,
        replica,
        {name: Table(*figures) for name, *figures in rows},
    )


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
