"""The open files of this process, and how many of them calls have left.

A file that a call has left open cannot be closed for it: what holds it, such as a cache of a
library, would then write to whatever has its number next. So either it stays, or its process ends.
"""

from __future__ import annotations

import os
import resource
from typing import Final

_MOST_KEPT: Final = 4
"""The part of its limit on open files that may be left to calls, as a divisor. Files that are kept
on purpose are fewer; with one more for each call, the process is replaced long before a call finds
that it can open no more."""


class OpenFiles:
    """The open files of this process when this was made.

    Whether there are others is seen by their number, and by what the standard ones and those in
    `known` are. Of the others it is seen whether they were closed, or replaced by dup2(2).
    """

    def __init__(self, *known: int) -> None:
        self._known = (0, 1, 2, *known)
        self._identities = list(map(_identity, self._known))
        self._others = [int(name) for name in os.listdir("/proc/self/fd")]
        self._others = [fd for fd in self._others if _is_inheritable(fd) is not None]
        self._inheritable = list(map(_is_inheritable, self._others))
        self._count = count()
        self._most = self._count + resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _MOST_KEPT

    def known_are_same(self) -> bool:
        """Whether none of those was closed or replaced."""
        return list(map(_identity, self._known)) == self._identities

    def are_same(self) -> bool:
        """Whether none of all was closed or replaced."""
        return list(map(_is_inheritable, self._others)) == self._inheritable

    def none_left(self) -> bool:
        """Whether there are no more than at first."""
        return count() == self._count

    def few_left(self) -> bool:
        """Whether enough can be opened if all that are left stay."""
        return count() <= self._most


def standard_identities() -> list[int | None]:
    """Which files the standard ones are."""
    return list(map(_identity, range(3)))


def _identity(fd: int) -> int | None:
    """Inode of an open file; None if it is closed."""
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return None


def _is_inheritable(fd: int) -> bool | None:
    """Whether programs inherit it; None if it is closed."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return None


def count() -> int:
    """How many files are open. 1 us."""
    # Linux tells the number of files as the size of this directory since 6.2; before, it is 0.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
