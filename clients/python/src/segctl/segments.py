"""`segmentd segments`: list, show, create, set, delete, preview, counts."""

from typing import Annotated, Final

from cyclopts import App, Parameter

from segctl.connection import USUAL, Where
from segctl.failures import WrongUse
from segctl.output import say, show, show_all
from segctl.values import moment, percentage
from segmentd_client import UNSET
from segmentd_client.models import Segment

segments: Final = App(name="segments", help="List, show, create, set, delete, preview or count segments.")

_COLUMNS: Final = [field for field in Segment.__struct_fields__ if field != "salt"]


@segments.command(name="list")
def list_segments(*, where: Where = USUAL) -> None:
    """List all segments. Example: `segments list --output csv`."""
    with where.opened() as client:
        show_all(client.segments.list(limit=1000), _COLUMNS, where.output)


@segments.command(name="show")
def show_segment(slug: str, /, *, where: Where = USUAL) -> None:
    """Show one segment. Example: `segments show AVITO_VOICE_MESSAGES`."""
    with where.opened() as client:
        show(client.segments.get(slug), where.output)


@segments.command
def create(
    slug: str,
    /,
    *,
    description: str | None = None,
    percent: Annotated[str | None, Parameter(help="From 0 to 100, with at most four decimals.")] = None,
    salt: Annotated[str | None, Parameter(help="A signed 64-bit integer; random unless given.")] = None,
    where: Where = USUAL,
) -> None:
    """Create a segment. Example: `segments create AVITO_DISCOUNT_30 --percent 12.5`."""
    share = None if percent is None else percentage("--percent", percent)
    with where.opened() as client:
        made = client.segments.create(slug, description=description, percent=share, salt=salt)
        show(made, where.output)


@segments.command(name="set")
def set_segment(
    old: str,
    /,
    *,
    slug: Annotated[str | None, Parameter(help="The new slug.")] = None,
    description: str | None = None,
    percent: Annotated[str | None, Parameter(help="From 0 to 100, or none to end it.")] = None,
    where: Where = USUAL,
) -> None:
    """Rename, describe, or change the percentage.

    Example: `segments set AVITO_DISCOUNT_30 --percent none`.
    """
    if slug is None and description is None and percent is None:
        raise WrongUse("nothing to set: give --slug, --description or --percent")
    with where.opened() as client:
        changed = client.segments.update(
            old,
            new_slug=slug,
            description=description,
            percent=UNSET if percent is None else percentage("--percent", percent),
        )
        show(changed, where.output)


@segments.command
def delete(slug: str, /, *, where: Where = USUAL) -> None:
    """Delete a segment; its history stays. Example: `segments delete AVITO_DISCOUNT_50`."""
    with where.opened() as client:
        client.segments.delete(slug)
    say(f"deleted {slug}")


@segments.command
def preview(
    slug: str,
    /,
    *,
    percent: Annotated[str, Parameter(help="From 0 to 100, or none.")],
    where: Where = USUAL,
) -> None:
    """Say whom another percentage would move.

    Example: `segments preview AVITO_DISCOUNT_30 --percent 25`.
    """
    with where.opened() as client:
        show(client.segments.preview(slug, percentage("--percent", percent)), where.output)


@segments.command
def counts(slug: str, /, *, at: str | None = None, where: Where = USUAL) -> None:
    """Count the users. Example: `segments counts AVITO_DISCOUNT_30 --at 2026-11-01T00:00:00Z`."""
    with where.opened() as client:
        show(client.segments.counts(slug, at=moment("--at", at)), where.output)
