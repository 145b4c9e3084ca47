from __future__ import annotations

import sys
from collections.abc import Callable

_restart: Callable[[], None] | None = None
"""Set in a process that runs calls."""


def progress() -> None:
    """Restart the wall clock of the call that runs: its `wall_time` counts from here again.

    For loops whose steps are bounded, but whose number is not. It can be called from any thread
    of the call, and from child processes that it has forked. Inside of a
    [time_guard][dask_limits.guards.time_guard] it restarts that; where nothing is limited it does
    nothing, so that a function need not know whether it is.

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
    """Say how the clock is restarted. For task processes."""
    global _restart
    _restart = restart
