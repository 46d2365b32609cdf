"""Tokens in the keyring of the system, one for each address of a service. It needs the extra `keyring`."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

from segctl.failures import CommandFailed, WrongUse

_NAME: Final = "segmentd"


def has_keyring() -> bool:
    """Whether the extra is installed and the system has a keyring."""
    if find_spec("keyring") is None:
        return False
    import keyring  # noqa: PLC0415 - it may be missing, and loads slowly
    from keyring.backends.fail import Keyring  # noqa: PLC0415

    return not isinstance(keyring.get_keyring(), Keyring)


def stored(address: str) -> str | None:
    """The token for an address; None without one or without a keyring. Raises CommandFailed."""
    if not has_keyring():
        return None
    import keyring  # noqa: PLC0415

    with _refusals_in_words():
        return keyring.get_password(_NAME, address)


def store(address: str, token: str) -> None:
    """Keeps the token for an address, in place of the one before. Raises CommandFailed."""
    import keyring  # noqa: PLC0415

    with _refusals_in_words():
        keyring.set_password(_NAME, address, token)


def forget(address: str) -> None:
    """Removes the token for an address. Raises CommandFailed, as where there is none."""
    import keyring  # noqa: PLC0415

    with _refusals_in_words():
        keyring.delete_password(_NAME, address)


def check() -> None:
    """Raises WrongUse without a keyring."""
    if find_spec("keyring") is None:
        raise WrongUse("keyring is missing: install segmentd-client[keyring]")
    if not has_keyring():
        raise WrongUse("this system has no keyring: use SEGMENTD_TOKEN or --token-file")


@contextmanager
def _refusals_in_words() -> Iterator[None]:
    from keyring.errors import KeyringError  # noqa: PLC0415

    try:
        yield
    except KeyringError as error:
        raise CommandFailed(f"the keyring refuses: {str(error) or type(error).__name__}") from None
