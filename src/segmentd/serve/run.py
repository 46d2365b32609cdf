"""What the commands do: serve, migrate, check."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from segmentd.config import Configuration, Settings
from segmentd.domain.errors import StartupFailed
from segmentd.serve.supervisor import Supervisor, bind
from segmentd.storage import embedded
from segmentd.storage.migrate import connect, migrate, pending_migrations


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Raises StartupFailed."""
    with closing(bind(settings)) as listener, own_database(settings) as database_url:
        asyncio.run(migrate(database_url))
        listener.listen(2048)
        try:
            asyncio.run(Supervisor(settings, database_url, listener).run())
        except* StartupFailed as group:
            raise group.exceptions[0] from None


def migrate_once(settings: Settings) -> int:
    """Brings the schema up to date and returns the number of migrations applied. Raises StartupFailed."""
    with any_database(settings) as database_url:
        return asyncio.run(migrate(database_url))


def check(configuration: Configuration) -> Iterator[str]:
    """Lines about the configuration, the database and the schema. Raises StartupFailed where one is wrong."""
    yield "configuration:"
    for name, value, source in configuration.shown():
        yield f"  {name} = {value}  ({source})"
    settings = configuration.settings
    if settings.database_url is None and not Path(settings.data_dir, "postgres").exists():
        yield f"database: embedded, made in {settings.data_dir} by the first `segmentd serve`"
        return
    with any_database(settings) as database_url:
        yield f"database: PostgreSQL {asyncio.run(_server_version(database_url))}"
        if pending := asyncio.run(pending_migrations(database_url)):
            raise StartupFailed(f"the schema lacks {', '.join(pending)}: run `segmentd migrate`")
        yield "schema: up to date"


@contextmanager
def own_database(settings: Settings) -> Iterator[str]:
    """The URL of the database that was set, or of an embedded one that lives as long as the context."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    postgres = embedded.start(Path(settings.data_dir))
    try:
        yield postgres.url
    finally:
        postgres.stop()


@contextmanager
def any_database(settings: Settings) -> Iterator[str]:
    """As `own_database`, but shares the embedded one of a segmentd that serves from the same folder."""
    running = None if settings.database_url else embedded.url_of_running(Path(settings.data_dir))
    if running is not None:
        yield running
        return
    with own_database(settings) as database_url:
        yield database_url


async def _server_version(database_url: str) -> str:
    async with await connect(database_url) as connection:
        return connection.info.parameter_status("server_version") or "of an unknown version"
