"""`segmentd token`: API tokens; `segmentd key`: the keys that sign the links of reports."""

import re
from datetime import datetime, timedelta
from typing import Annotated, Final

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from segmentd.cli.flags import NO_FLAGS, Flags
from segmentd.config import ConfigurationError
from segmentd.domain.access import Role, Token, read_caller_name
from segmentd.domain.instants import read_instant
from segmentd.domain.reports import MOST_DAYS
from segmentd.observability.logs import set_up_logging
from segmentd.observability.terminal import printable
from segmentd.serve import run

token: Final = App(name="token", help="Make, list and revoke API tokens.")
key: Final = App(name="key", help="Replace the key that signs the links of reports.")

Settings = Annotated[Flags, Parameter(name="*")]

_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}


@token.command
def create(
    *,
    role: Annotated[Role, Parameter(help="What it may do: reader, editor or admin.")],
    name: Annotated[str, Parameter(help="Who uses it; history and logs show it.")],
    expires: Annotated[
        str | None,
        Parameter(help="When it expires: 90d, 12h, 30m, or 2027-01-01T00:00:00Z; never unless given."),
    ] = None,
    flags: Settings = NO_FLAGS,
) -> None:
    """Make a token and print it. It is shown this once; only its hash is kept."""
    set_up_logging("warning")
    try:
        caller = read_caller_name(name)
    except ValueError as error:
        raise ConfigurationError(f"--name: {name!r} is {error}") from None
    print(run.create_token(flags.loaded().settings, caller, role, _end(expires)))


@token.command(name="list")
def list_tokens(*, flags: Settings = NO_FLAGS) -> None:
    """List all tokens, revoked and expired ones included, and when each was last used."""
    set_up_logging("warning")
    now, tokens = run.list_tokens(flags.loaded().settings)
    table = Table("name", "role", "made", "ends", "last used", "state", box=None, pad_edge=False)
    for each in tokens:
        table.add_row(
            printable(each.name), each.role, _day(each.created_at), _day(each.expires_at),
            str(each.last_used_on or "–"), _state(each, now),
        )  # fmt: skip
    # A name is shown as it is: rich would interpret [red] and :smile: as markup.
    width = None if tokens and Console().is_terminal else 160
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


@token.command
def revoke(name: str, /, *, flags: Settings = NO_FLAGS) -> None:
    """Revoke a token: every node refuses it within a second."""
    set_up_logging("warning")
    run.revoke_token(flags.loaded().settings, name)
    print(f"revoked {printable(name)}")


@key.command
def rotate(
    *,
    keep_days: Annotated[
        float | None, Parameter(help="How long the links of the old keys work; report_days unless given.")
    ] = None,
    flags: Settings = NO_FLAGS,
) -> None:
    """Make a new key; links that the old keys signed work for a while."""
    set_up_logging("warning")
    settings = flags.loaded().settings
    days = settings.report_days if keep_days is None else keep_days
    if not 0 <= days <= MOST_DAYS:
        raise ConfigurationError(f"--keep-days: {days!r} is not acceptable: from 0 to {MOST_DAYS}")
    run.rotate_signing_key(settings, timedelta(days=days))
    print(f"links are signed with a new key; those of the old ones work for {days:g} days more")


def _end(text: str | None) -> datetime | timedelta | None:
    if text is None:
        return None
    if match := re.fullmatch(r"([1-9][0-9]{0,4})([dhm])", text):
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        return read_instant(text)
    except ValueError:
        raise ConfigurationError(
            f"--expires: {text!r} is not acceptable: a time such as 2027-01-01T00:00:00Z, or 90d, 12h, 30m"
        ) from None


def _day(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _state(token: Token, now: datetime) -> str:
    if token.revoked_at is not None:
        return f"revoked {_day(token.revoked_at)}"
    return "in force" if token.holds(now) else "expired"
