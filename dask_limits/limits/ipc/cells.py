from __future__ import annotations

import mmap
import os
import struct


class Cells:
    """Rows of eight-byte cells in memory that two processes share.

    Each cell has one writer and is written in one store, so a reader sees the old value or the new
    one. Cells become visible in the order of the stores, as far as the processor keeps it: x86
    does, and ARM does with the interpreter's own barriers. The caller may close the file.
    """

    CELLS = 32
    """Cells in a row."""

    def __init__(self, rows: int, fd: int) -> None:
        size = rows * self.CELLS * 8
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
        self._memory = mmap.mmap(fd, size)
        self._view = memoryview(self._memory)
        self._integers = self._view.cast("Q")
        self._floats = self._view.cast("d")

    def close(self) -> None:
        """Unmap the memory."""
        for view in (self._integers, self._floats, self._view):
            view.release()
        self._memory.close()

    def get(self, row: int, cell: int) -> int:
        """Read a cell that holds a whole number."""
        return self._integers[row * self.CELLS + cell]

    def put(self, row: int, cell: int, value: int) -> None:
        """Write a cell that holds a whole number."""
        self._integers[row * self.CELLS + cell] = value

    def get_float(self, row: int, cell: int) -> float:
        """Read a cell that holds seconds."""
        return self._floats[row * self.CELLS + cell]

    def put_float(self, row: int, cell: int, value: float) -> None:
        """Write a cell that holds seconds."""
        self._floats[row * self.CELLS + cell] = value

    def put_all(self, row: int, first: int, values: bytes) -> None:
        """Write cells that follow each other. A reader may see some of them before others."""
        start = (row * self.CELLS + first) * 8
        self._view[start : start + len(values)] = values

    def get_all(self, row: int, first: int, of: struct.Struct) -> tuple[int, ...]:
        """Read cells that follow each other and hold whole numbers."""
        return of.unpack_from(self._view, (row * self.CELLS + first) * 8)

    def clear(self, row: int) -> None:
        """Set all cells of a row to 0."""
        start = row * self.CELLS * 8
        self._view[start : start + self.CELLS * 8] = bytes(self.CELLS * 8)
