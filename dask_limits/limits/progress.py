from __future__ import annotations

import sys
from collections.abc import Callable

_restart: Callable[[], None] | None = None
"""Set in processes that run calls."""


def progress() -> None:
    """Restart the wall clock of the running call: its `wall_time` counts from here again.

    For loops in which the time of each step is bounded, but not the number of steps. It can be
    called from any thread of the call, and from child processes that it has forked. Inside a
    [time_guard][dask_limits.guards.time_guard] it restarts that guard. Without a limit it does
    nothing, so a function need not know whether it has one.

    Example:
        >>> import time
        >>> from dask_limits import limit, progress
        >>> def walk():
        ...     for _ in range(4):
        ...         time.sleep(0.1)
        ...         progress()
        ...     return "arrived"
        >>> limit(walk, wall_time=0.3)()
        'arrived'
    """
    if _restart is not None:
        _restart()
    elif "dask_limits.guards" in sys.modules:
        sys.modules["dask_limits.guards"].progress()


def restart_by(restart: Callable[[], None]) -> None:
    """Set what restarts the clock. For task processes."""
    global _restart
    _restart = restart
