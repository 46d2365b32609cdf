"""A server that only answers one constant body: `python -m bench.ceiling PORT PROCESSES BODY`.

It is uvicorn as segmentd runs it, on a socket that several processes share.
"""

import contextlib
import os
import signal
import socket
import sys

import uvicorn
import uvloop
from litestar.types import Receive, Scope, Send


def serve(listener: socket.socket, body: bytes) -> None:
    """Serves until SIGTERM."""
    length = b"%d" % len(body)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"age", b"%d" % 0),
                    (b"content-type", b"application/json"),
                    (b"content-length", length),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body, "more_body": False})

    configuration = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    uvloop.run(uvicorn.Server(configuration).serve(sockets=[listener]))


def main(port: int, processes: int, body: bytes) -> None:
    """Starts the processes, ends them on SIGTERM or when standard input ends."""
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    children = []
    for _ in range(processes):
        if (pid := os.fork()) == 0:
            os.close(0)
            serve(listener, body)
            os._exit(0)
        children.append(pid)
    signal.signal(signal.SIGTERM, lambda *_: os.close(0))
    with contextlib.suppress(OSError):
        os.read(0, 1)
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode())
