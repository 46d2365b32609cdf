"""Elements become text in slices, so that a process answers others between two of them."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final

import htpy as h
from litestar import Response
from litestar.datastructures import Cookie

# A page of many rows takes tens of milliseconds in all; hot reads do not wait for so long.
SLICE_S: Final = 0.001


class Rendered(Response[bytes]):
    """An answer of elements; `in_slices` renders them, or else they are rendered in one piece."""

    def __init__(
        self,
        elements: h.BaseElement | str,
        status: int,
        headers: Mapping[str, str],
        cookies: Sequence[Cookie],
    ) -> None:
        super().__init__(
            b"", status_code=status, media_type="text/html", headers=dict(headers), cookies=list(cookies)
        )
        self.elements: h.BaseElement | str | None = elements

    def render(self, content: bytes, *_: object, **__: object) -> bytes:
        """The text as bytes."""
        return content if self.elements is None else str(self.elements).encode()


async def in_slices(response: Response[bytes]) -> Response[bytes]:
    """The answer with its elements rendered. For `after_request`."""
    if not isinstance(response, Rendered) or not isinstance(response.elements, h.BaseElement):
        return response
    chunks: list[str] = []
    ends = time.perf_counter() + SLICE_S
    for chunk in response.elements.iter_chunks():
        chunks.append(chunk)
        if time.perf_counter() > ends:
            await asyncio.sleep(0)
            ends = time.perf_counter() + SLICE_S
    response.content, response.elements = "".join(chunks).encode(), None
    return response
