"""Which service the commands ask, and as whom: flags, then the environment, then a profile."""

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from cyclopts import Parameter
from platformdirs import user_config_path

from segctl.command_line import reader_went_away
from segctl.failures import CommandFailed, WrongUse
from segctl.stored_tokens import stored
from segmentd_client import Client, ClientError, errors
from segmentd_client.options import DEFAULT_SERVER

Form = Literal["table", "json", "ndjson", "csv"]

PROFILES: Final = "profiles.toml"


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file of profiles."""

    server: str | None = None
    token_file: str | None = None


@dataclass(frozen=True)
class Connection:
    """What every command takes."""

    server: Annotated[
        str | None, Parameter(help=f"The address of the service. [SEGMENTD_SERVER; {DEFAULT_SERVER}]")
    ] = None
    token_file: Annotated[
        Path | None, Parameter(help="A file with the token; SEGMENTD_TOKEN is the token itself.")
    ] = None
    profile: Annotated[
        str | None, Parameter(help=f"A table of {PROFILES} in the user's configuration. [SEGMENTD_PROFILE]")
    ] = None
    output: Annotated[Form | None, Parameter(help="table on a terminal, json otherwise; or ndjson, csv.")] = (
        None
    )

    def address(self) -> str:
        """The address of the service. Raises WrongUse."""
        of_profile = self._profile().server  # read in any case: a wrong --profile is never ignored
        server = self.server or os.environ.get("SEGMENTD_SERVER") or of_profile or DEFAULT_SERVER
        return server.rstrip("/")

    @contextmanager
    def opened(self, token: str | None = None) -> Iterator[Client]:
        """A client, with the token that is configured unless given. Raises CommandFailed.

        Every failure of the client becomes one line, with what to do.
        """
        try:
            with Client(self.address(), token=token or self._token()) as client:
                yield client
        except ClientError as error:
            raise CommandFailed(_words(error)) from None
        except ValueError as error:
            raise WrongUse(str(error)) from None
        except BrokenPipeError:
            reader_went_away()
            raise CommandFailed("") from None
        except KeyboardInterrupt:
            raise CommandFailed("stopped") from None

    def _token(self) -> str | None:
        if self.token_file is None and (token := os.environ.get("SEGMENTD_TOKEN")):
            return token
        named = self._profile().token_file
        path = self.token_file or (Path(named).expanduser() if named else None)
        if path is None:
            return stored(self.address())
        try:
            return path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise WrongUse(f"cannot read the token of {path}: {error}") from None

    def _profile(self) -> Profile:
        path = user_config_path("segmentd") / PROFILES
        asked = self.profile or os.environ.get("SEGMENTD_PROFILE")
        try:
            profiles = msgspec.convert(tomllib.loads(path.read_text("utf-8")), dict[str, Profile])
        except FileNotFoundError:
            profiles = {}
        except (OSError, ValueError) as error:
            raise WrongUse(f"cannot read the profiles of {path}: {error}") from None
        if asked is not None and asked not in profiles:
            raise WrongUse(f"{path} has no profile {asked}")
        return profiles.get(asked or "default", Profile())


USUAL: Final = Connection()
"""A command line without flags."""

Where = Annotated[Connection, Parameter(name="*")]


def _words(error: ClientError) -> str:
    match error:
        case errors.Unauthenticated():
            return f"{error} Set SEGMENTD_TOKEN, or name a file with --token-file."
        case errors.Forbidden():
            return f"{error} Ask an administrator for a token with that role."
        case errors.NotSent():
            return f"{error}. Is it running, and is --server right?"
        case _:
            return str(error)
