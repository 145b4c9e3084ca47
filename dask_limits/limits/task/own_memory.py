"""What this process has in memory, and had at most since its call began."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from dask_limits.limits.ipc import task_cells
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.linux import files, proctree

_RESET_PEAK: Final = b"5"  # see proc_pid_clear_refs(5)
_SLACK: Final = 2**20
"""Bytes by which two counts of the kernel may differ, which keeps one for each processor."""
_KEPT: Final = 2**20
"""Bytes that a call may leave before the allocator is asked to return what is free there."""
_UNSEEN: Final = 2**22
"""Bytes that may have been written before pages are counted, which takes 0.04 to 1 ms."""


class _Reading(NamedTuple):
    resident: int  # bytes
    own: int  # those of them that no other process has
    faults: int  # page faults of the process until then


class OwnMemory:
    """Measures the memory of this process; a look costs 1 us, with the files kept open.

    `beside` are the pids of processes that exist to run a call here, and are none of it.
    """

    def __init__(self, beside: Sequence[int] = ()) -> None:
        self._statm_fd = files.open_out_of_the_way("/proc/self/statm")
        self._status_fd = files.open_out_of_the_way("/proc/self/status")
        try:
            self._clear_refs_fd = files.open_out_of_the_way("/proc/self/clear_refs", os.O_WRONLY)
        except OSError:
            self._clear_refs_fd = -1  # a kernel without CONFIG_PROC_PAGE_MONITOR
        others = [proctree.read_process(pid) for pid in beside]
        self._beside_resident = sum(p.resident for p in others if p)
        self._beside_own = sum(map(proctree.proportional_memory, beside))
        self._shared: Mapping[int, int] = {}
        self._shared_before = 0  # bytes of all shared memory
        self._can_reset = True
        self._is_exact = True  # whether getrusage(2) tells the peak since the last reset
        self._before = self._counted = self._count_pages()
        self._peak_before = self._anonymous = 0
        self.get_ready()
        self._is_exact = self._peak_before < self._before.resident + _SLACK
        self.first = self._highest = self._tidied = self._before.resident

    def begin_call(self, cells: Cells, shared: Mapping[int, int]) -> None:
        """Note what was there when this process was ready for a call, which is not the call's.

        Nor is what its files that are `shared` have in them: their sizes in bytes, by inode.
        """
        resident, own, faults = self._before
        self._shared = shared
        if shared:
            self._shared_before = self._read_status(b"RssShmem:")
            if self._shared_before > _SLACK:  # an earlier call may have kept some of it
                kept = min(proctree.pages_of(os.getpid(), shared).shared, own)
                resident, own = resident - kept, own - kept
        cells.put(0, task_cells.MEMORY_BEFORE, resident + self._beside_resident)
        cells.put(0, task_cells.OWN_BEFORE, own + self._beside_own)
        cells.put(0, task_cells.FAULTS_BEFORE, faults)
        cells.put(0, task_cells.ANONYMOUS_BEFORE, self._anonymous + self._beside_own)

    def peak_of_call(self) -> int:
        """Most bytes that the call has had beyond that, as far as the kernel tells."""
        self._highest, self._faults = self._peak()
        self._highest -= self._in_shared_files()
        if self._highest <= self._peak_before and not self._can_reset:
            # It was in an earlier call; in this one it was at least what there is now.
            self._highest = self.resident()
        own = max(self._highest - self._before.resident, 0)
        if (self._faults - self._before.faults) * proctree.PAGE > own + _UNSEEN:
            # It has freed memory, or has written to pages in common with others.
            self._counted = self._count_pages()
            own = max(own, self._counted.own - self._before.own)
        return own

    def _in_shared_files(self) -> int:
        """Bytes that the call has mapped of what it shares with others, at most."""
        if not self._shared:
            return 0
        gained = self._read_status(b"RssShmem:") - self._shared_before
        return min(max(gained, 0), sum(self._shared.values()))

    def tidy_up(self) -> int:
        """Have the next call find what this one has left in use, and nothing else.

        Returns the resident bytes that are left at most.
        """
        left = self._highest
        if left > self._tidied + _KEPT:
            _return_free_memory()
            left = self._tidied = self.resident()
        if (self._faults - self._counted.faults) * proctree.PAGE > _UNSEEN:
            self._counted = self._count_pages()
        return left

    @property
    def held(self) -> int:
        """Bytes that calls have left here, when it got ready for the next one."""
        return self._before.resident - self.first

    def resident(self) -> int:
        """Bytes that this process has now."""
        return self._read_statm()[0]

    def _read_statm(self) -> tuple[int, int]:
        """Resident bytes, and those of them that are neither of files nor of shared memory."""
        try:
            _, resident, shared, *_ = os.pread(self._statm_fd, 100, 0).split()
        except OSError:  # closed by a call
            return self._before.resident, self._anonymous
        return int(resident) * proctree.PAGE, (int(resident) - int(shared)) * proctree.PAGE

    def get_ready(self) -> None:
        """Have what there is now not count for the next call, and its peak start here."""
        try:
            self._can_reset = os.write(self._clear_refs_fd, _RESET_PEAK) > 0
        except OSError:
            self._can_reset = False
        self._peak_before, self._faults = self._peak()
        resident, own, _ = self._counted
        now, self._anonymous = self._read_statm()
        # Where few pages were written since they were counted, what is new is its own.
        own = min(max(own + now - resident, 0), now)
        self._before = _Reading(now, own, self._faults)

    def _peak(self) -> tuple[int, int]:
        """Peak bytes since the last reset, and page faults; both in the life of the process.

        Without resets, the peak is that in the life of the process too.
        """
        used = resource.getrusage(resource.RUSAGE_SELF)
        peak = used.ru_maxrss
        if not self._is_exact:  # of a new program, getrusage tells what the one before it had
            peak = self._read_status(b"VmHWM:") // 1024 or peak
        return peak * 1024, used.ru_minflt

    def _read_status(self, name: bytes) -> int:
        """A figure of this process in bytes; 0 if a call has closed the file."""
        try:
            status = os.pread(self._status_fd, 4096, 0)
            return int(status.partition(b"\n" + name)[2].split(None, 1)[0]) * 1024
        except (OSError, LookupError):
            return 0

    def _count_pages(self) -> _Reading:
        pages = proctree.pages_of(os.getpid(), self._shared)
        return _Reading(pages.resident - pages.shared, pages.private, self._peak()[1])


def _return_free_memory() -> None:
    """Have the C library return what is free in its heaps; see malloc_trim(3)."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
