from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

_NO_VALUE: Final = object()
_restart: Callable[[], None] | None = None
_tell: Callable[[Any], object] = id  # and ignore it
"""Both are set in processes that run calls."""


class _Here(threading.local):
    """What a thread that runs a call in its owner's process has."""

    tell: Callable[[Any], object] | None = None


_here: Final = _Here()


def progress(value: Any = _NO_VALUE) -> None:
    """Say that the running call gets on: its `wall_time` counts from here again.

    This is for loops in which the time of each step is bounded, but not the number of steps. It can
    be called from any thread of the call, and from child processes that it has forked. Inside a
    [time_guard][dask_limits.guards.time_guard] it restarts that guard. Without a limit it restarts
    nothing, so a function need not know whether it has one.

    A value is told to the driver, if it is asked for there: callbacks of `task.on_progress`, or of
    `scheduler.on_future_progress`, are called with the future and the latest value, at least ten
    times a second. Before the event of its end, the last value of a call is told. It takes 2 to 4
    microseconds for a few figures, and waits for nothing. From a thread that a call of isolation
    "thread" has started, nothing is told.

    Args:
        value: Anything that can be pickled, in 64 KiB at most: how far the call is, a loss, a dict
            of several figures. Without it, nothing is told.

    Raises:
        TypeError: if the value is asked for, and cannot be pickled.
        ValueError: if it is asked for, and has more than 64 KiB when it is pickled.

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
        >>> from dask_limits import Scheduler
        >>> scheduler = Scheduler.with_processes(1)
        >>> @scheduler.task
        ... def count(n):
        ...     progress(f"half of {n}")
        ...     return n
        >>> _ = scheduler.on_start(lambda: count.submit(10))
        >>> _ = count.on_progress(lambda future, value: print(value))
        >>> _ = scheduler.run()
        half of 10
    """
    if _restart is not None:
        _restart()
        if value is not _NO_VALUE:
            _tell(value)
        return
    if "dask_limits.guards" in sys.modules:
        sys.modules["dask_limits.guards"].progress()
    if value is not _NO_VALUE and (tell := _here.tell) is not None:
        tell(value)


def report_to(restart: Callable[[], None], tell: Callable[[Any], object]) -> None:
    """Set what restarts the clock, and what takes values. For task processes."""
    global _restart, _tell
    _restart, _tell = restart, tell


@contextmanager
def telling(tell: Callable[[Any], object] | None) -> Iterator[None]:
    """Have the values of a call that this thread runs go there. For owners."""
    before, _here.tell = _here.tell, tell
    try:
        yield
    finally:
        _here.tell = before
