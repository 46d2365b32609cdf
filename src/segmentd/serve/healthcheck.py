"""Whether the segmentd of this container can serve: `python -m segmentd.serve.healthcheck` exits with 0 or 1.

A running node writes its address to its folder, so the check finds the port however it was set. It imports
very little, because it runs every few seconds.
"""

import http.client
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

import msgspec

from segmentd.config import ConfigurationError, load

# The time limit of the whole check. Docker's own limit is longer, and does not end the process.
LIMIT_S: Final = 4.0
_NAME: Final = "serving.json"
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to be replaced


class Serving(msgspec.Struct, frozen=True):
    """Where a node serves."""

    machine: str
    """The host's name, which is the container's own."""
    pid: int
    url: str

    def is_here(self) -> bool:
        """Whether it runs in this container: several containers may share the data directory."""
        if self.machine != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def note_serving(folder: Path, url: str) -> None:
    """Writes a node's address to its folder. Raises OSError."""
    serving = Serving(socket.gethostname(), os.getpid(), url)
    new = folder / f"{_NAME}.new"
    new.write_bytes(msgspec.json.encode(serving))
    new.replace(folder / _NAME)


def noted(data_dir: Path) -> Iterator[Serving]:
    """The nodes that serve in this container from this data directory."""
    for path in sorted(data_dir.glob(f"node-*/{_NAME}")):
        try:
            serving = msgspec.json.decode(path.read_bytes(), type=Serving)
        except (OSError, msgspec.DecodeError):
            continue
        if serving.is_here():
            yield serving


def ask(url: str) -> str | None:
    """Requests /readyz; None if it is ready, else what is wrong."""
    parts = urlsplit(url)
    host = _ANYWHERE.get(parts.hostname or "", parts.hostname or "")
    # Not urllib, which would use a proxy that the environment names.
    connection = http.client.HTTPConnection(host, parts.port, timeout=LIMIT_S)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{url} does not answer: {error}"
    finally:
        connection.close()
    return None if status == http.HTTPStatus.OK else f"{url} says {status}"


def main() -> None:
    """Exits with 0 if every node that serves here is ready, else with 1 and a line that says why."""
    signal.signal(signal.SIGALRM, lambda *_: _leave(f"no answer within {LIMIT_S:g} seconds"))
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        data_dir = Path(load({}).settings.data_dir)
    except ConfigurationError as error:
        _leave(str(error))
    nodes = [*noted(data_dir)]
    if not nodes:
        _leave(f"no segmentd serves here from {data_dir}")
    for node in nodes:
        if wrong := ask(node.url):
            _leave(wrong)


def _leave(line: str) -> NoReturn:
    os.write(sys.stderr.fileno(), f"segmentd: {line}\n".encode())
    os._exit(1)  # at once, even within a call that would catch an exception


if __name__ == "__main__":
    main()
