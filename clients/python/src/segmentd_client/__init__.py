"""The Python client of segmentd: which segments is each user in, since when, and why.

    from segmentd_client import Client

    with Client("http://127.0.0.1:8080") as client:
        client.users.change(1000, add=["AVITO_VOICE_MESSAGES"])
        print(client.users.segments(1000).segments)

`AsyncClient` has the same calls for asyncio and trio. Every refusal of the service is an exception of its
own (`segmentd_client.errors`). Times are datetimes with an offset; names that end in `_s` are seconds.
"""

from segmentd_client import errors
from segmentd_client.asynchronous.client import AsyncClient
from segmentd_client.calls.segments import UNSET
from segmentd_client.core import NO_RETRIES, Retries
from segmentd_client.errors import ClientError, Problem
from segmentd_client.models import Term, UserChange
from segmentd_client.synchronous.client import Client
from segmentd_client.version import VERSION

__version__ = VERSION
__all__ = [
    "NO_RETRIES",
    "UNSET",
    "AsyncClient",
    "Client",
    "ClientError",
    "Problem",
    "Retries",
    "Term",
    "UserChange",
    "errors",
]
