"""A clock for time budgets that must end at a known moment."""


class Clock:
    """A clock that jumps one second each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now
