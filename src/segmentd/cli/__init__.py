"""The command line. Errors of use leave with 2, failures with 1, one clear line each on standard error."""

import sys
from typing import Annotated, Final

from cyclopts import App, CycloptsError, Parameter

from segmentd import __version__, config
from segmentd.domain.errors import StartupFailed
from segmentd.observability import set_up_logging
from segmentd.serve import run

app: Final = App(
    name="segmentd",
    help="The service that knows which segments each user is in.",
    version=__version__,
    version_flags=["--version"],
    help_flags=["--help", "-h"],
)

# Every flag is also an environment variable, SEGMENTD_ and the name in capitals.
Host = Annotated[str | None, Parameter(help="Address to listen on. [127.0.0.1]")]
Port = Annotated[str | None, Parameter(help="Port of HTTP; 0 takes any free one. [8080]")]
GrpcPort = Annotated[str | None, Parameter(help="Port of gRPC; 0 is off, the only value so far. [0]")]
Workers = Annotated[str | None, Parameter(help="HTTP processes; 0 is one for each core. [0]")]
DataDir = Annotated[str | None, Parameter(help="Folder of everything that this node keeps. [./data]")]
DatabaseUrl = Annotated[
    str | None, Parameter(help="A PostgreSQL to use (15 or newer) instead of the embedded one.")
]
ConfigFile = Annotated[str | None, Parameter(help="A TOML file with settings.")]


@app.command
def serve(
    *,
    host: Host = None,
    port: Port = None,
    grpc_port: GrpcPort = None,
    workers: Workers = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Serve the API; without a database URL, on an embedded PostgreSQL in the data directory."""
    settings = _settings(locals())
    set_up_logging(settings.settings.log_level)
    run.serve(settings.settings)


@app.command
def migrate(*, data_dir: DataDir = None, database_url: DatabaseUrl = None, config: ConfigFile = None) -> None:
    """Bring the database's schema up to date."""
    settings = _settings(locals())
    set_up_logging("warning")
    count = run.migrate_once(settings.settings)
    print(f"{count} migrations applied" if count else "the schema is up to date")


@app.command
def check(*, data_dir: DataDir = None, database_url: DatabaseUrl = None, config: ConfigFile = None) -> None:
    """Show the configuration, and whether the database and its schema are usable."""
    settings = _settings(locals())
    set_up_logging("warning")
    for line in run.check(settings):
        print(line)


def main() -> None:
    """The command `segmentd`."""
    try:
        app(exit_on_error=False, print_error=False)
    except (CycloptsError, config.ConfigurationError) as error:
        _leave(2, str(error))
    except StartupFailed as error:
        _leave(1, error.detail)


def _settings(flags: dict[str, str | None]) -> config.Configuration:
    return config.load(flags)


def _leave(code: int, line: str) -> None:
    print(f"segmentd: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(code)
