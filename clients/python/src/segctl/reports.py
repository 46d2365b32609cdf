"""`segmentd report`."""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from segctl.connection import USUAL, Where
from segctl.files import write
from segctl.output import say

_WAIT_S: Final = 50


def report(
    month: str,
    /,
    *,
    to: Annotated[Path | None, Parameter(alias="-o", help="A file instead of standard output.")] = None,
    user: Annotated[int | None, Parameter(help="Only this user.")] = None,
    segment: Annotated[str | None, Parameter(help="Only this segment.")] = None,
    header: Annotated[bool, Parameter(negative="", help="With the names of the columns.")] = False,
    where: Where = USUAL,
) -> None:
    """Write who got in and out in a month: user_id;segment;operation;time."""
    with where.opened() as client:
        ordered = client.reports.order(month, user_id=user, segment=segment, header=header, wait_s=_WAIT_S)
        done = client.reports.wait(ordered.id)
        write(client.reports.download(done), to)
    if to is not None:
        say(f"{done.rows} rows in {to}; the link works until {done.expires_at:%Y-%m-%d}: {done.url}")
