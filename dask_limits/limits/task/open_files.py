"""The open files of this process, and how many of them calls have left.

A file that a call has left open cannot be closed for it: what holds it, such as a cache of a
library, would then write to whatever has its number next. So either it stays, or its process ends.
"""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Set
from typing import Final

_MOST_KEPT: Final = 4
"""The part of its limit on open files that may be left to calls, as a divisor. Files that are kept
on purpose are fewer; with one more for each call, the process is replaced long before a call finds
that it can open no more."""


class OpenFiles:
    """The open files of this process when this was made.

    Whether there are others is seen by their number, and by what each of these is, except for those
    in `but`.
    """

    def __init__(self, but: Set[int]) -> None:
        self._count = _count()
        open_files = {int(name) for name in os.listdir("/proc/self/fd")}
        self._numbers = sorted((open_files | {0, 1, 2}) - but)
        self._identities = list(map(_identity, self._numbers))

    def are_same(self) -> bool:
        """Whether none of them was closed or replaced."""
        return list(map(_identity, self._numbers)) == self._identities

    def left(self) -> int:
        """How many more there are than at first."""
        return _count() - self._count

    def too_many_left(self) -> bool:
        """Whether a call might find too few left to it, if all that are left stay."""
        return self.left() * _MOST_KEPT > resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _identity(fd: int) -> tuple[int, ...] | None:
    """Inode and device of an open file, and whether programs inherit it; None if it is closed."""
    try:
        return *os.fstat(fd)[1:3], fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return None


def _count() -> int:
    # Linux tells the number of files as the size of this directory since 6.2; before, it is 0.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
