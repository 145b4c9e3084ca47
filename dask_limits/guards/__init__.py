"""In-process guards: keep a block, or a function, within a time or an amount of memory.

A guard interrupts the thread that is inside it, with an exception or a signal. It starts no
process, and ends none unless asked to. Imports nothing else of ours.
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
