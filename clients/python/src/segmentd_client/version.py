"""The version of the client."""

from typing import Final

VERSION: Final = "0.1.0"
