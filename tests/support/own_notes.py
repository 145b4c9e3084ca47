"""The notes of the process that this runs in, as a hostile call finds them."""

import ctypes
import re
from pathlib import Path

from dask_limits.limits.ipc.cells import Cells


def own_notes():
    """Its cells, by their address: as whole numbers, and as seconds."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    line = next(line for line in lines if "dask-limits-task-cells" in line)
    start = int(re.match("[0-9a-f]+", line)[0], 16)
    as_numbers = (ctypes.c_uint64 * Cells.CELLS).from_address(start)
    as_seconds = (ctypes.c_double * Cells.CELLS).from_address(start)
    return as_numbers, as_seconds
