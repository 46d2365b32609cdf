"""Startup check: how many connections to the database a node needs, and whether the server allows them."""

from typing import Final, NamedTuple

import structlog

from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed
from segmentd.serve.supervisor import worker_count
from segmentd.storage import job_queue
from segmentd.storage.server import allowed_connections, connected

# Of each HTTP process, beside its pool and its exports: the one that polls for changes of the tokens.
GATE: Final = 1
# Of the node worker, beside its pool and the jobs: the one that listens for change notifications.
LISTENER: Final = 1
# Of each process with a door, while somebody follows the feed: the same.
FEED: Final = 1
# Of the embedded server, beside what its node needs: for commands, psql, a backup.
SPARE: Final = 20

_ADVICE: Final = "raise max_connections or the limit of the role, or lower the settings workers and pool_size"

_log = structlog.get_logger(__name__)


class Needs(NamedTuple):
    """The number of connections at the start, and with every pool at its full size."""

    least: int
    most: int


def needs_of_node(settings: Settings) -> Needs:
    """Of `segmentd serve`."""
    workers, worker = worker_count(settings), needs_of_worker(settings)
    grpc = int(settings.grpc_port != 0)  # which streams no exports
    return Needs(
        (workers + grpc) * (1 + GATE) + worker.least + LISTENER,
        workers * (settings.pool_size + settings.exports_at_once + GATE + FEED)
        + grpc * (settings.pool_size + GATE + FEED)
        + worker.most
        + LISTENER,
    )


def needs_of_worker(settings: Settings) -> Needs:
    """Of `segmentd worker`."""
    return Needs(1 + job_queue.LEAST_CONNECTIONS, settings.pool_size + job_queue.MOST_CONNECTIONS)


class Connections(NamedTuple):
    """What a node needs, and how many the server lets all clients of its role have together."""

    needs: Needs
    allowed: int

    @property
    def suffice(self) -> bool:
        """Whether all pools can grow to their full size, if there are no other clients."""
        return self.allowed >= self.needs.most

    def __str__(self) -> str:
        line = f"this node needs {self.needs.most} under load, and the server allows {self.allowed}"
        return line if self.suffice else f"{line}, which is too few: {_ADVICE}"


async def check_connections(database_url: str, needs: Needs) -> Connections:
    """What is needed and what the server allows. Raises StartupFailed if that is not enough to start."""
    async with connected(database_url) as connection:
        allowed = await allowed_connections(connection)
    if allowed < needs.least:
        raise StartupFailed(
            f"the server allows {allowed} connections, and this node opens {needs.least} at its start"
            f" and up to {needs.most} under load: {_ADVICE}"
        )
    return Connections(needs, allowed)


async def warn_of_few_connections(database_url: str, needs: Needs) -> None:
    """Logs a warning if the pools cannot grow to their full size. Raises StartupFailed."""
    connections = await check_connections(database_url, needs)
    if not connections.suffice:
        _log.warning("few connections", detail=str(connections))
