from __future__ import annotations

import time

from dask_limits.limits.ipc import task_cells
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.progress import restart_by


class WallClock:
    """The wall clock of calls in one process, which `progress()` restarts.

    Args:
        cells: The task cells, where the guardian sees it.

    Attributes:
        longest_step: Seconds: the longest time without progress.
    """

    def __init__(self, cells: Cells) -> None:
        self._task_cells = cells
        self._start = 0.0
        self.longest_step = 0.0
        restart_by(self._restart)

    def begin(self, number: int) -> None:
        """Start the clock for a call."""
        self._start = time.monotonic()
        self.longest_step = 0.0
        self._task_cells.put_float(0, task_cells.START, self._start)
        self._task_cells.put_float(0, task_cells.CLOCK, self._start)
        self._task_cells.put(0, task_cells.CALL, number)

    def end(self) -> float:
        """Stop the clock.

        Returns:
            Seconds since it began.
        """
        now = time.monotonic()
        self._end_step(now)
        return now - self._start

    def _restart(self) -> None:
        now = time.monotonic()
        self._end_step(now)
        self._task_cells.put_float(0, task_cells.CLOCK, now)

    def _end_step(self, now: float) -> None:
        self.longest_step = max(
            self.longest_step, now - self._task_cells.get_float(0, task_cells.CLOCK)
        )
