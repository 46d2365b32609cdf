"""The command line. Usage errors exit with 2, failures with 1, each with one line on standard error."""

import gc
import sys
from typing import Annotated, Final

from cyclopts import App, CycloptsError, Parameter

from segctl.command_line import leave, mount
from segctl.failures import CommandFailed
from segmentd import __version__
from segmentd.cli.flags import NO_FLAGS, Flags
from segmentd.cli.tokens import key, token
from segmentd.config import ConfigurationError
from segmentd.domain.errors import SegmentdError
from segmentd.observability.logs import set_up_logging
from segmentd.observability.terminal import printable
from segmentd.serve import run
from segmentd.storage.database_url import redacted

app: Final = App(
    name="segmentd",
    help="The service that knows which segments each user is in.",
    version=__version__,
    version_flags=["--version"],
    help_flags=["--help", "-h"],
)

# The commands take every setting as a flag; `segmentd.config` says what each one means.
Settings = Annotated[Flags, Parameter(name="*")]

mount(app)
app.command(token)
app.command(key)


@app.command
def serve(*, flags: Settings = NO_FLAGS) -> None:
    """Serve the API; without a database URL, with an embedded PostgreSQL in the data directory."""
    settings = flags.loaded().settings
    set_up_logging(settings.log_level)
    run.serve(settings)


@app.command
def worker(*, flags: Settings = NO_FLAGS) -> None:
    """Run only the background jobs: ended terms, reports, partitions. `segmentd serve` runs them too."""
    settings = flags.loaded().settings
    set_up_logging(settings.log_level)
    run.work(settings)


@app.command
def migrate(*, flags: Settings = NO_FLAGS) -> None:
    """Bring the database's schema up to date."""
    set_up_logging("warning")
    count = run.migrate_once(flags.loaded().settings)
    print(f"{count} migrations applied" if count else "the schema is up to date")


@app.command
def check(*, flags: Settings = NO_FLAGS) -> None:
    """Show the configuration, and whether segmentd can use the database and its schema."""
    set_up_logging("warning")
    for line in run.check(flags.loaded()):
        print(printable(line))


def main() -> None:
    """The command `segmentd`."""
    gc.freeze()  # what was imported stays until the end, which need not look through it for garbage
    try:
        app(exit_on_error=False, print_error=False)
    except (CycloptsError, ConfigurationError) as error:
        # The message quotes the arguments, which may include a database URL in the wrong place.
        _leave(2, redacted(str(error)))
    except SegmentdError as error:
        _leave(1, error.detail)
    except CommandFailed as error:
        leave("segmentd", error.code, str(error))


def _leave(code: int, line: str) -> None:
    print(f"segmentd: {printable(' '.join(line.split()))}", file=sys.stderr)
    sys.exit(code)
