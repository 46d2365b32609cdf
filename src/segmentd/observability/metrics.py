"""Stub until the merge."""


class Tally:
    def add(self, nanoseconds: int) -> None: ...


class Metrics:
    def __init__(self) -> None:
        self.hot_reads = Tally()
        self.hot_lookups = Tally()

    def in_progress(self, change: int) -> None: ...

    def refused(self, reason: str) -> None: ...

    def answered(self, method: str, route: str, status: int, seconds: float) -> None: ...
