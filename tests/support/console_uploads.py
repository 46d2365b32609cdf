"""A form with a file, as browsers send it."""

from collections.abc import AsyncIterator
from typing import Final

from tests.support.console import Browser, Page

BOUNDARY: Final = "----a boundary"


def form_with_file(token: str, content: bytes, name: str = "list.csv", **fields: str) -> bytes:
    """The body: the fields, then the file."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in {"form_token": token, **fields}.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return "".join([*parts, head]).encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


async def send_form(browser: Browser, body: bytes, piece: int = 2**16) -> Page:
    """The page that answers, when the body comes in pieces of so many bytes."""

    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(body), piece):
            yield body[begin : begin + piece]

    kind = f'multipart/form-data; boundary="{BOUNDARY}"'
    answer = await browser.client.post("/console/imports", content=pieces(), headers={"Content-Type": kind})
    return Page.of(answer)
