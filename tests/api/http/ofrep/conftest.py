"""One state behind all ways to evaluate flags: the hot path, the framework, and a node with no replica."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest

from segmentd.api.http.hot.path import HotPath
from segmentd.domain.identifiers import INT64_MAX
from segmentd.replica.replica import Replica
from segmentd.replica.status import boot_time
from tests.support.asgi import JSON, Answer, Counted, Headers, Request, ask
from tests.support.client import Api
from tests.support.door import hot_path
from tests.support.postgres import new_database
from tests.support.two_doors import two_doors

FLAGS: Final = "/ofrep/v1/evaluate/flags"
USERS: Final = (*range(1, 21), INT64_MAX)
PERCENTS: Final = {"NONE": 0, "TENTH": 10, "HALF": 50, "ALL": 100}
SAME_HEADERS: Final = ("content-type", "etag", "cache-control", "retry-after", "content-length")


def context(user_id: object, **attributes: object) -> bytes:
    """The body that asks for a user."""
    return json.dumps({"context": {"targetingKey": user_id, **attributes}}).encode()


class Evaluating:
    """All ways to evaluate."""

    def __init__(
        self, runner: asyncio.Runner, replica: Replica, framework: Counted, plain: Api, hot: HotPath
    ) -> None:
        self._runner = runner
        self._replica = replica
        self._framework = framework
        self.hot = hot
        self.plain = plain
        self.run = runner.run

    def refresh(self) -> None:
        """Makes the replica fresh."""
        self._replica.status.fresh_at = boot_time()

    def evaluate(
        self, path: str, body: bytes | Sequence[bytes], headers: Headers = JSON, method: str = "POST"
    ) -> tuple[Answer, bool]:
        """The one answer of all ways, and whether it was the hot path's own."""
        parts = [body] if isinstance(body, bytes) else body
        request = Request(method, FLAGS + path, [*headers, ("x-request-id", "one")], parts)
        self.refresh()
        self._framework.asked = 0
        answer = self._runner.run(ask(self.hot, request))
        own = self._framework.asked == 0
        others = [self._runner.run(ask(self._framework, request)), self._runner.run(self._stored(request))]
        for other in others:
            assert _compared(other) == _compared(answer)
        return answer, own

    def send(self, method: str, path: str) -> Any:  # noqa: ANN401 - JSON
        """A request to the API of the database."""
        return self._runner.run(self.plain.request(method, path)).json()

    async def _stored(self, request: Request) -> Answer:
        content = b"".join(request.body)
        headers = [("content-length", str(len(content))), *request.headers]
        answer = await self.plain.request(request.method, request.path, content=content, headers=headers)
        return Answer(answer.status_code, dict(answer.headers), answer.content)


def _compared(answer: Answer) -> tuple[Any, ...]:
    return answer.status, answer.body, [answer.headers.get(name) for name in SAME_HEADERS]


async def _prepare(api: Api) -> None:
    for slug in ("PLAIN", "a.b-c_d", "Z"):
        await api.create(slug)
    for slug, percent in PERCENTS.items():
        await api.create(slug, percent=percent)
    for user_id in USERS:
        added = ["PLAIN", "a.b-c_d", "NONE"][: 1 + user_id % 3]
        await api.change(user_id, add=added, remove=["ALL", "HALF", "Z"][user_id % 3 :])
    await api.add(3, {"slug": "Z", "ttl_seconds": 3600})
    # An exclusion outlives the percentage.
    await api.create("ENDED", percent=100)
    await api.remove(4, "ENDED")
    await api.change_segment("ENDED", percent=None)
    await api.create("DELETED", percent=100)
    await api.add(5, "DELETED")
    await api.delete("segments/DELETED")


@pytest.fixture(scope="module")
def evaluating(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Evaluating]:
    folder = tmp_path_factory.mktemp("node")
    with (
        new_database(postgres_url, template_database) as url,
        two_doors(url, folder, _prepare) as (runner, replica, authenticator, beside, alone),
    ):
        framework = Counted(beside)
        hot = hot_path(framework, replica, authenticator)
        yield Evaluating(runner, replica, framework, Api(alone), hot)
