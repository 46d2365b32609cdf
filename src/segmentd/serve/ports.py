"""The sockets of a node: bound, listening, and the address of each."""

import contextlib
import errno
import socket
import time
from typing import Final

from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed

# How long the gRPC worker of a killed service may have its port when the next service starts.
LEFTOVER_S: Final = 10.0


def bind(settings: Settings) -> socket.socket:
    """A bound socket that does not listen yet.

    Raises StartupFailed for an address or port that it cannot have.
    """
    return _bound(settings.host, settings.port)


def bind_grpc(settings: Settings) -> socket.socket | None:
    """A socket that keeps the port of gRPC for the process that serves it, and never listens; None without.

    It shares the port (SO_REUSEPORT), so that the process can take it, and take it again after a restart. A
    socket that shares it with nobody finds out before whether somebody else has it: for some seconds that may
    be the worker of a service that was killed. Raises StartupFailed.
    """
    if settings.grpc_port == 0:
        return None
    give_up = time.monotonic() + LEFTOVER_S
    while True:
        try:
            _bound(settings.host, settings.grpc_port).close()
            break
        except StartupFailed as failed:
            is_in_use = isinstance(failed.__cause__, OSError) and failed.__cause__.errno == errno.EADDRINUSE
            if not is_in_use or time.monotonic() > give_up:
                raise
        time.sleep(0.05)
    return _bound(settings.host, settings.grpc_port, shared=True)


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    try:
        [(family, kind, protocol, _, target), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with contextlib.ExitStack() as undo:
            bound = undo.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(target)
            undo.pop_all()
    except OSError as error:
        raise StartupFailed(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    return bound


def listen(bound: socket.socket, backlog: int) -> None:
    """Starts to listen. Raises StartupFailed if another process listens on the same address already."""
    try:
        bound.listen(backlog)
    except OSError as error:
        host, port, *_ = bound.getsockname()
        raise StartupFailed(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None


def address(listener: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
