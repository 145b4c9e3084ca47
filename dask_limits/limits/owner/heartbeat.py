from __future__ import annotations

import signal
import threading
import time
from typing import Final

from dask_limits.limits.ipc import owner_cells
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.linux import proctree

INTERVAL_S: Final = 0.2
"""How often an owner that waits for a call checks that the guardian watches it."""
_FEWEST_STEPS: Final = 2
"""In this interval, while a call runs. It takes one every 100 ms at least."""
_MOST_MISSED: Final = 3
"""Intervals in which it is stopped, before all is ended: no call has a second more than its limit.
They are counted, as the owner itself may have been stopped meanwhile."""


class Heartbeat:
    """Ends the guardian if a call has stopped it, so that nothing watches any more.

    A call can send SIGSTOP to any process of its user. Guardian and reaper continue each other. If
    all are stopped at once, and again and again, only the owner is left to notice that.
    """

    def __init__(self, cells: Cells, reaper: int) -> None:
        self._owner_cells = cells
        self._reaper = reaper
        # Threads that wait for different calls check too, and so does a call in a signal's handler.
        self._lock = threading.RLock()
        self._checked_at = time.monotonic()
        self._steps = 0
        self._missed = 0
        self._ended = False

    def check(self) -> None:
        """Check that the guardian goes on. Call it in each interval without an answer."""
        with self._lock:
            now, steps = time.monotonic(), owner_cells.steps(self._owner_cells)
            if self._ended or now < self._checked_at + INTERVAL_S / 2:
                return
            goes_on = steps >= self._steps + _FEWEST_STEPS
            self._checked_at, self._steps = now, steps
            # On a busy machine it may wait for a processor that long.
            if goes_on or not self._go_on():
                self._missed = 0
                return
            self._missed += 1
            if self._missed == _MOST_MISSED:
                proctree.kill_tree(self._reaper)

    def end(self) -> None:
        """Let all end by itself, even if it is stopped now. The guardian was closed."""
        with self._lock:
            self._ended = True
            for pid in (self._reaper, *proctree.children_of(self._reaper)):
                proctree.send_signal(pid, signal.SIGCONT)  # a stop may be under way

    def _go_on(self) -> bool:
        """Continue reaper and guardian if they are stopped. Whether one was."""
        processes = [self._reaper, *proctree.children_of(self._reaper)]
        stopped = [pid for pid in processes if proctree.is_stopped(pid)]
        for pid in stopped:
            proctree.send_signal(pid, signal.SIGCONT)
        return bool(stopped)
