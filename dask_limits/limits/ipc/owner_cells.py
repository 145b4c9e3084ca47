"""The cells in which an owner tells its guardian what runs.

A short call costs the guardian nothing: the owner sends it no message, but writes the limits and
the start of the call here, and the guardian looks every few milliseconds.

Each task process has a row. The owner writes the number of a call (`CALL`) after its other cells,
and clears it when the call is over. Row 0 belongs to no task process: its first cell tells whether
the guardian sleeps and must be woken for a new call, its second counts the steps of the guardian,
its third is the number of the last template that is ready, or has failed. The next three are about
the last one that is ready.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import Final

from dask_limits.limits.ipc.cells import Cells

ROWS: Final = 4096
"""Most task processes of an owner at one time. An unused row costs nothing."""

_F_SEAL_FUTURE_WRITE: Final = 0x10  # of fcntl(2); from Python 3.12 on in fcntl
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE

# Written by the owner.
CALL: Final = 0  # number of the call that runs; 0 is none
START: Final = 1  # when it was handed over, seconds of time.monotonic()
WALL_TIME: Final = 2  # limits; 0 is none
CPU_TIME: Final = 3
MEMORY: Final = 4
NUM_PROCESSES: Final = 5
GRACE_PERIOD: Final = 6  # seconds between a warning and the end; 0 is no warning
START_METHOD: Final = 7  # how the fresh process of the call starts, as in messages.py; 0 is none
WARM: Final = 8  # 1 if the process is kept for what its calls leave in it
SENT: Final = 9  # number of the last call that was sent to the process
ABOUT_CALL: Final = struct.Struct("=dddQQdQQ")  # the cells from START to WARM, for `Cells.put_all`
# Written by the guardian.
CONDEMNED: Final = 10  # number of the call for which it ends this process; 0 is none
SEEN: Final = 11  # number of the call that the next three are about
PEAK_MEMORY: Final = 12  # bytes
PEAK_PROCESSES: Final = 13
CPU_USED: Final = 14  # seconds
GONE: Final = 15  # 1 if the process has ended
# Written by the owner, too.
LAST: Final = 17  # number of the last call of the request that CALL is of
SHARED: Final = struct.Struct("=12Q")  # inodes of the shared files that came with CALL, or 0
SHARED_AT: Final = 18  # where they are
SILENT: Final = 16  # when nothing had come from the process that was not read, seconds as START


def make() -> int:
    """Make the file of the cells."""
    return os.memfd_create("dask-limits-owner-cells", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal(fd: int) -> None:
    """Let nobody else write to the file: a call may find it among the open files of its owner."""
    with contextlib.suppress(OSError):  # a kernel before 5.1
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)


def is_asleep(cells: Cells) -> bool:
    """Whether the guardian must be woken for a new call."""
    return cells.get(0, 0) != 0


def set_asleep(cells: Cells, asleep: bool) -> None:
    """Set whether the guardian must be woken. For the guardian."""
    cells.put(0, 0, int(asleep))


def steps(cells: Cells) -> int:
    """How many steps the guardian has taken. It takes one every 100 ms at least while calls run."""
    return cells.get(0, 1)


def count_step(cells: Cells) -> None:
    """Count one step more. For the guardian."""
    cells.put(0, 1, cells.get(0, 1) + 1)


def last_template(cells: Cells) -> int:
    """The number of the last template that is ready, or has failed."""
    return cells.get(0, 2)


def note_template(cells: Cells, number: int) -> None:
    """Note that a template is ready, or has failed. For the guardian."""
    cells.put(0, 2, max(cells.get(0, 2), number))


def ready_template(cells: Cells) -> tuple[int, float, int]:
    """The last template that is ready, the seconds that it has taken, and its bytes."""
    return cells.get(0, 3), cells.get_float(0, 4), cells.get(0, 5)


def note_ready(cells: Cells, number: int, seconds: float, memory: int) -> None:
    """Note that a template is ready. For the guardian."""
    cells.put_float(0, 4, seconds)
    cells.put(0, 5, memory)
    cells.put(0, 3, number)  # after what it is about
    note_template(cells, number)
