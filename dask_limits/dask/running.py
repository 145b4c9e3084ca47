"""What limited calls use while they run, on its way from workers to those who look.

Nothing is sent while nobody looks: who looks takes what the workers have told since the last time,
and asks them for the next one.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Any, Final, NamedTuple, TypeAlias

from dask_limits.limits import Limits, Usage

LOOK: Final = "dask-limits-look"
"""The message by which the scheduler asks a worker."""
RUNNING: Final = "dask-limits-running"
"""The message by which it answers."""

Row: TypeAlias = tuple[Hashable, int, str, str, dict[str, Any], tuple[float, float, int, int]]
"""A running call as it is sent."""


class RunningCall(NamedTuple):
    """A limited call that runs on a cluster.

    It is the one with the `number` in the task with this `key`.
    """

    key: Hashable
    number: int
    function: str
    worker: str  # its name
    limits: Limits
    usage: Usage  # so far

    @property
    def row(self) -> Row:
        """What to send of it."""
        usage = self.usage
        used = usage.wall_time, usage.cpu_time, usage.peak_memory, usage.num_processes
        return self.key, self.number, self.function, self.worker, self.limits.as_dict(), used

    @classmethod
    def of(cls, row: Row) -> RunningCall:
        """The call that was sent like this."""
        key, number, function, worker, limits, used = row
        usage = Usage(*used, started=time.time() - used[0])
        return cls(key, number, function, worker, Limits(**limits), usage)
