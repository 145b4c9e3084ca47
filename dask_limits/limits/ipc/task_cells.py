"""The cells in which a task process tells its guardian of the progress of a call.

The owner may be slow to send a long request or to read an answer, and that time is not the call's.
So the task process itself notes when a call begins and when it is done.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import signal
import sys
from typing import Final

from dask_limits.limits.ipc.cells import Cells

CALL: Final = 0  # number of the call that the next cell is about
START: Final = 1  # when the call began, seconds of time.monotonic()
DONE: Final = 2  # number of the last call that is done; its answer may not be sent yet
DEAF: Final = 3  # 1 once the call has broken the socket of its process
CLOCK: Final = 4  # when the call began, or last reported progress; as START
WARNED: Final = 5  # number of the call that was warned of its end; by the guardian
RUNNER: Final = 6  # pid of the process that runs the call, where it is a child; 0 if it is not
OVERHEAD: Final = 7  # number of child processes that exist to run the call, and are not its own
ANSWERED: Final = 8  # number of the last call whose answer has been sent
CPU_BEFORE: Final = 9  # CPU seconds of the process that runs the call, before it began; with those
# of processes that exist to run it, as the next two
MEMORY_BEFORE: Final = 10  # resident bytes that this process had then
OWN_BEFORE: Final = 11  # those of them that no other process had
FAULTS_BEFORE: Final = 12  # its page faults until then
ANONYMOUS_BEFORE: Final = 13  # its bytes of neither files nor shared memory
PID: Final = 14  # of the task process
LOOKED_FOR: Final = 15  # bytes of the names that follow the cells
HELD: Final = 16  # calls up to this number do not begin any more; by the guardian

_NAMES_AT: Final = 4096
"""After the cells, in memory too, are names of modules that the call has looked for to import them,
one in a line."""
_NAMES_SIZE: Final = 28 * 1024
"""Bytes. scikit-learn has 700 modules, 25,000 bytes. Of more than fit, later calls tell the rest:
by then, the first ones are in the template. A message has room for it beside the stacks."""
_STACKS_AT: Final = _NAMES_AT + _NAMES_SIZE
"""Python stacks are in the same file, after the names, as far as there is room. All processes that
have the file share its position, so each writes after the last."""
_STACKS_SIZE: Final = 64 * 1024
STACKS_SIGNAL: Final = signal.SIGRTMAX - 2
"""Makes a process write its Python stacks; one that others are unlikely to use."""


def make() -> int:
    """Make the file of the cells and the stacks of one process."""
    fd = os.memfd_create("dask-limits-task-cells", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _STACKS_AT + _STACKS_SIZE)
    # A call that cuts short each file that it finds open would end the guardian by SIGBUS.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    os.lseek(fd, _STACKS_AT, os.SEEK_SET)
    return fd


def pid(fd: int) -> int:
    """The pid of the process that has these cells; 0 if there is none yet."""
    return int.from_bytes(os.pread(fd, 8, PID * 8), sys.byteorder)


class TaskCells(Cells):
    """The cells and the stacks of one task process.

    Attributes:
        fd: The file that they are in.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(_STACKS_AT // (self.CELLS * 8), fd)
        self.fd = fd

    def close(self) -> None:
        """Unmap the memory, and close the file."""
        super().close()
        os.close(self.fd)

    def note_looked_for(self, name: bytes) -> None:
        """Note that a module of this name is about to be imported. 0.5 us."""
        used = self.get(0, LOOKED_FOR)
        if used + len(name) < _NAMES_SIZE:
            start = _NAMES_AT + used
            self._view[start : start + len(name) + 1] = name + b"\n"
            self.put(0, LOOKED_FOR, used + len(name) + 1)

    def looked_for(self) -> str:
        """The names that were noted in the current call, one in a line."""
        size = min(self.get(0, LOOKED_FOR), _NAMES_SIZE)
        return bytes(self._view[_NAMES_AT : _NAMES_AT + size]).decode(errors="ignore")

    def begin_for_good(self, number: int) -> None:
        """Note that a call has begun so that it cannot take that back: the file never shrinks."""
        with contextlib.suppress(OSError):  # there may be a limit on the size of files
            os.ftruncate(self.fd, _STACKS_AT + _STACKS_SIZE + number)

    def has_begun_for_good(self, number: int) -> bool:
        """Whether this call, or a later one, was noted so."""
        return os.fstat(self.fd).st_size >= _STACKS_AT + _STACKS_SIZE + number

    def collect_stacks(self) -> None:
        """Have this process write the stack of each thread there when it crashes or is asked."""
        faulthandler.enable(self.fd)
        faulthandler.register(STACKS_SIGNAL, self.fd, all_threads=True)

    def forget_stacks(self) -> None:
        """Start over with the stacks."""
        os.lseek(self.fd, _STACKS_AT, os.SEEK_SET)

    def stacks(self) -> str:
        """The stacks that were written, as text."""
        size = max(os.lseek(self.fd, 0, os.SEEK_CUR) - _STACKS_AT, 0)
        return os.pread(self.fd, min(size, _STACKS_SIZE), _STACKS_AT).decode(errors="replace")


def is_whole(stacks: str) -> bool:
    """Whether stacks end with a frame: they begin with a line that says which thread follows."""
    return stacks.endswith("\n") and stacks.splitlines()[-1].startswith("  ")
