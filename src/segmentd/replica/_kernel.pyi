from typing import Self

# What is written in C of compiled_kernel.CompiledKernel.
class Kernel:
    def __new__(
        cls,
        undecided: bytes,
        ids: bytes,
        rank_of_id: bytes,
        rollouts: bytes,
        rank_of_rollout: bytes,
        pieces: bytes,
        ends: bytes,
        separator: int,
        /,
    ) -> Self: ...
    def codes(self, user_id: int, state: bytes | None, now: int, /) -> bytes: ...
    def join(self, user_id: int, state: bytes | None, now: int, before: bytes, after: bytes, /) -> bytes: ...
