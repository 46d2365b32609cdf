"""What computes the segments of one user: compiled C where the installation could compile it, else NumPy.

Both have the same answers for every user and state, and raise ValueError for a state that is torn.
"""

from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple, Protocol, Self

from segmentd.domain.decisions import Decision
from segmentd.storage.replication import ReplicatedSegment


class Kernel(Protocol):
    """Computes with the living segments of one version; not safe for several threads.

    A state has a user's overrides (states.py); `now` is in microseconds since 1970; user ids are positive.
    """

    def codes(self, user_id: int, state: bytes | None, now: int, /) -> bytes:
        """The number of the decision about the user and each segment, by rank."""

    def join(self, user_id: int, state: bytes | None, now: int, before: bytes, after: bytes, /) -> bytes:
        """The pieces of the segments that the user is in, by rank, between `before` and `after`."""

    def join_many(self, user_ids: Sequence[int], states: Sequence[bytes | None], now: int) -> list[bytes]:
        """`join` for several users, with nothing before or after."""


class Kernels(Protocol):
    """Makes kernels that share what depends on the segments alone."""

    name: ClassVar[str]

    def __init__(self, plan: "Plan") -> None: ...

    def kernel(self, pieces: Sequence[bytes], separator: bytes) -> Kernel:
        """One that joins these pieces, by rank, with a separator between two."""


class Plan(NamedTuple):
    """The living segments as kernels need them, by rank: a segment's place among all, sorted by slug."""

    ids: Sequence[int]
    undecided: bytes
    """The decisions about a user whom no rollout covers, and who has no overrides."""
    rollout_ranks: Sequence[int]
    """Of the segments with a percentage above 0."""
    salts: Sequence[int]
    thresholds: Sequence[int]

    @classmethod
    def of(cls, ranked: Sequence[ReplicatedSegment]) -> Self:
        rolled_out = [(rank, s.salt, s.threshold) for rank, s in enumerate(ranked) if s.threshold]
        return cls(
            [segment.id for segment in ranked],
            bytes(Decision.NONE if s.threshold is None else Decision.UNCOVERED for s in ranked),
            [rank for rank, _, _ in rolled_out],
            [salt for _, salt, _ in rolled_out],
            [threshold for _, _, threshold in rolled_out],
        )


def _best() -> type[Kernels]:
    try:
        from segmentd.replica.compiled_kernel import CompiledKernels  # noqa: PLC0415 - it may be missing
    except ImportError:
        from segmentd.replica.numpy_kernel import NumpyKernels  # noqa: PLC0415 - else numexpr is not needed

        return NumpyKernels
    return CompiledKernels


BEST: Final = _best()
"""Those that this installation computes with."""
