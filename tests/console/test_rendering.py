"""Pages become text without keeping others waiting."""

import asyncio

import htpy as h
import pytest

from segmentd.console import rendering


async def test_a_process_answers_others_while_a_long_page_becomes_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rendering, "SLICE_S", 0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    document = h.main[(h.p[f"<{number}>"] for number in range(100))]
    other = asyncio.create_task(others())
    answer = await rendering.in_slices(rendering.Rendered(document, 200, {}, []))
    other.cancel()

    assert turns > 100
    assert (
        answer.content.decode() == "<main>" + "".join(f"<p>&lt;{n}&gt;</p>" for n in range(100)) + "</main>"
    )


def test_what_is_not_rendered_in_slices_is_rendered_when_it_is_sent() -> None:
    answer = rendering.Rendered(h.p["&"], 404, {}, [])
    assert answer.render(answer.content, "text/html") == b"<p>&amp;</p>"
