"""Where the gRPC door listens, with TLS or without."""

from pathlib import Path

import grpc

from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed


def listen(server: grpc.aio.Server, address: str, settings: Settings) -> int:
    """Gives the server an address and returns the port. Raises StartupFailed."""
    credentials = credentials_of(settings)
    if credentials is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, credentials)


def credentials_of(settings: Settings) -> grpc.ServerCredentials | None:
    """The certificate and key of the settings; None without. Raises StartupFailed."""
    if settings.grpc_tls_cert is None and settings.grpc_tls_key is None:
        return None
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        raise StartupFailed("grpc_tls_cert and grpc_tls_key need each other")
    try:
        key, chain = Path(settings.grpc_tls_key).read_bytes(), Path(settings.grpc_tls_cert).read_bytes()
    except OSError as error:
        raise StartupFailed(f"cannot read {error.filename}: {error.strerror}") from None
    return grpc.ssl_server_credentials([(key, chain)])
