"""Startup check of the settings about other nodes; it imports nothing that most commands do not need."""

from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed


def check_neighbour(settings: Settings) -> None:
    """Raises StartupFailed if they exclude each other."""
    if settings.follow is not None and settings.database_url is not None:
        raise StartupFailed("a node either follows another one or has a database: set follow or database_url")
    if settings.follow is not None and settings.copy_from is not None:
        raise StartupFailed("a node that follows another one copies from it: leave copy_from out")
