"""A user as this service knows them."""

from datetime import datetime

import msgspec

from segmentd.domain.identifiers import UserId


class User(msgspec.Struct, frozen=True):
    """A registered user. `name` is whatever the registering service gave, for people who read."""

    id: UserId
    name: str | None
    registered_at: datetime
