"""The command line. Usage errors exit with 2, failures with 1, each with one line on standard error."""

import gc
import sys
from typing import Final

from cyclopts import App, CycloptsError

from segctl.command_line import leave, mount
from segctl.failures import CommandFailed
from segmentd import __version__
from segmentd.config import ConfigurationError
from segmentd.domain.errors import SegmentdError
from segmentd.observability.terminal import printable
from segmentd.storage.database_url import redacted

app: Final = App(
    name="segmentd",
    help="The service that knows which segments each user is in.",
    version=__version__,
    version_flags=["--version"],
    help_flags=["--help", "-h"],
)

mount(app)
# Each is imported when it runs: an import takes longer than all else that a command does before it serves.
for _name, _sentence in (
    ("serve", "Serve the API; without a database URL, with an embedded PostgreSQL in the data directory."),
    (
        "worker",
        "Run only the background jobs: ended terms, reports, partitions. `segmentd serve` runs them too.",
    ),
    ("migrate", "Bring the database's schema up to date."),
    ("check", "Show the configuration, and whether segmentd can use the database and its schema."),
):
    app.command(f"segmentd.cli.commands:{_name}", name=_name, help=_sentence)
app.command("segmentd.cli.tokens:token", name="token", help="Make, list and revoke API tokens.")
app.command("segmentd.cli.tokens:key", name="key", help="Replace the key that signs the links of reports.")


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
