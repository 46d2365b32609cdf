"""`segmentd serve`, `worker`, `migrate` and `check`."""

import gc
from typing import Annotated

from cyclopts import Parameter

from segmentd.cli.flags import NO_FLAGS, Flags
from segmentd.observability.terminal import printable
from segmentd.serve.first_door import opened

# The commands take every setting as a flag; `segmentd.config` says what each one means.
Settings = Annotated[Flags, Parameter(name="*")]


def serve(*, flags: Settings = NO_FLAGS) -> None:
    """Serve the API; without a database URL, with an embedded PostgreSQL in the data directory."""
    settings = flags.loaded().settings
    with opened(settings) as door:
        gc.disable()  # the next imports keep what they make
        from segmentd.observability.logs import set_up_logging  # noqa: PLC0415 - the door answers meanwhile
        from segmentd.serve import run  # noqa: PLC0415

        gc.freeze()
        gc.enable()
        set_up_logging(settings.log_level)
        run.serve(settings, door)


def worker(*, flags: Settings = NO_FLAGS) -> None:
    """Run only the background jobs: ended terms, reports, partitions. `serve` runs them too."""
    from segmentd.observability.logs import set_up_logging  # noqa: PLC0415 - `serve` has a door before
    from segmentd.serve import run  # noqa: PLC0415

    settings = flags.loaded().settings
    set_up_logging(settings.log_level)
    run.work(settings)


def migrate(*, flags: Settings = NO_FLAGS) -> None:
    """Bring the database's schema up to date."""
    from segmentd.observability.logs import set_up_logging  # noqa: PLC0415 - `serve` has a door before
    from segmentd.serve import run  # noqa: PLC0415

    set_up_logging("warning")
    count = run.migrate_once(flags.loaded().settings)
    print(f"{count} migrations applied" if count else "the schema is up to date")


def check(*, flags: Settings = NO_FLAGS) -> None:
    """Show the configuration, and whether segmentd can use the database and its schema."""
    from segmentd.observability.logs import set_up_logging  # noqa: PLC0415 - `serve` has a door before
    from segmentd.serve import run  # noqa: PLC0415

    set_up_logging("warning")
    for line in run.check(flags.loaded()):
        print(printable(line))
