"""How far the history goes back: what was before may have been removed (the setting history_months)."""

from datetime import datetime

from segmentd.domain.errors import Gone
from segmentd.domain.instants import rfc3339
from segmentd.domain.memberships import Event
from segmentd.domain.pages import Page


def check_kept(asked: datetime | None, begins_at: datetime | None) -> None:
    """Raises Gone if an instant is before the beginning of the history; None for that: all of it is kept."""
    if asked is not None and begins_at is not None and asked < begins_at:
        raise removed_before(begins_at)


def removed_before(begins_at: datetime) -> Gone:
    """The refusal of a request about the time before the beginning of the history."""
    text = rfc3339(begins_at)
    return Gone(f"The history begins at {text}; what was before was removed.", begins_at=text)


class EventPage(Page[Event], frozen=True):
    """A page of a user's history; before `begins_at` it may have been removed. None: all of it is kept."""

    begins_at: datetime | None
