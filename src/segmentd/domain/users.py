"""A user as this service knows them."""

from datetime import datetime

import msgspec

from segmentd.domain.identifiers import UserId
from segmentd.domain.texts import Name


class User(msgspec.Struct, frozen=True):
    """A registered user. `name` is for people who read."""

    id: UserId
    name: Name | None
    registered_at: datetime
