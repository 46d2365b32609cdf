"""The files that pages load. Each comes with this package; nothing is loaded from elsewhere."""

import asyncio
import hashlib
from functools import cache
from importlib import resources
from typing import Final

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from segmentd.api.http.assets import Asset
from segmentd.api.http.types import AnyRequest

# htmx 2.0.10 is as its makers released it (docs/decisions/0084).
FILES: Final = {
    "htmx.min.js": "text/javascript",
    "console.js": "text/javascript",
    "console.css": "text/css",
    "icon.svg": "image/svg+xml",
}


@cache
def _version(name: str) -> str:
    content = resources.files("segmentd.console").joinpath("static", name).read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


def file_link(root: str, name: str) -> str:
    """The address of a file; another version of the file has another address."""
    return f"{root}/static/{name}?v={_version(name)}"


@get("/static/{name:str}", opt={"operation": "console"})
async def console_file(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """A file that pages load."""
    if name not in FILES:
        raise NotFoundException
    # The first time it is compressed, which takes longer than hot reads may wait.
    asset = await asyncio.to_thread(Asset.of_package, "segmentd.console", f"static/{name}", FILES[name])
    answer = asset.answer(request.headers.get("Accept-Encoding", ""), request.headers.get("If-None-Match"))
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer
