"""What this process has in memory, and had at most since its call began."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Final

from dask_limits.limits.linux import files, proctree

_PAGE: Final = resource.getpagesize()
_RESET_PEAK: Final = b"5"  # see proc_pid_clear_refs(5)
_SLACK: Final = 2**20
"""Bytes by which two counts of the kernel may differ, which keeps one for each processor."""


class OwnMemory:
    """Measures the resident memory of this process; a look costs 1 us, with the files kept open."""

    def __init__(self) -> None:
        self._statm_fd = _open("statm", os.O_RDONLY)
        self._status_fd = _open("status", os.O_RDONLY)
        try:
            self._clear_refs_fd = _open("clear_refs", os.O_WRONLY)
        except OSError:
            self._clear_refs_fd = -1  # a kernel without CONFIG_PROC_PAGE_MONITOR
        self.before = self._peak_before = 0
        self._is_exact = True  # whether getrusage(2) tells the peak since the last reset
        self.begin_call()
        self._is_exact = self._clear_refs_fd < 0 or self._peak_before < self.before + _SLACK

    def begin_call(self) -> None:
        """Note what is there `before` a call, which is not the call's, and start its peak there."""
        with contextlib.suppress(OSError):
            os.write(self._clear_refs_fd, _RESET_PEAK)
        with contextlib.suppress(OSError):  # closed by a call
            self.before = self.resident()
        self._peak_before = self._peak()

    def peak_of_call(self) -> int:
        """Most bytes that the call has had beyond that, as far as the kernel tells."""
        peak = self._peak()
        if peak <= self._peak_before:
            try:  # it was in an earlier call; in this one it was at least what there is now
                peak = self.resident()
            except OSError:
                return 0
        return max(peak - self.before, 0)

    def resident(self) -> int:
        """Bytes that this process has now."""
        return int(os.pread(self._statm_fd, 100, 0).split()[1]) * _PAGE

    def _peak(self) -> int:
        """Peak bytes since the last reset; without resets, in the life of the process."""
        if not self._is_exact:  # for a new program, getrusage adds what the one before it had
            with contextlib.suppress(OSError):
                status = os.pread(self._status_fd, 4096, 0)
                return int(status.partition(b"\nVmHWM:")[2].split(None, 1)[0]) * 1024
        return proctree.own_peak_memory()


def _open(name: str, flags: int) -> int:
    """Open a file of `/proc/self` where calls that close the low numbers miss it."""
    low = os.open(f"/proc/self/{name}", flags | os.O_CLOEXEC)
    try:
        return files.out_of_the_way(low)
    finally:
        os.close(low)
