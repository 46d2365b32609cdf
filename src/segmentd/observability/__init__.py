"""What operators see: logs, metrics, traces."""

from typing import Final

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""What prometheus_client learns of the folder of metrics by, when it is first imported."""
