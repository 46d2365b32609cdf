"""What operators see: logs, metrics, traces."""

from typing import Final

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""From this variable prometheus_client takes the folder of its metric files, when it is first imported."""
