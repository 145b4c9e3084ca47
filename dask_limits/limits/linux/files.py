"""Open files, by their numbers."""

from __future__ import annotations

import fcntl
import os
import resource
from typing import Final

_HIGH_FD: Final = 512


def close(fds: list[int]) -> None:
    """Close open files, and forget their numbers."""
    while fds:
        os.close(fds.pop())


def above_standard(fd: int) -> int:
    """The same file under a number that is not one of 0 to 2, which a daemon may have closed."""
    if fd > 2:
        return fd
    higher = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return higher


def out_of_the_way(fd: int) -> int:
    """The same file again, under a number that calls which close or write to low ones miss."""
    lowest = min(_HIGH_FD, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
