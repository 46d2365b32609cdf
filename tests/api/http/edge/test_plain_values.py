import gc

from litestar.handlers import BaseRouteHandler

from tests.support.client import Api


def handlers() -> int:
    gc.collect()
    return sum(isinstance(each, BaseRouteHandler) for each in gc.get_objects())


async def test_no_request_leaves_a_handler_behind(api: Api) -> None:
    """For each request the framework makes copies of the handler, which a guard could keep."""
    await api.get("users/1/history")
    before = handlers()

    for _ in range(5):
        assert (await api.get("users/1/history")).status_code == 200

    assert handlers() == before
