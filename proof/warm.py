"""Runs pytest again and again, each time in a fork of a process that has imported what others made.

So a run need not wait for the libraries, which take longer than the tests near a fault. Each line of standard
input is a JSON list of the file for the output and the arguments; each line of output is an exit code.
"""

import importlib
import json
import os
import sys
from typing import Final

import pytest

# What the tests import. The packages of the checkout are not among it: a fault has to be seen.
_LIBRARIES: Final = (
    *("cryptography.x509", "cyclopts", "grpc.aio", "grpc_health.v1.health", "grpc_reflection.v1alpha"),
    *("htpy", "httpx", "hypothesis.extra.numpy", "hypothesis.stateful", "jwt", "litestar", "lmdb", "msgspec"),
    *("numpy", "obstore", "procrastinate", "prometheus_client", "psycopg", "psycopg_pool", "pytest_asyncio"),
    *("requests", "schemathesis", "structlog", "uvicorn", "uvloop", "xdist"),
)


def _run(output: str, *arguments: str) -> int:
    """In a process of its own."""
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Of the libraries that are plugins too, which cannot be rewritten any more and need not be.
    return pytest.main(["-W", "ignore:Module already imported", *arguments])


def main() -> int:
    """Until the end of the input."""
    for library in _LIBRARIES:
        importlib.import_module(library)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            return _run(*json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
