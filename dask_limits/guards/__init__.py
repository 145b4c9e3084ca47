"""In-process guards: limit the time or the memory of a block or a function.

A guard interrupts the thread that is inside it, with an exception or a signal. It starts no
process, and ends none unless asked to. This package imports nothing else of dask_limits.
"""

from dask_limits.guards.errors import ExecutionTimeout, GuardException, MemoryLimitExceeded
from dask_limits.guards.escalation import InterruptType
from dask_limits.guards.memory import MemGuard, mem_guard
from dask_limits.guards.timing import TimeGuard, progress, time_guard

__all__ = [
    "ExecutionTimeout",
    "GuardException",
    "InterruptType",
    "MemGuard",
    "MemoryLimitExceeded",
    "TimeGuard",
    "mem_guard",
    "progress",
    "time_guard",
]
