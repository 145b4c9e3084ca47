"""Whether this process is part of a limited call that has reserved what it may use.

Its own limited calls then reserve nothing: they count in that one. If they waited for memory that
it holds, all would wait for ever.
"""

from __future__ import annotations

import functools
import os
from typing import Final

from dask_limits.limits.linux import files, proctree

_GUARDIAN: Final = b"limits-guardian"
_reserved: bool | None = None  # by the call that runs here; None where no task process is


def begin_call(*, reserved: bool) -> None:
    """Note, in a task process, what its next calls have reserved."""
    global _reserved
    _reserved = reserved


def has_reserved() -> bool:
    """Whether a call that this process is part of has reserved something.

    A child that a call forks knows it; of a program that it starts it is assumed.
    """
    return _is_below_guardian() if _reserved is None else _reserved


def is_in_call() -> bool:
    """Whether this process is part of a limited call."""
    return _reserved is not None or _is_below_guardian()


@functools.cache
def _is_below_guardian() -> bool:
    """Whether this process was started by a limited call. 20 us for each process above it."""
    pid, seen = os.getppid(), set[int]()
    while pid > 1 and pid not in seen:
        seen.add(pid)
        try:
            if files.read(f"/proc/{pid}/comm").strip() == _GUARDIAN:
                return True
        except OSError:
            return False
        process = proctree.read_process(pid)
        pid = 0 if process is None else process.parent
    return False
