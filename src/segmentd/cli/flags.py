"""The flags: one for each setting, which the environment and a file can give as well."""

from dataclasses import asdict, dataclass
from typing import Annotated, Final

from cyclopts import Parameter

from segmentd.config import Configuration, described, load, variable


def setting(name: str) -> Parameter:
    """The flag of a setting, with its meaning and default."""
    _, name_there, default, meaning = next(row for row in described() if row[1] == variable(name))
    return Parameter(help=f"{meaning} [{name_there}{f'; {default}' if default else ''}]")


@dataclass(frozen=True)
class Flags:
    """The flags of the command line; None: the flag is not given."""

    host: Annotated[str | None, setting("host")] = None
    port: Annotated[str | None, setting("port")] = None
    grpc_port: Annotated[str | None, setting("grpc_port")] = None
    grpc_tls_cert: Annotated[str | None, setting("grpc_tls_cert")] = None
    grpc_tls_key: Annotated[str | None, setting("grpc_tls_key")] = None
    workers: Annotated[str | None, setting("workers")] = None
    data_dir: Annotated[str | None, setting("data_dir")] = None
    database_url: Annotated[str | None, setting("database_url")] = None
    follow: Annotated[str | None, setting("follow")] = None
    copy_from: Annotated[str | None, setting("copy_from")] = None
    neighbour_token: Annotated[str | None, setting("neighbour_token")] = None
    neighbour_token_file: Annotated[str | None, setting("neighbour_token_file")] = None
    pool_size: Annotated[str | None, setting("pool_size")] = None
    max_age_seconds: Annotated[str | None, setting("max_age_seconds")] = None
    serve_stale: Annotated[bool | None, setting("serve_stale")] = None
    insecure_open: Annotated[bool | None, setting("insecure_open")] = None
    admin_token: Annotated[str | None, setting("admin_token")] = None
    admin_token_file: Annotated[str | None, setting("admin_token_file")] = None
    jwt_key: Annotated[str | None, setting("jwt_key")] = None
    jwt_jwks_file: Annotated[str | None, setting("jwt_jwks_file")] = None
    jwt_issuer: Annotated[str | None, setting("jwt_issuer")] = None
    jwt_audience: Annotated[str | None, setting("jwt_audience")] = None
    jwt_leeway_seconds: Annotated[str | None, setting("jwt_leeway_seconds")] = None
    jwt_role_claim: Annotated[str | None, setting("jwt_role_claim")] = None
    rate_limit: Annotated[str | None, setting("rate_limit")] = None
    max_requests: Annotated[str | None, setting("max_requests")] = None
    max_connections: Annotated[str | None, setting("max_connections")] = None
    max_streams: Annotated[str | None, setting("max_streams")] = None
    max_unsent_bytes: Annotated[str | None, setting("max_unsent_bytes")] = None
    max_header_bytes: Annotated[str | None, setting("max_header_bytes")] = None
    request_seconds: Annotated[str | None, setting("request_seconds")] = None
    receive_seconds: Annotated[str | None, setting("receive_seconds")] = None
    send_seconds: Annotated[str | None, setting("send_seconds")] = None
    least_bytes_per_second: Annotated[str | None, setting("least_bytes_per_second")] = None
    keep_alive_seconds: Annotated[str | None, setting("keep_alive_seconds")] = None
    unready_seconds: Annotated[str | None, setting("unready_seconds")] = None
    shutdown_seconds: Annotated[str | None, setting("shutdown_seconds")] = None
    public_url: Annotated[str | None, setting("public_url")] = None
    trusted_proxies: Annotated[str | None, setting("trusted_proxies")] = None
    cors_origins: Annotated[str | None, setting("cors_origins")] = None
    metrics: Annotated[bool | None, setting("metrics")] = None
    console: Annotated[bool | None, setting("console")] = None
    report_store: Annotated[str | None, setting("report_store")] = None
    report_store_bytes: Annotated[str | None, setting("report_store_bytes")] = None
    reports_per_caller: Annotated[str | None, setting("reports_per_caller")] = None
    report_days: Annotated[str | None, setting("report_days")] = None
    report_key: Annotated[str | None, setting("report_key")] = None
    report_key_before: Annotated[str | None, setting("report_key_before")] = None
    import_store_bytes: Annotated[str | None, setting("import_store_bytes")] = None
    imports_per_caller: Annotated[str | None, setting("imports_per_caller")] = None
    history_months: Annotated[str | None, setting("history_months")] = None
    exports_at_once: Annotated[str | None, setting("exports_at_once")] = None
    export_seconds: Annotated[str | None, setting("export_seconds")] = None
    log_level: Annotated[str | None, setting("log_level")] = None
    config: Annotated[str | None, Parameter(help="A TOML file with settings. [SEGMENTD_CONFIG]")] = None

    def loaded(self) -> Configuration:
        """The settings in force. Raises ConfigurationError."""
        return load(asdict(self))


NO_FLAGS: Final = Flags()
"""A command line without flags."""
