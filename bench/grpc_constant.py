"""A gRPC server with no work: grpcio on uvloop, a constant answer. `python -m bench.grpc_constant HEX`."""

import asyncio
import sys

import grpc
import uvloop

METHOD = "/segmentd.v1.Memberships/ListUserSegments"


async def serve(body: bytes) -> None:
    """Serves on a free port, which it prints, until standard input ends."""

    async def answer(_request: bytes, _context: object) -> bytes:
        return body

    server = grpc.aio.server()
    service, name = METHOD[1:].split("/")
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(serve(bytes.fromhex(sys.argv[1])))
