"""`segmentd follow`."""

from typing import Annotated

from cyclopts import Parameter

from segctl.connection import USUAL, Where
from segctl.failures import WrongUse
from segctl.output import form_of, heading, show_all
from segmentd_client.jobs import Change, MembershipChange


def follow(
    *,
    after: Annotated[str, Parameter(help="now, begin, or the position of a change.")] = "now",
    segment: Annotated[str | None, Parameter(help="Only this segment.")] = None,
    user: Annotated[int | None, Parameter(help="Only this user, and what happens to segments.")] = None,
    where: Where = USUAL,
) -> None:
    """Print changes as they come, until Ctrl-C; as JSON, an object a line."""
    if where.output == "csv":
        raise WrongUse("changes are of two kinds, which have no columns in common: use ndjson")
    with where.opened() as client:
        changes = client.feed.follow(after, segment=segment, user_id=user)
        if form_of(where.output) != "table":
            show_all(changes, (), "ndjson")
            return
        for change in changes:
            heading(_line(change))


def _line(change: Change) -> str:
    begin = f"{change.at:%Y-%m-%d %H:%M:%S}  {change.operation:7}"
    if isinstance(change, MembershipChange):
        until = f" until {change.until:%Y-%m-%d %H:%M:%S}" if change.until else ""
        why = f": {change.reason}" if change.reason else ""
        return f"{begin} {change.user_id}  {change.segment}{until}  {change.cause} by {change.actor}{why}"
    renamed = f", {change.slug_before} before" if change.slug_before else ""
    share = f", {_share(change.percent_before)} to {_share(change.percent_after)}"
    what = renamed + (share if change.operation == "percent" else "")
    return f"{begin} {change.segment}{what}  by {change.actor}"


def _share(percent: float | None) -> str:
    return "no percentage" if percent is None else f"{percent:.10g} %"
