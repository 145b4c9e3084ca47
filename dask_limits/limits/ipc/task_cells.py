"""The cells in which a task process tells its guardian how a call gets on.

Its owner may be late: it may be slow to send a long request, or to read an answer. That is not
the call's time. So the task process itself notes when a call begins and when it is done.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

from dask_limits.limits.ipc.cells import Cells

CALL: Final = 0  # number of the call that the next cell is about
START: Final = 1  # when the call began, seconds of time.monotonic()
DONE: Final = 2  # number of the last call that is done, whether its answer has been sent or not
DEAF: Final = 3  # 1 once it has lost its socket, by an act of the call
CLOCK: Final = 4  # when the call began, or said last that it gets on; as START
WARNED: Final = 5  # number of the call that was warned of its end; by the guardian
RUNNER: Final = 6  # pid of the process that runs the call, where it is a child; 0 if it is not
OVERHEAD: Final = 7  # how many child processes are there to run the call, and not its own
CPU_BEFORE: Final = 9  # CPU seconds of the children that are there to run it, before the call began
ANSWERED: Final = 8  # number of the last call whose answer has been sent

_STACKS_AT: Final = 4096
"""Python stacks are in the same file, behind the cells, and as long as there is room for. All who
have the file share one place in it, so that what is written next goes behind what was last."""
_STACKS_SIZE: Final = 64 * 1024


def make() -> int:
    """A new file for the cells of one process, and its stacks."""
    fd = os.memfd_create("dask-limits-task-cells", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _STACKS_AT + _STACKS_SIZE)
    # A call that cuts short each file that it finds open would end the guardian by SIGBUS.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    forget_stacks(fd)
    return fd


def read(fd: int) -> Cells:
    """The cells."""
    return Cells(1, fd)


def forget_stacks(fd: int) -> None:
    """Make room for new stacks."""
    os.lseek(fd, _STACKS_AT, os.SEEK_SET)


def stacks_length(fd: int) -> int:
    """How many bytes of stacks have been written."""
    return max(os.lseek(fd, 0, os.SEEK_CUR) - _STACKS_AT, 0)


def stacks(fd: int) -> str:
    """The stacks that have been written, as text."""
    size = min(stacks_length(fd), _STACKS_SIZE)
    return os.pread(fd, size, _STACKS_AT).decode(errors="replace")
