"""Open files, by their numbers."""

from __future__ import annotations

import fcntl
import os
import resource
from typing import Final

_HIGH_FD: Final = 512


def close(fds: list[int]) -> None:
    """Close files, and clear the list of their numbers."""
    while fds:
        os.close(fds.pop())


def above_standard(fd: int) -> int:
    """The same file under a number above 2. A daemon may have closed the standard files."""
    if fd > 2:
        return fd
    higher = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return higher


def out_of_the_way(fd: int) -> int:
    """A second, high number of the same file, which calls that close or write to low ones miss."""
    lowest = min(_HIGH_FD, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
