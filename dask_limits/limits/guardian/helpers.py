"""Processes of ours that do for the guardian what may take long."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from dask_limits.limits.linux import files, prctl


class Helpers:
    """Forks of the guardian that do one thing each.

    Attributes:
        pids: Those that have not ended.
    """

    def __init__(self) -> None:
        self.pids: set[int] = set()

    def start(self, do: Callable[[], object]) -> None:
        """Do this in one. It is not done where there is no room for another process."""
        with contextlib.suppress(OSError):
            helper = os.fork()
            if helper == 0:
                try:
                    prctl.die_with_parent(signal.SIGKILL)
                    files.close_from(3)  # they tell others whether the guardian lives
                    do()
                finally:
                    os._exit(0)
            self.pids.add(helper)

    def note_end(self, pid: int) -> None:
        """Note that a child has ended, which may have been one."""
        self.pids.discard(pid)
