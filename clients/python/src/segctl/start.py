"""The start of `segctl`, which says what to install where the extra `cli` is missing."""

import sys


def main() -> None:
    """The command `segctl`."""
    try:
        from segctl.command_line import main as run  # noqa: PLC0415 - it may be missing
    except ModuleNotFoundError as error:
        print(f"segctl: {error.name} is missing: install segmentd-client[cli]", file=sys.stderr)
        sys.exit(2)
    run()
