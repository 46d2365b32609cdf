"""URLs of databases: which ones are understood, and how they are shown.

libpq takes everything before the first `@` as the login. If a password has a raw `@` or `/` in it, a part of
it becomes the host, the port or the database, and error messages would show that part. So such a URL is
refused.
"""

import re
from typing import Final
from urllib.parse import unquote

from segmentd.domain.errors import StartupFailed

HIDDEN: Final = "***"

_MALFORMED: Final = (
    "the database URL is malformed; it looks like postgresql://USER:PASSWORD@HOST:PORT/DATABASE,"
    " with %40 for @, %2F for /, %3A for : and %25 for % in the password"
)
_URL: Final = re.compile(
    r"(?P<scheme>postgres(?:ql)?://)"
    r"(?:(?P<user>[^:@/]*)(?P<password>:[^@/]*)?@)?"
    r"(?P<place>[^@?]*)"
    r"(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HIGHEST_PORT: Final = 65_535
# The parameters whose values are never secret. `options` is not among them: it can set anything.
_SHOWN: Final = frozenset({
    "application_name", "channel_binding", "connect_timeout", "dbname", "gssencmode", "host", "hostaddr",
    "load_balance_hosts", "passfile", "port", "service", "sslcert", "sslkey", "sslmode", "sslnegotiation",
    "sslrootcert", "target_session_attrs", "user",
})  # fmt: skip
# The beginning of what may be, or may hold, a connection string with its secret.
_SUSPICIOUS: Final = re.compile(
    r"postgres(?:ql)?:/|[a-z][a-z0-9+.-]*://[^\s/]*@|pass(?:word)?\s*=", re.IGNORECASE
)


def check_url(url: str) -> None:
    """Raises StartupFailed, without a part of the URL, if it is malformed or can be read in two ways."""
    import psycopg  # noqa: PLC0415 - a start reads the settings first of all, and most have no URL
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    try:
        parameters = conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its message would quote the URL, or a piece of it
        raise StartupFailed(_MALFORMED) from None
    is_url = re.match(r"postgres(ql)?://", url)
    hosts = str(parameters.get("host") or "").split(",")
    ports = str(parameters.get("port") or "").split(",")
    if (
        (is_url and not _URL.fullmatch(url))
        or "\0" in url
        # A host that begins with @ is a socket in Linux' abstract namespace.
        or any("@" in host[1:] for host in hosts)
        or not all(_is_port(port) for port in ports)
    ):
        raise StartupFailed(_MALFORMED)


def shown(url: str) -> str:
    """The URL with its secrets hidden; all of it is hidden if one cannot tell which part is secret."""
    try:
        check_url(url)
    except StartupFailed:
        return HIDDEN
    found = _URL.fullmatch(url)
    if found is None:  # key=value pairs
        return HIDDEN
    login = ""
    if found["user"] is not None:
        login = f"{found['user']}{f':{HIDDEN}' if found['password'] else ''}@"
    query = "" if found["query"] is None else "?" + "&".join(map(_shown_pair, found["query"].split("&")))
    return f"{found['scheme']}{login}{found['place']}{query}"


def redacted(text: str) -> str:
    """The text, cut off where a possible connection string with a secret begins."""
    found = _SUSPICIOUS.search(text)
    return text if found is None else text[: found.start()] + HIDDEN


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdecimal() and 1 <= int(text) <= _HIGHEST_PORT)


def _shown_pair(pair: str) -> str:
    key, _, value = pair.partition("=")
    harmless = unquote(key).lower() in _SHOWN and "@" not in unquote(value)
    return pair if harmless else f"{key}={HIDDEN}"
