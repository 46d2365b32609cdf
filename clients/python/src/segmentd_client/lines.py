"""Lines of a stream that comes in pieces."""

from collections.abc import Iterator


class Lines:
    """Cuts pieces into lines; what is left of the last line waits for the next piece.

    Every line of the service ends with a line feed, so nothing is left at the end of a whole stream.
    """

    def __init__(self) -> None:
        self._rest = b""

    def of(self, piece: bytes) -> Iterator[bytes]:
        """The lines that end in this piece."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        yield from filter(None, whole)
