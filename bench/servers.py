"""The references of the hot read: nginx, and uvicorn alone, each answering one constant body."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.programs import BenchError, cores, free_port, nginx

# Only what it needs, and nothing that would slow it down.
_CONFIGURATION: Final = """
daemon off;
{user}
worker_processes auto;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        default_type application/json;
        location / {{ return 200 '{body}'; }}
    }}
}}
"""
_START_SECONDS: Final = 15.0


@contextmanager
def constant_nginx(body: bytes) -> Iterator[str]:
    """The URL of an nginx that answers this body. Raises Missing."""
    program = nginx()
    with TemporaryDirectory(prefix="segmentd-nginx-") as name:
        folder, port = Path(name), free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(user=user, folder=folder, port=port, body=body.decode()), "utf-8"
        )
        command = [program, "-e", "stderr", "-p", str(folder), "-c", str(configuration)]
        with _running(command, port) as url:
            yield url


@contextmanager
def constant_uvicorn(body: bytes) -> Iterator[str]:
    """The URL of uvicorn processes, one a core, that answer this body: the most segmentd could reach."""
    port = free_port()
    command = [sys.executable, "-m", "bench.ceiling", str(port), str(cores()), body.decode()]
    with _running(command, port) as url:
        yield url


@contextmanager
def _running(command: list[str], port: int) -> Iterator[str]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            _wait_for(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=_START_SECONDS)


def _wait_for(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status == 200:  # noqa: PLR2004 - OK
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    process.terminate()
    raise BenchError(f"the server of a reference does not answer: {process.communicate()[1].strip()}")
