"""The OpenAPI document without a service behind it."""

import json
from typing import Final

from segmentd.api.http.app import create_app
from segmentd.auth.authenticator import Authenticator
from segmentd.service import Service
from segmentd.storage.database import Database
from tests.support.client import Json
from tests.support.door import OPEN


class Nowhere(Service):
    """Enough of a service for its OpenAPI document."""

    def __init__(self) -> None:
        """Has nothing and serves nobody."""


APP: Final = create_app(Nowhere(), Authenticator(Database(""), OPEN))

DOCUMENT: Final[Json] = json.loads(json.dumps(APP.openapi_schema.to_schema()))
"""As a client gets it."""
