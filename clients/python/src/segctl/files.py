"""Where the bytes of an export or a report go."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile

from segctl.failures import CommandFailed


def write(pieces: Iterable[bytes], to: Path | None) -> None:
    """Writes to standard output, or to a file, which is there only when it is whole. Raises CommandFailed."""
    if to is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    try:
        _write_file(pieces, to)
    except OSError as error:
        raise CommandFailed(f"cannot write {to}: {error.strerror}") from None


def _write_file(pieces: Iterable[bytes], to: Path) -> None:
    with NamedTemporaryFile(dir=to.parent, prefix=f".{to.name}.", delete=False) as file:
        try:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(to)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
