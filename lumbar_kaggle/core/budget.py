"""The time budget of a run: asked between batches, it ends the work while a clean stop still fits."""

import time
from collections.abc import Callable


class OutOfTime(Exception):
    """The budget is spent; everything finished is saved, and the same command goes on from there."""


class Budget:
    """Hours that a run may take.

    Args:
        hours: None for no limit.
        reserve_minutes: kept for the clean stop: saving, exporting, writing the logs.
        clock: seconds, monotonic; another one for tests.
    """

    def __init__(
        self,
        hours: float | None = None,
        *,
        reserve_minutes: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._end = None if hours is None else clock() + hours * 3600 - reserve_minutes * 60

    def left_s(self) -> float:
        """Return the seconds left for work; infinite without a limit, never below 0."""
        return float("inf") if self._end is None else max(0.0, self._end - self._clock())

    def check(self) -> None:
        """Do nothing while time is left.

        Raises:
            OutOfTime: no time is left.
        """
        if self.left_s() <= 0:
            raise OutOfTime("the time budget is spent")
