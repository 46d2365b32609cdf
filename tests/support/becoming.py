"""The fork server of a service, forked of a process that has imported everything.

Python imports for a second, and tests start hundreds of services. All that is missing is a new interpreter.
tests/serve/test_serving.py has services that are started as shipped.
"""

import os
import signal
import socket
import traceback
from collections.abc import Callable
from unittest.mock import patch

import segmentd.serve.following_worker
import segmentd.serve.grpc_worker
import segmentd.serve.http_worker
import segmentd.serve.node_worker  # noqa: F401 - so that the processes find it in memory
from segmentd.serve import fork_server


def fork_the_fork_server() -> None:
    """From now on, this process forks its fork servers."""
    patch.object(fork_server, "launch", launched).start()


def launched(theirs: socket.socket, kind: str) -> tuple[Callable[[], None], Callable[[], bool]]:
    """Does what `fork_server.launch` does, without a new interpreter."""
    pid = os.fork()
    if pid == 0:
        _become(theirs, kind)
    has_ended = False

    def is_running() -> bool:
        nonlocal has_ended
        has_ended = has_ended or os.waitpid(pid, os.WNOHANG) != (0, 0)
        return not has_ended

    def stop() -> None:
        nonlocal has_ended
        if is_running():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            has_ended = True

    return stop, is_running


def _become(theirs: socket.socket, kind: str) -> None:
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(nothing, descriptor)
        os.closerange(3, theirs.fileno())
        os.closerange(theirs.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        fork_server.run(theirs, kind)
    except BaseException:  # noqa: BLE001 - as the interpreter shows it
        traceback.print_exc()
    finally:
        os._exit(0)
