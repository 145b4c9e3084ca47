"""What a task process writes down for its guardian, in memory that the two share.

Its owner may be late: it may be slow to send a long request, or to read an answer. That is not
the call's time. So the task process itself notes when a call begins and when it is done.
"""

from __future__ import annotations

import os
from typing import Final

from dask_limits.limits.table import Table

CALL: Final = 0  # number of the call that the next cell is about
START: Final = 1  # when the call began, seconds of time.monotonic()
DONE: Final = 2  # number of the last call that is done, whether its answer has been sent or not
DEAF: Final = 3  # 1 once it has lost its socket, by an act of the call

_STACKS_AT: Final = 4096
"""Python stacks are in the same file, behind the cells, and as long as there is room for."""
_STACKS_SIZE: Final = 64 * 1024


def make() -> int:
    """A new file for the notes of one process."""
    fd = os.memfd_create("dask-limits-notes", os.MFD_CLOEXEC)
    os.ftruncate(fd, _STACKS_AT)
    os.lseek(fd, _STACKS_AT, os.SEEK_SET)  # the place of the first write, whoever writes
    return fd


def read(fd: int) -> Table:
    """The cells."""
    return Table(1, fd)


def stacks_length(fd: int) -> int:
    """How many bytes of stacks have been written."""
    return os.fstat(fd).st_size - _STACKS_AT


def stacks(fd: int) -> str:
    """The stacks that have been written, as text."""
    return os.pread(fd, _STACKS_SIZE, _STACKS_AT).decode(errors="replace")
