"""The flags: one for each setting, which the environment and a file can give as well."""

from dataclasses import asdict, dataclass
from typing import Annotated

from cyclopts import Parameter

from segmentd.config import Configuration, described, load, variable


def setting(name: str) -> Parameter:
    """The flag of a setting, with its meaning and default."""
    _, name_there, default, meaning = next(row for row in described() if row[1] == variable(name))
    return Parameter(help=f"{meaning} [{name_there}{f'; {default}' if default else ''}]")


@dataclass(frozen=True)
class Flags:
    """What was given on the command line; None: nothing."""

    host: Annotated[str | None, setting("host")] = None
    port: Annotated[str | None, setting("port")] = None
    grpc_port: Annotated[str | None, setting("grpc_port")] = None
    workers: Annotated[str | None, setting("workers")] = None
    data_dir: Annotated[str | None, setting("data_dir")] = None
    database_url: Annotated[str | None, setting("database_url")] = None
    pool_size: Annotated[str | None, setting("pool_size")] = None
    max_age_seconds: Annotated[str | None, setting("max_age_seconds")] = None
    serve_stale: Annotated[bool | None, setting("serve_stale")] = None
    shutdown_seconds: Annotated[str | None, setting("shutdown_seconds")] = None
    report_store: Annotated[str | None, setting("report_store")] = None
    report_days: Annotated[str | None, setting("report_days")] = None
    report_key: Annotated[str | None, setting("report_key")] = None
    log_level: Annotated[str | None, setting("log_level")] = None
    config: Annotated[str | None, Parameter(help="A TOML file with settings. [SEGMENTD_CONFIG]")] = None

    def loaded(self) -> Configuration:
        """The settings in force. Raises ConfigurationError."""
        return load(asdict(self))
