from __future__ import annotations

from typing import Final

from dask_limits.limits.ipc import progress_values
from dask_limits.limits.ipc.progress_values import LatestValue, Tell
from dask_limits.limits.linux import files

LOOK_EVERY_S: Final = 0.08
"""How often an owner looks for a new value of a call. With a larger value, a driver that is busy is
told less than ten times a second."""


class ProgressWatch:
    """Tells the latest value of one call each time that it looks and finds a new one."""

    def __init__(self, tell: Tell) -> None:
        self.fds: list[int] = []  # for the process of the call
        self._tell = tell
        self._latest: LatestValue | None = None

    def open(self) -> None:
        """Make the memory that is shared with the call.

        Raises:
            OSError: if this process has too many open files.
        """
        progress_values.make(self.fds)
        self._latest = LatestValue(self.fds[0])

    def look(self) -> None:
        """Tell the latest value, if it is new."""
        if self._latest is not None and (data := self._latest.take()) is not None:
            self._tell(data)

    def close(self) -> None:
        """Close the file: once it is sent, and again whatever has come between."""
        files.close(self.fds)
