"""`segmentd login` and `segmentd logout`."""

import sys
from contextlib import suppress
from getpass import getpass

from segctl import stored_tokens
from segctl.connection import USUAL, Where
from segctl.failures import WrongUse
from segctl.output import say
from segmentd_client import errors


def login(*, where: Where = USUAL) -> None:
    """Keep a token in the system's keyring; it is asked for, or read from standard input."""
    stored_tokens.check()
    try:
        token = getpass("Token: ") if sys.stdin.isatty() else sys.stdin.readline().strip()
    except (EOFError, KeyboardInterrupt):
        token = ""
    if not token:
        raise WrongUse("there is no token to keep")
    with where.opened(token) as client, suppress(errors.Forbidden):  # it may be good for other calls
        client.segments.page(limit=1)
    stored_tokens.store(where.address(), token)
    say(f"the token for {where.address()} is in the keyring")


def logout(*, where: Where = USUAL) -> None:
    """Remove a token from the system's keyring."""
    stored_tokens.check()
    stored_tokens.forget(where.address())
    say(f"the token for {where.address()} is no longer in the keyring")
