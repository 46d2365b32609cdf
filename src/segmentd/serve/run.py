"""What the commands do: serve, worker, migrate, check."""

import asyncio
import fcntl
import getpass
import itertools
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

import structlog
from msgspec.structs import replace

from segmentd.auth import administration
from segmentd.auth.known_tokens import KnownTokens
from segmentd.config import Configuration, Settings
from segmentd.domain.access import Actor, CallerName, Role, Token
from segmentd.domain.errors import Invalid, StartupFailed
from segmentd.observability.traces import exporters_asked_for
from segmentd.replica.status import ReplicaStatus, status_path
from segmentd.serve.child import Assignment
from segmentd.serve.connections import (
    SPARE,
    check_connections,
    needs_of_node,
    needs_of_worker,
    warn_of_few_connections,
)
from segmentd.serve.distributor import Distributor
from segmentd.serve.first_door import FirstDoor
from segmentd.serve.first_token import is_loopback, open_database, prepare_access
from segmentd.serve.fork_server import FOLLOWING_WORKER, GRPC_WORKER, HTTP_WORKER, NODE_WORKER, ForkServer
from segmentd.serve.grpc_tls import key_and_chain
from segmentd.serve.healthcheck import note_serving
from segmentd.serve.neighbour_settings import check_neighbour
from segmentd.serve.ports import address, bind_grpc
from segmentd.serve.supervisor import Kept, supervise, worker_count
from segmentd.storage import embedded
from segmentd.storage.database import Database
from segmentd.storage.migrate import migrate, pending_migrations
from segmentd.storage.server import connected

# The folder of metric files within the node's folder.
METRICS: Final = "metrics"

Result = TypeVar("Result")

_log = structlog.get_logger(__name__)


def serve(settings: Settings, door: FirstDoor) -> None:
    """Serves until SIGTERM or SIGINT, once it can in place of this door. Raises StartupFailed.

    If the embedded PostgreSQL dies, everything starts again behind the same socket; requests wait there.
    """
    exporters_asked_for()  # a startup check: what the workers would miss is one error line here
    check_neighbour(settings)
    with (
        kept_port(settings) as grpc_address,
        node_folder(Path(settings.data_dir)) as folder,
        closing(Distributor(door.listener, folder, worker_count(settings))) as distributor,
    ):
        clear_metrics(folder)
        ready_line: str | None = f"segmentd is ready on {address(door.listener)}"
        while not _serve_once(settings, door, distributor, folder, ready_line, grpc_address):
            _log.error("the embedded PostgreSQL or the fork server died, starting again")
            ready_line = None


def work(settings: Settings) -> None:
    """Runs only the background jobs until SIGTERM or SIGINT. Raises StartupFailed."""
    exporters_asked_for()
    with any_database(settings) as (database_url, lives):
        asyncio.run(warn_of_few_connections(database_url, needs_of_worker(settings)))
        asyncio.run(migrate(database_url))
        kept = [Kept(NODE_WORKER, Assignment(settings, database_url), server=ForkServer.of("worker"))]
        if not _supervise(kept, "segmentd worker is ready", lives, unready_seconds=0):
            raise StartupFailed("the embedded PostgreSQL or the fork server died")


def _serve_once(
    settings: Settings,
    door: FirstDoor,
    distributor: Distributor,
    folder: Path,
    ready_line: str | None,
    grpc_address: str | None,
) -> bool:
    listener = door.listener
    may_be_open = is_loopback(listener) or settings.insecure_open
    forks = ForkServer.of("serve")
    with own_database(settings) as (database_url, lives):
        if settings.follow is None:
            asyncio.run(warn_of_few_connections(database_url, needs_of_node(settings)))
            asyncio.run(migrate(database_url))
            asyncio.run(prepare_access(database_url, settings, may_be_open=may_be_open))
        forget_earlier_runs(folder)
        _note_serving(folder, listener)
        metrics_dir = str(folder / METRICS) if settings.metrics else None
        http = Assignment(
            settings,
            database_url,
            str(folder),
            may_be_open=may_be_open,
            rate_key=secrets.token_bytes(32),
            metrics_dir=metrics_dir,
            grpc_address=grpc_address,
            http_url=address(listener),
        )
        doors = [] if grpc_address is None else [Kept(GRPC_WORKER, http, server=forks)]
        kept = [
            Kept(HTTP_WORKER, replace(http, number=number, connections=queue.taking.fileno()), queue, forks)
            for number, queue in enumerate(distributor.queues)
        ]
        alone = Assignment(settings, database_url, str(folder), metrics_dir=metrics_dir)
        node = Kept(NODE_WORKER if settings.follow is None else FOLLOWING_WORKER, alone, server=forks)
        door.leave()
        return _supervise([*doors, *kept, node], ready_line, lives, settings.unready_seconds, distributor)


@contextmanager
def kept_port(settings: Settings) -> Iterator[str | None]:
    """Keeps the port of gRPC while the context lives; its address, None without. Raises StartupFailed."""
    bound = bind_grpc(settings)
    if bound is None:
        yield None
        return
    key_and_chain(settings)  # a startup check
    with closing(bound):
        yield address(bound).removeprefix("http://")


def migrate_once(settings: Settings) -> int:
    """Brings the schema up to date and returns the number of migrations applied. Raises StartupFailed."""
    with any_database(settings) as (database_url, _):
        return asyncio.run(migrate(database_url))


def create_token(
    settings: Settings, name: CallerName, role: Role, expires: datetime | timedelta | None
) -> str:
    """Makes a token and returns its secret, which is shown only now. Raises StartupFailed, TokenExists."""
    try:
        return _administer(
            settings,
            lambda database: administration.create_token(database, name, role, expires, _command_actor()),
        )
    except Invalid as error:
        raise StartupFailed(error.faults[0].detail) from None


def list_tokens(settings: Settings) -> tuple[datetime, Sequence[Token]]:
    """The time, and all tokens. Raises StartupFailed."""
    return _administer(settings, administration.list_tokens)


def revoke_token(settings: Settings, name: str) -> None:
    """Ends a token. Raises StartupFailed, TokenNotFound."""
    _administer(settings, lambda database: administration.revoke_token(database, name, _command_actor()))


def rotate_signing_key(settings: Settings, keep: timedelta) -> None:
    """Makes a new key for the links of reports. Raises StartupFailed."""
    _administer(
        settings, lambda database: administration.rotate_signing_key(database, keep, _command_actor())
    )


def check(configuration: Configuration) -> Iterator[str]:
    """Lines about the configuration, the database and the schema. Raises StartupFailed if one is wrong."""
    yield "configuration:"
    for name, value, source in configuration.shown():
        yield f"  {name} = {value}  ({source})"
    exporters = ", ".join(exporter.name for exporter in exporters_asked_for())
    yield f"traces: {exporters or 'off'}"
    from segmentd.replica.kernel import BEST  # noqa: PLC0415 - no other command of this process needs NumPy

    yield f"kernel: {BEST.name}"
    settings = configuration.settings
    check_neighbour(settings)
    if settings.follow is not None:
        from segmentd.serve.http_neighbour import found_neighbour  # noqa: PLC0415 - as above

        yield f"database: none; follows {settings.follow}, {asyncio.run(found_neighbour(settings))}"
        return
    if settings.database_url is None and not Path(settings.data_dir, "postgres").exists():
        yield f"database: embedded, made in {settings.data_dir} by the first `segmentd serve`"
        return
    with any_database(settings) as (database_url, _):
        yield f"database: PostgreSQL {asyncio.run(_server_version(database_url))}"
        yield f"connections: {asyncio.run(check_connections(database_url, needs_of_node(settings)))}"
        if pending := asyncio.run(pending_migrations(database_url)):
            raise StartupFailed(f"the schema lacks {', '.join(pending)}: run `segmentd migrate`")
        yield "schema: up to date"


def _supervise(
    kept: Sequence[Kept],
    ready_line: str | None,
    lives: Callable[[], bool],
    unready_seconds: float,
    distributor: Distributor | None = None,
) -> bool:
    def needed() -> bool:
        return lives() and all(process.can_start_again() for process in kept)

    try:
        return asyncio.run(supervise(kept, ready_line, needed, unready_seconds, distributor))
    except* StartupFailed as group:
        raise group.exceptions[0] from None


@contextmanager
def node_folder(data_dir: Path) -> Iterator[Path]:
    """A folder that only this node uses while the context lives: `node-1`, or the first free one.

    Several nodes on one database may share a data directory. Raises StartupFailed.
    """
    for number in itertools.count(1):
        folder = data_dir / f"node-{number}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartupFailed(f"the data directory {data_dir} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            yield folder
        finally:
            os.close(descriptor)
        return


def forget_earlier_runs(folder: Path) -> None:
    """Invalidates the replica status and the known tokens: the database may be another one now.

    The database is reachable here, so it can answer. What the node's processes store from now on is for later
    processes that start while the database is away.
    """
    with closing(ReplicaStatus.open(status_path(folder))) as status, closing(KnownTokens(folder)) as known:
        status.clear()
        known.forget()


def clear_metrics(folder: Path) -> None:
    """Makes the folder of metric files, without those of an earlier start. Raises StartupFailed."""
    measured = folder / METRICS
    try:
        measured.mkdir(mode=0o700, exist_ok=True)
        for file in measured.iterdir():
            file.unlink()
    except OSError as error:
        raise StartupFailed(f"the folder {measured} cannot be used: {error.strerror}") from None


def _note_serving(folder: Path, listener: socket.socket) -> None:
    try:
        note_serving(folder, address(listener))
    except OSError as error:  # the health check alone needs it
        _log.warning("the node's address cannot be written", folder=str(folder), error=error.strerror)


@contextmanager
def own_database(settings: Settings) -> Iterator[tuple[str, Callable[[], bool]]]:
    """The URL of the database of the settings, or of an embedded one that runs while the context lives.

    And a function that says whether the embedded database's process still runs. No URL where the node follows
    another one.
    """
    if settings.follow is not None:
        yield "", lambda: True
        return
    if settings.database_url is not None:
        yield settings.database_url, lambda: True
        return
    postgres = embedded.start(Path(settings.data_dir), needs_of_node(settings).most + SPARE)
    try:
        yield postgres.url, postgres.is_running
    finally:
        postgres.stop()


def _administer(settings: Settings, work: Callable[[Database], Awaitable[Result]]) -> Result:
    """Does the work on the database, its schema up to date. Raises StartupFailed."""

    async def done(database_url: str) -> Result:
        await migrate(database_url)
        async with open_database(database_url) as database:
            return await work(database)

    with any_database(settings) as (database_url, _):
        return asyncio.run(done(database_url))


@contextmanager
def any_database(settings: Settings) -> Iterator[tuple[str, Callable[[], bool]]]:
    """As `own_database`, but shares the embedded one of a segmentd that serves from the same folder.

    Raises StartupFailed where the node follows another one.
    """
    if settings.follow is not None:
        raise StartupFailed(f"this node has no database: it follows {settings.follow}; run the command there")
    running = None if settings.database_url else embedded.url_of_running(Path(settings.data_dir))
    if running is not None:
        yield running, lambda: True
        return
    with own_database(settings) as own:
        yield own


async def _server_version(database_url: str) -> str:
    async with connected(database_url) as connection:
        return connection.info.parameter_status("server_version") or "of an unknown version"


def _command_actor() -> Actor:
    """The user who runs the command, as the audit log shows it."""
    try:
        return Actor(f"{getpass.getuser()} on the command line")
    except (KeyError, OSError):  # no name for this user id, as in a container
        return Actor(f"uid {os.getuid()} on the command line")
