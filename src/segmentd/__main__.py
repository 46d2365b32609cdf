"""The command `segmentd`, also as `python -m segmentd`."""

import gc
import sys

from segmentd.serve.fork_server import ForkServer


def main() -> None:
    """Runs the command. What `segmentd serve` forks its processes of begins first, and imports meanwhile."""
    if sys.argv[1:2] == ["serve"] and not {"--help", "-h"} & {*sys.argv}:
        ForkServer.of("serve")
    gc.disable()
    try:
        from segmentd.cli import main as command  # noqa: PLC0415 - after the above

        gc.enable()
        command()
    finally:
        ForkServer.end()


if __name__ == "__main__":
    main()
