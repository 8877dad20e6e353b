"""Clocks for what must happen at a known moment, however slow the machine is."""

import time


class Clock:
    """A clock that jumps one second each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class WoundClock:
    """Seconds that pass as they do, but no more than so many before it is wound again."""

    def __init__(self, most_s: float) -> None:
        self.most_s, self._passed_s, self._wound = most_s, 0.0, time.monotonic()

    def __call__(self) -> float:
        return self._passed_s + min(time.monotonic() - self._wound, self.most_s)

    def wind(self) -> None:
        """Let seconds pass again."""
        self._passed_s, self._wound = self(), time.monotonic()
