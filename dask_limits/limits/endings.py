"""How a call has ended, in a word, as reports, logs and metrics have it."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from enum import IntEnum
from typing import Final

from dask_limits import exceptions


class Ending(IntEnum):
    """The ways in which a call can end. The numbers are those in the rows of reports."""

    RETURNED = 0
    RAISED = 1  # an exception of its own
    BREACH = 2  # it went over one of its limits
    CRASHED = 3  # a signal that was not ours has ended its process
    EXITED = 4  # it has ended its process
    REFUSED = 5  # no worker can grant one of its limits
    LOST = 6  # with its worker, its pool, its cluster or the process that watched it
    FAILED = 7  # it could not be started, or what it returned could not be pickled
    CANCELLED = 8


_BY_ERROR: Final[dict[type, Ending]] = {
    exceptions.Breach: Ending.BREACH,
    exceptions.CrashError: Ending.CRASHED,
    exceptions.ExitError: Ending.EXITED,
    exceptions.LimitRefusedError: Ending.REFUSED,
    exceptions.WorkerLostError: Ending.LOST,
    exceptions.GuardianLostError: Ending.LOST,
    exceptions.ClusterLostError: Ending.LOST,
    BrokenExecutor: Ending.LOST,
    exceptions.CallCancelledError: Ending.CANCELLED,
    exceptions.CallError: Ending.FAILED,
}
_LIMITS: Final[dict[type, str]] = {
    exceptions.WallTimeBreach: "wall_time",
    exceptions.CpuTimeBreach: "cpu_time",
    exceptions.MemoryBreach: "memory",
    exceptions.ProcessBreach: "num_processes",
}


def ending_of(error: BaseException | None) -> Ending:
    """How a call with this error has ended.

    Example:
        >>> ending_of(None).name, ending_of(ValueError()).name
        ('RETURNED', 'RAISED')
    """
    if error is None:
        return Ending.RETURNED
    kinds = type(error).__mro__
    if type(error).__name__ == "KilledWorker":  # of Dask, which need not be imported
        return Ending.LOST
    return next((_BY_ERROR[kind] for kind in kinds if kind in _BY_ERROR), Ending.RAISED)


def breached_limit(error: BaseException) -> str:
    """The limit that a call with this breach went over; empty for other errors.

    Example:
        >>> breached_limit(exceptions.MemoryBreach())
        'memory'
    """
    return next((_LIMITS[kind] for kind in type(error).__mro__ if kind in _LIMITS), "")


def word_of(error: BaseException | None) -> str:
    """How a call with this error has ended, in a word: of a breach, the limit.

    Example:
        >>> word_of(None), word_of(exceptions.MemoryBreach())
        ('returned', 'memory')
    """
    if error is not None and (limit := breached_limit(error)):
        return limit
    return ending_of(error).name.lower()
