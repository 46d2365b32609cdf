"""Where the gRPC door listens, with TLS or without."""

from pathlib import Path
from typing import TYPE_CHECKING

from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed

if TYPE_CHECKING:
    import grpc


def listen(server: "grpc.aio.Server", address: str, settings: Settings) -> int:
    """Gives the server an address and returns the port. Raises StartupFailed."""
    pair = key_and_chain(settings)
    if pair is None:
        return server.add_insecure_port(address)
    import grpc  # noqa: PLC0415 - the supervisor looks at the files alone

    return server.add_secure_port(address, grpc.ssl_server_credentials([pair]))


def key_and_chain(settings: Settings) -> tuple[bytes, bytes] | None:
    """The key and the certificates of the settings; None without. Raises StartupFailed."""
    if settings.grpc_tls_cert is None and settings.grpc_tls_key is None:
        return None
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        raise StartupFailed("grpc_tls_cert and grpc_tls_key need each other")
    try:
        return Path(settings.grpc_tls_key).read_bytes(), Path(settings.grpc_tls_cert).read_bytes()
    except OSError as error:
        raise StartupFailed(f"cannot read {error.filename}: {error.strerror}") from None
