"""What operators see: logs, metrics, traces."""

import os
from typing import Final

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""From this variable prometheus_client takes the folder of its metric files."""


def measure_into(folder: str | None) -> None:
    """From now on this process measures into files of the folder, or into none."""
    from prometheus_client import values  # noqa: PLC0415 - the supervisor measures nothing

    for name in [name for name in os.environ if name.upper() == FOLDER_VARIABLE]:
        del os.environ[name]
    if folder is not None:
        os.environ[FOLDER_VARIABLE] = folder
    # The library chooses when it is imported, and that may be long ago.
    vars(values)["ValueClass"] = values.get_value_class()
