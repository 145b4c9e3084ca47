"""The table in shared memory through which an owner tells its guardian what runs.

A call that is short need not cost the guardian anything: the owner writes its limits and its
start here and sends the guardian no message; the guardian looks every few milliseconds.

Each task process has a row of eight-byte cells. Each cell has one writer, and is written in one
store. The owner writes a call's cells first and its number (`CALL`) last, and clears the number
when the call is over; who reads looks at the number before and after.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

ROWS: Final = 4096
"""How many task processes an owner can have at one time. A row that is not used costs nothing."""

_CELLS: Final = 16
_SIZE: Final = ROWS * _CELLS * 8

# Written by the owner.
CALL: Final = 0  # number of the call that runs; 0 is none
START: Final = 1  # its start, seconds of time.monotonic()
WALL_TIME: Final = 2  # limits; 0 is none
CPU_TIME: Final = 3
MEMORY: Final = 4
NUM_PROCESSES: Final = 5
CPU_BEFORE: Final = 6  # CPU seconds that the process had used before the call
# Written by the guardian.
CONDEMNED: Final = 8  # number of the call for which it ends this process; 0 is none
SEEN: Final = 9  # number of the call that the next two are about
PEAK_MEMORY: Final = 10  # bytes
PEAK_PROCESSES: Final = 11


class Slots:
    """The table, as its owner and its guardian both have it.

    Row 0 belongs to no task process: its first cell says whether the guardian sleeps.

    Args:
        fd: The file that holds it; None makes a new one in memory.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("dask-limits-slots", os.MFD_CLOEXEC)
            os.ftruncate(fd, _SIZE)
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)
        self._view = memoryview(self._memory)
        self._integers = self._view.cast("Q")
        self._floats = self._view.cast("d")

    def close(self) -> None:
        """Let go of the memory and the file."""
        for view in (self._integers, self._floats, self._view):
            view.release()
        self._memory.close()
        os.close(self.fd)

    def get(self, row: int, cell: int) -> int:
        """A cell that holds a whole number."""
        return self._integers[row * _CELLS + cell]

    def put(self, row: int, cell: int, value: int) -> None:
        """Write a cell that holds a whole number."""
        self._integers[row * _CELLS + cell] = value

    def get_float(self, row: int, cell: int) -> float:
        """A cell that holds seconds."""
        return self._floats[row * _CELLS + cell]

    def put_float(self, row: int, cell: int, value: float) -> None:
        """Write a cell that holds seconds."""
        self._floats[row * _CELLS + cell] = value

    def clear(self, row: int) -> None:
        """Make a row as new, before a process gets it."""
        start = row * _CELLS * 8
        self._view[start : start + _CELLS * 8] = bytes(_CELLS * 8)

    @property
    def asleep(self) -> bool:
        """Whether the guardian must be woken to see a new call."""
        return self._integers[0] != 0

    @asleep.setter
    def asleep(self, value: bool) -> None:
        self._integers[0] = int(value)
