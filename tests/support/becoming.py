"""The processes of a node, forked of a process that has imported what they need.

Python imports for a second, and tests start hundreds of these processes. So those that the supervisor starts
are its children with their pipes, environment and signals as they are shipped, and all that is missing is the
new interpreter. tests/serve/test_serving.py has a service that is started as shipped.
"""

import asyncio
import asyncio.subprocess
import ctypes
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final
from unittest.mock import patch

import prometheus_client.values

import segmentd.serve.following_worker
import segmentd.serve.grpc_worker
import segmentd.serve.http_worker
import segmentd.serve.node_worker  # noqa: F401 - so that the processes find it in memory

_SET_NAME: Final = 15
"""PR_SET_NAME of prctl."""

_as_shipped: Final = asyncio.create_subprocess_exec


def fork_processes() -> None:
    """From now on, this process forks the Python modules that it is to start; on Linux only."""
    if sys.platform == "linux":
        patch("asyncio.create_subprocess_exec", _forked).start()


async def _forked(
    *command: str,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    **streams: Any,  # noqa: ANN401 - as Popen has them
) -> asyncio.subprocess.Process:
    match command:
        case (sys.executable, "-m", module):
            # It never returns, so nothing is executed after it.
            streams["preexec_fn"] = lambda: _become(module, pass_fds, env or os.environ)
    return await _as_shipped(*command, pass_fds=pass_fds, env=env, **streams)


def _become(module: str, descriptors: Sequence[int], env: Mapping[str, str]) -> None:
    code = 1
    try:
        _forget_the_parent(descriptors, {**env})
        ctypes.CDLL(None).prctl(_SET_NAME, module.rpartition(".")[2].encode(), 0, 0, 0)
        sys.argv = [module]
        del sys.modules[module]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter shows it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _forget_the_parent(descriptors: Sequence[int], env: Mapping[str, str]) -> None:
    """Descriptors, signals and the loop are those of a process that has just begun."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    asyncio._set_running_loop(None)  # noqa: SLF001 - exported, for those who make loops
    first = 3
    for descriptor in sorted(descriptors):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(env)
    # The library chooses at its import whether it measures into files.
    vars(prometheus_client.values)["ValueClass"] = prometheus_client.values.get_value_class()
