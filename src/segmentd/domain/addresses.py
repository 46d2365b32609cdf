"""The address of this service as clients see it, and the proxies whose headers about it are trusted."""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LAST_PORT: Final = 65535
_PREFIX: Final = r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*"
_PUBLIC_URL: Final = re.compile(
    rf"(https?)://([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{{1,5}})?({_PREFIX})/?"
)


class Address(NamedTuple):
    """What a client puts before `/api/v1`; `host` has the port too, and `prefix` is empty or `/a/path`."""

    scheme: str
    host: str
    prefix: str

    @property
    def url(self) -> str:
        """As one URL, without a slash at the end."""
        return f"{self.scheme}://{self.host}{self.prefix}"


def public_address(url: str) -> Address:
    """The address of a setting, `https://host:port/path`. Raises ValueError."""
    match = _PUBLIC_URL.fullmatch(url)
    if match is None or int((match[3] or ":0")[1:]) > _LAST_PORT or not is_prefix(match[4]):
        raise ValueError("write it like https://host, with a port and a path where there are such")
    urlsplit(url)  # raises ValueError if it is no IPv6 address
    return Address(match[1], match[2] + (match[3] or ""), match[4])


def is_prefix(path: str) -> bool:
    """Whether a path may stand before those of this service."""
    return re.fullmatch(_PREFIX, path) is not None and not {".", ".."} & {*path.split("/")}


def networks(text: str) -> Sequence[Network]:
    """`127.0.0.0/8, ::1` as networks; `none` is no network at all. Raises ValueError."""
    if text.strip().lower() == "none":
        return []
    return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]


def is_steady(host: str) -> bool:
    """Whether the host is an address or `localhost`, so that nobody can point the name elsewhere."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
