import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed
from segmentd.serve import ports
from tests.support.processes import PATIENCE_S


@pytest.fixture
def left_over() -> Iterator[socket.socket]:
    """The port of a gRPC worker whose supervisor was killed."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_a_start_waits_for_the_port_of_grpc_that_a_killed_service_still_has(left_over: socket.socket) -> None:
    settings = Settings(grpc_port=left_over.getsockname()[1])
    with ThreadPoolExecutor(1) as starting:
        bound = starting.submit(ports.bind_grpc, settings)
        with pytest.raises(TimeoutError):
            bound.result(0.2)

        left_over.close()

        found = bound.result(PATIENCE_S)
        assert found is not None
        found.close()


def test_a_port_of_grpc_that_stays_in_use_is_an_error_of_one_line(
    left_over: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "LEFTOVER_S", 0.1)
    with pytest.raises(
        StartupFailed, match=r"cannot listen on 127\.0\.0\.1, port \d+: Address already in use"
    ):
        ports.bind_grpc(Settings(grpc_port=left_over.getsockname()[1]))


def test_a_port_that_another_takes_meanwhile_is_an_error_of_one_line() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with ports.bind(Settings(port=port)) as bound:
            other.listen()

            with pytest.raises(StartupFailed) as failed:
                ports.listen(bound, 1)

    assert str(failed.value) == f"cannot listen on 127.0.0.1, port {port}: Address already in use"
