"""Long answers are compressed for clients that take gzip, and are the same once unpacked."""

import gzip
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from segmentd.api.http.edge.compression import takes_gzip
from tests.support.client import Api
from tests.support.postgres import new_database
from tests.support.served import served

LISTS = ("users?limit=1000", "segments?limit=1000", "/openapi.json", "audit")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def long_lists(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    with new_database(postgres_url, template_database) as url:
        async with served(url, tmp_path_factory.mktemp("data")) as api:
            await api.create("A", percent=100)
            for number in range(60):
                await api.create(
                    f"SEGMENT_WITH_A_LONG_NAME_{number}", description="a segment among many", percent=100
                )
            for _ in range(100):
                await api.post("users", json={"name": "one of many"})
            yield api


async def raw(api: Api, path: str, accepted: str | None, method: str = "GET") -> tuple[httpx.Response, bytes]:
    """The answer, and its body as it was sent."""
    request = api.build_request(method, f"http://segmentd.test{path}" if path[0] == "/" else path)
    del request.headers["Accept-Encoding"]
    if accepted is not None:
        request.headers["Accept-Encoding"] = accepted
    answer = await api.send(request, stream=True)
    return answer, b"".join([piece async for piece in answer.aiter_raw()])


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_long_answer_is_compressed_and_the_same(long_lists: Api, path: str) -> None:
    plain, content = await raw(long_lists, path, None)
    packed, compressed = await raw(long_lists, path, "br, gzip;q=0.5")

    assert plain.status_code == packed.status_code == 200
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    assert int(packed.headers["Content-Length"]) == len(compressed) < len(content) / 2
    assert gzip.decompress(compressed) == content


@pytest.mark.parametrize(
    "accepted", [None, "", "identity", "br", "gzip;q=0", "*;q=0", "gzip;q=0.5, identity"]
)
@pytest.mark.asyncio(loop_scope="module")
async def test_who_does_not_take_gzip_gets_none(long_lists: Api, accepted: str | None) -> None:
    answer, content = await raw(long_lists, "segments", accepted)

    assert "Content-Encoding" not in answer.headers
    assert content.startswith(b"{")


@pytest.mark.parametrize("path", ["segments/A", "segments/A/users?limit=2", "segments/NOWHERE", "/livez"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_short_answer_stays_as_it_is(long_lists: Api, path: str) -> None:
    answer, content = await raw(long_lists, path, "gzip")

    assert "Content-Encoding" not in answer.headers
    assert content.startswith(b"{")


@pytest.mark.asyncio(loop_scope="module")
async def test_the_hot_calls_and_the_files_of_the_documentation_are_not_compressed_on_their_way(
    long_lists: Api,
) -> None:
    read, content = await raw(long_lists, "users/1/segments", "gzip")
    looked_up = await long_lists.post("lookup", json={"user_ids": [*range(1, 100)]})
    asset, packed = await raw(long_lists, "/docs/swagger-ui.css", "gzip")

    assert len(content) > 1024
    assert "Content-Encoding" not in read.headers
    assert "Content-Encoding" not in looked_up.headers
    assert asset.headers["Content-Encoding"] == "gzip"
    assert not gzip.decompress(packed).startswith(b"\x1f\x8b")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_head_says_the_length_of_the_compressed_answer(long_lists: Api) -> None:
    head, nothing = await raw(long_lists, "segments", "gzip", "HEAD")
    _, content = await raw(long_lists, "segments", "gzip")

    assert nothing == b""
    assert head.headers["Content-Encoding"] == "gzip"
    assert int(head.headers["Content-Length"]) == len(content)


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        *(("gzip", True), ("GZIP", True), ("gzip;q=1.000", True), ("gzip; q=0.001", True), ("*", True)),
        *(("br, *;q=0.1", True), ("identity;q=0, gzip", True), ("deflate,\tgzip", True)),
        *(("", False), ("gzip;q=0", False), ("gzip;q=0.000", False), ("*;q=0", False), ("x-gzip", False)),
        *(("*, gzip;q=0", False), ("identity", False), ("gzip;q=x", False), ("gzip;q=0.5, identity", False)),
        *(("gzipped", False), ("notgzip", False)),
    ],
)
def test_the_weights_of_codings_count(accepted: str, *, takes: bool) -> None:
    assert takes_gzip(accepted) is takes
