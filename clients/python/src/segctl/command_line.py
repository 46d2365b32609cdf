"""The commands, each of which is imported when it runs."""

import os
import sys
from typing import Final

from cyclopts import App, CycloptsError, Group

from segctl.failures import CommandFailed

# Without the modules: where each command is, its sentence, and an example.
_COMMANDS: Final = {
    "user": ("users:user", "Show a user: in which segments, since when, why.", "1000"),
    "add": ("users:add", "Add a user to segments.", "1000 AVITO_DISCOUNT_30 --ttl 2d"),
    "remove": ("users:remove", "Remove a user from segments.", "1000 AVITO_DISCOUNT_30"),
    "import": (
        "lists:import_list",
        "Change many users by a file, or by standard input (-).",
        "users.csv --segment AVITO_DISCOUNT_30 --ttl 30d --dry-run",
    ),
    "export": ("lists:export", "Write everybody in a segment.", "AVITO_DISCOUNT_30 -o all.csv"),
    "report": ("reports:report", "Write who got in and out in a month.", "2026-11 -o november.csv"),
    "apply": ("applying:apply", "Make the segments those of a file.", "-f segments.yaml --dry-run"),
    "login": (
        "logins:login",
        "Keep a token in the system's keyring.",
        "--server https://segments.example.com",
    ),
    "logout": (
        "logins:logout",
        "Remove a token from the system's keyring.",
        "--server https://segments.example.com",
    ),
    "follow": ("following:follow", "Print changes as they come.", "--segment AVITO_DISCOUNT_30"),
}
_SEGMENTS: Final = "List, show, create, set, delete, preview or count segments."


def mount(app: App) -> None:
    """Adds the commands, and that of completion, to a command line."""
    app.register_install_completion_command()
    group = Group("Daily use, over HTTP", sort_key=1)
    app.command("segctl.segments:segments", name="segments", help=_SEGMENTS, group=group)
    for name, (place, sentence, example) in _COMMANDS.items():
        shown = f"Example: {name} {example}"
        app.command(f"segctl.{place}", name=name, help=sentence, group=group, help_epilogue=shown)


def main() -> None:
    """The command `segctl`."""
    app = App(
        name="segctl",
        help="Which segments is each user in, since when, and why.",
        version_flags=["--version"],
        help_flags=["--help", "-h"],
        version=_version,
    )
    mount(app)
    try:
        app(exit_on_error=False, print_error=False)
    except CycloptsError as error:
        leave("segctl", 2, str(error))
    except CommandFailed as error:
        leave("segctl", error.code, str(error))


def leave(name: str, code: int, line: str) -> None:
    """Ends the process with one line on standard error."""
    shown = "".join(char if char.isprintable() else "?" for char in " ".join(line.split()))
    if shown:
        print(f"{name}: {shown}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(code)


def reader_went_away() -> None:
    """Standard output leads nowhere from now on, so that closing it at the end does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    from segmentd_client.version import VERSION  # noqa: PLC0415 - the client is imported when it is needed

    return VERSION
