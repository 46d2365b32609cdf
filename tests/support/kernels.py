"""The kernels that this installation has, and states as SQL packs them."""

import struct
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Final, NamedTuple

import pytest

from segmentd.replica.kernel import BEST, Kernels
from segmentd.replica.numpy_kernel import NumpyKernels
from segmentd.replica.states import EXCLUDED, HAS_TERM

IS_COMPILED: Final = find_spec("segmentd.replica._kernel") is not None
KERNELS: Final[list[type[Kernels]]] = [NumpyKernels, *([BEST] if IS_COMPILED else [])]
needs_compiled: Final = pytest.mark.skipif(not IS_COMPILED, reason="there was no C compiler")


class Override(NamedTuple):
    """Of a user and a segment; `end` is in microseconds since 1970."""

    segment_id: int
    included: bool = True
    end: int | None = None


def state_of(overrides: Iterable[Override], version: int = 7) -> bytes:
    """The state of a user with these overrides."""
    given = [*overrides]
    words = [
        each.segment_id + (0 if each.included else EXCLUDED) + (0 if each.end is None else HAS_TERM)
        for each in given
    ]
    ends = [each.end for each in given if each.end is not None]
    return struct.pack(f">Q{len(words)}I{len(ends)}q", (version << 20) + len(words), *words, *ends)
