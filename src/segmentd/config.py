"""Settings and their sources: flags, environment variables, a TOML file, and the defaults."""

import os
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from segmentd.domain.addresses import networks, public_address
from segmentd.domain.reports import MOST_DAYS
from segmentd.storage.database_url import HIDDEN, redacted, shown

Port = Annotated[int, Meta(ge=0, le=65535)]

SHORTEST_SECRET: Final = 32
Secret = Annotated[str, Meta(min_length=SHORTEST_SECRET)]


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings. Each field is also a flag and an environment variable SEGMENTD_*."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port of HTTP; 0 takes any free one.")] = 8080
    grpc_port: Annotated[Port, Meta(description="Port of gRPC; 0 is none.")] = 8081
    grpc_tls_cert: Annotated[
        str | None, Meta(description="Certificate chain of gRPC, a file in PEM; without it gRPC has no TLS.")
    ] = None
    grpc_tls_key: Annotated[str | None, Meta(description="Its private key, a file in PEM.")] = None
    workers: Annotated[
        int, Meta(ge=0, le=256, description="HTTP processes; 0 is one for each core that it may use.")
    ] = 0
    data_dir: Annotated[str, Meta(min_length=1, description="Folder of everything that this node keeps.")] = (
        "data"
    )
    database_url: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="A PostgreSQL to use (15 or newer); without it an embedded one is run."),
    ] = None
    follow: Annotated[
        str | None,
        Meta(description="URL of another node: answer reads from a copy of its replica, without a database."),
    ] = None
    copy_from: Annotated[
        str | None,
        Meta(description="URL of another node: the first copy of the replica comes from there."),
    ] = None
    neighbour_token: Annotated[
        Secret | None, Meta(description="The admin token for the node of follow or copy_from.")
    ] = None
    neighbour_token_file: Annotated[
        str | None, Meta(description="The same in a file, which may be replaced at any time.")
    ] = None
    pool_size: Annotated[
        int, Meta(ge=1, le=1000, description="Database connections of each process, at most.")
    ] = 10
    max_age_seconds: Annotated[
        float, Meta(gt=0, le=60, description="How old an answer from the node's replica may be.")
    ] = 50.0
    serve_stale: Annotated[
        bool, Meta(description="Answer from an older replica, with its age, while the database is away.")
    ] = False
    insecure_open: Annotated[
        bool, Meta(description="Serve other machines too while there is no access control.")
    ] = False
    admin_token: Annotated[
        Secret | None,
        Meta(description="The secret of a token named admin that is made at the start."),
    ] = None
    admin_token_file: Annotated[
        str | None,
        Meta(description="Where the first start leaves the admin token that it makes, if there is no token."),
    ] = None
    jwt_key: Annotated[
        Secret | None,
        Meta(description="Verifies JWTs: a public key in PEM, or the secret of HS256."),
    ] = None
    jwt_jwks_file: Annotated[
        str | None,
        Meta(description="Verifies JWTs: a file with a JSON Web Key Set, read again when it changes."),
    ] = None
    jwt_issuer: Annotated[str | None, Meta(description="The issuer (iss) that JWTs must name.")] = None
    jwt_audience: Annotated[str | None, Meta(description="The audience (aud) that JWTs must name.")] = None
    jwt_leeway_seconds: Annotated[
        float, Meta(ge=0, le=600, description="How far the clock of the issuer of JWTs may be off.")
    ] = 30.0
    jwt_role_claim: Annotated[
        str, Meta(min_length=1, description="The claim of JWTs with the role, or with a list of roles.")
    ] = "role"
    rate_limit: Annotated[
        float, Meta(ge=0, le=1e6, description="Requests a second of each caller on this node; 0 is no limit.")
    ] = 0.0
    max_requests: Annotated[
        int, Meta(ge=1, le=100_000, description="Requests that each HTTP process works on at once.")
    ] = 512
    max_connections: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Connections of clients to each HTTP process.")
    ] = 10_000
    max_streams: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Streams, and requests that wait for the feed, in each process of HTTP and gRPC.",
        ),
    ] = 5_000
    max_unsent_bytes: Annotated[
        int,
        Meta(
            ge=2**20,
            le=2**40,
            description="Bytes in the send buffers of each HTTP process, at most; beyond, 503.",
        ),
    ] = 67_108_864
    max_header_bytes: Annotated[
        int, Meta(ge=1024, le=2**20, description="Size of a request's line and headers together, at most.")
    ] = 32_768
    request_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="Time until an answer begins, at most.")
    ] = 70.0
    receive_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="Time in which a request must be received whole.")
    ] = 20.0
    send_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="Time over which the rate of a slow reader is averaged.")
    ] = 30.0
    least_bytes_per_second: Annotated[
        float,
        Meta(
            ge=0, le=1e9, description="Least rate at which a client must read an answer, or send an import."
        ),
    ] = 1024.0
    keep_alive_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="Time for which a connection may be idle.")
    ] = 75.0
    unready_seconds: Annotated[
        float, Meta(ge=0, le=3600, description="Time with /readyz 503 before the stop, on SIGTERM.")
    ] = 1.0
    shutdown_seconds: Annotated[
        float, Meta(ge=0, le=3600, description="Time for running requests at a stop.")
    ] = 4.0
    public_url: Annotated[
        str | None,
        Meta(description="Where clients find the service, https://host[:port][/path]; else as they call it."),
    ] = None
    trusted_proxies: Annotated[
        str,
        Meta(description="Networks of proxies whose X-Forwarded-Proto, -Host, -Prefix count, or none."),
    ] = "127.0.0.0/8,::1"
    cors_origins: Annotated[
        str | None, Meta(description="Origins whose pages may call, separated by commas; * is all.")
    ] = None
    metrics: Annotated[bool, Meta(description="Measure requests and serve /metrics.")] = True
    console: Annotated[bool, Meta(description="Serve the console, pages for people, at /console/.")] = True
    report_store: Annotated[
        str | None,
        Meta(description="Where report files are, such as s3://bucket/reports; else in data_dir."),
    ] = None
    report_store_bytes: Annotated[
        int, Meta(ge=0, description="Bytes of the files of all reports together, at most; 0 is no limit.")
    ] = 10 * 2**30
    reports_per_caller: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Reports of a caller that are not done, at most; of all callers, ten times as many.",
        ),
    ] = 100
    report_days: Annotated[float, Meta(gt=0, le=MOST_DAYS, description="How long a report's link works.")] = (
        7.0
    )
    report_key: Annotated[
        Secret | None,
        Meta(description="Signs the links of reports; else a key in the database does."),
    ] = None
    report_key_before: Annotated[
        Secret | None,
        Meta(description="The report_key before this one: its links still work."),
    ] = None
    import_store_bytes: Annotated[
        int, Meta(ge=0, description="Bytes of the rows of all imports together, at most; 0 is no limit.")
    ] = 20 * 2**30
    imports_per_caller: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Imports of a caller that are not done, at most; of all callers, ten times as many.",
        ),
    ] = 10
    history_months: Annotated[
        int,
        Meta(ge=0, le=1200, description="Months for which the history is kept, at least; 0 is for ever."),
    ] = 0
    exports_at_once: Annotated[
        int, Meta(ge=1, le=100, description="Exports that each HTTP process sends at once.")
    ] = 2
    export_seconds: Annotated[
        float, Meta(gt=0, le=86_400, description="Time for an export, at most; it keeps a snapshot.")
    ] = 1800.0
    log_level: Annotated[
        typing.Literal["debug", "info", "warning", "error"],
        Meta(description="The lowest level of log lines."),
    ] = "info"


SECRETS: Final = frozenset(
    {"database_url", "report_key", "report_key_before", "admin_token", "jwt_key", "neighbour_token"}
)
# Settings with a syntax of their own, and their parsers, which raise ValueError.
_READERS: Final[Mapping[str, Callable[[str], object]]] = {
    "public_url": public_address,
    "follow": public_address,
    "copy_from": public_address,
    "trusted_proxies": networks,
}
PREFIX: Final = "SEGMENTD_"


class ConfigurationError(Exception):
    """A setting is not acceptable; the message is one line: which setting, from where, and why."""


class Configuration(NamedTuple):
    """The settings in force, and the source of each."""

    settings: Settings
    sources: Mapping[str, str]

    def shown(self) -> Iterator[tuple[str, str, str]]:
        """Name, value with secrets hidden, and source of each setting."""
        for name in Settings.__struct_fields__:
            value = getattr(self.settings, name)
            yield name, hidden(name, value), self.sources[name]


def load(flags: Mapping[str, object], environment: Mapping[str, str] = os.environ) -> Configuration:
    """The settings: a flag takes precedence over the environment, and that over the file of SEGMENTD_CONFIG.

    DATABASE_URL is used if no source sets database_url. Raises ConfigurationError.
    """
    values: dict[str, object] = {}
    sources = dict.fromkeys(Settings.__struct_fields__, "default")

    def take(name: str, value: object, source: str) -> None:
        values[name] = _converted(name, value, source)
        sources[name] = source

    if url := environment.get("DATABASE_URL"):
        take("database_url", url, "DATABASE_URL")
    config = flags.get("config") or environment.get(f"{PREFIX}CONFIG")
    if config:
        for name, value in _read_file(Path(str(config))).items():
            take(name, value, str(config))
    for name in Settings.__struct_fields__:
        # Compose files pass unset variables as empty ones.
        if environment.get(variable(name)):
            take(name, environment[variable(name)], variable(name))
        if flags.get(name) is not None:
            take(name, flags[name], f"--{name.replace('_', '-')}")
    return Configuration(msgspec.convert(values, Settings), sources)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def hidden(name: str, value: object) -> str:
    """A value that may be shown: without passwords and keys."""
    if value is None:
        return "-"
    if name not in SECRETS:
        # A store's URL may hold its keys, and a secret may have been pasted into the wrong setting.
        text = str(value)
        if name == "report_store" and {*"@?"} & {*text}:
            return f"{text.partition(':')[0]}:{HIDDEN}"
        return redacted(text)
    return shown(str(value)) if name == "database_url" else HIDDEN


def described() -> Iterator[tuple[str, str, str, str]]:
    """Flag, environment variable, default and description of each setting: the README's table."""
    for field in msgspec.structs.fields(Settings):
        default = "" if field.default is None else _written(field.default)
        yield (
            f"--{field.name.replace('_', '-')}",
            variable(field.name),
            default,
            _description(field.type),
        )


def _written(value: object) -> str:
    """The value as it is written in the environment or in TOML."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_file(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error}") from None


def _converted(name: str, value: object, source: str) -> object:
    field = next((field for field in msgspec.structs.fields(Settings) if field.name == name), None)
    if field is None:
        raise ConfigurationError(f"{source}: there is no setting named {name}")
    try:
        converted: object = msgspec.convert(value, field.type, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{source}: {hidden(name, value)!r} is not acceptable: {error}") from None
    if isinstance(converted, str) and name in _READERS:
        try:
            _READERS[name](converted)
        except ValueError as error:
            # Without the value: it may be a password.
            raise ConfigurationError(f"{source}: {name} is not acceptable: {error}") from None
    return converted


def _description(annotation: object) -> str:
    for part in (annotation, *typing.get_args(annotation)):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, Meta) and meta.description:
                return meta.description
    return ""
