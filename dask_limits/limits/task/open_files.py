"""The open files of this process, and what calls have left of them.

A file that a call has left open cannot be closed for it: what holds it, such as a cache of a
library, would then write to whatever has its number next. So either it stays, or its process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
import stat
from typing import Final

from dask_limits.limits.linux import files

_MOST_KEPT: Final = 4
"""The part of its limit on open files that may be left to calls, as a divisor. Files that are kept
on purpose are fewer; with one more for each call, the process is replaced long before a call finds
that it can open no more."""
_MOST_WATCHED: Final = 8
"""So many files that were open before may have their locks watched: each takes one more open file,
and 1 us."""
_SIZE: Final = 64 * 1024  # bytes, more than the kernel tells of a file

_libc = ctypes.PyDLL(None)  # keeps the GIL: these calls take less time than to release it


class OpenFiles:
    """The open files of this process when this was made.

    Whether there are others is seen by their number, and by what the standard ones and those in
    `known` are. Of the others it is seen whether they were closed, or replaced by dup2(2), and
    whether those on disks were locked.
    """

    def __init__(self, *known: int) -> None:
        self._known = (0, 1, 2, *known)
        self._identities = list(map(_identity, self._known))
        self._watched = _watched(sorted(_numbers().difference(self._known)))
        self._locked = list(map(_tells_of_a_lock, self._watched))
        self._seen = _numbers()
        self._others = sorted(self._seen)
        self._inheritable = list(map(_is_inheritable, self._others))
        self._count = self._last = count()
        self._most = self._count + resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _MOST_KEPT

    def known_are_same(self) -> bool:
        """Whether none of those was closed or replaced."""
        return list(map(_identity, self._known)) == self._identities

    def are_same(self) -> bool:
        """Whether none of all was closed, replaced or locked."""
        return (
            list(map(_is_inheritable, self._others)) == self._inheritable
            and list(map(_tells_of_a_lock, self._watched)) == self._locked
        )

    def none_left(self) -> bool:
        """Whether there are no more than at first."""
        return count() == self._count

    def may_stay(self) -> bool:
        """Whether those that are left leave enough to open, and hold nothing that others wait for.

        A file that was left without a lock, and is locked by a later call that changes no number of
        open files, is not seen.
        """
        number = count()
        if number == self._last:
            return True  # as they were looked at
        self._last = number
        seen, self._seen = self._seen, _numbers()
        return number <= self._most and not any(map(_is_held, self._seen - seen))


def _numbers() -> set[int]:
    found = set(map(int, os.listdir("/proc/self/fd")))
    lowest = os.open("/", os.O_RDONLY)  # has the number that the listed folder had
    os.close(lowest)
    return found - {lowest}


def _watched(numbers: list[int]) -> list[int]:
    """Open files in which the kernel tells of those of these numbers that are on a disk."""
    found: list[int] = []
    for fd in numbers:
        with contextlib.suppress(OSError):  # closed by a thread, or may not be read
            if len(found) < _MOST_WATCHED and _is_on_disk(fd):
                found.append(files.open_out_of_the_way(f"/proc/self/fdinfo/{fd}"))
    return found


def _is_on_disk(fd: int) -> bool:
    """Whether it is a file or folder that is not in /proc, where the kernel tells of processes."""
    found = os.fstat(fd)
    is_one = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return is_one and found.st_dev != os.stat("/proc/self").st_dev


def _is_held(fd: int) -> bool:
    """Whether nobody else can have it: a socket that listens, or a file that is locked."""
    if _listens(fd):
        return True
    try:
        return _locks(files.read(f"/proc/self/fdinfo/{fd}", _SIZE))
    except OSError:
        return False  # closed by a thread, or may not be read


def _listens(fd: int) -> bool:
    answer, size = ctypes.c_int(), ctypes.c_uint32(ctypes.sizeof(ctypes.c_int))
    place, length = ctypes.byref(answer), ctypes.byref(size)
    found = _libc.getsockopt(fd, socket.SOL_SOCKET, socket.SO_ACCEPTCONN, place, length)
    return found == 0 and answer.value != 0


def _tells_of_a_lock(fd: int) -> bool:
    return _locks(os.pread(fd, _SIZE, 0))


def _locks(told: bytes) -> bool:
    """Whether the kernel tells of a lock that excludes all others.

    Libraries keep locks that are shared, as SQLite's write-ahead log and readers of HDF5 do. Each
    reader of LMDB locks the byte that has the number of its process. Source: proc_pid_fdinfo(5).
    """
    for line in told.splitlines():
        if line.startswith(b"lock:") and b" WRITE " in line:
            pid, _inode, first, last = line.split()[-4:]
            if not pid == first == last:
                return True
    return False


def standard_identities() -> list[int | None]:
    """Which files the standard ones are."""
    return list(map(_identity, range(3)))


def _identity(fd: int) -> int | None:
    """Inode of an open file; None if it is closed."""
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return None


def _is_inheritable(fd: int) -> bool | None:
    """Whether programs inherit it; None if it is closed."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return None


def count() -> int:
    """How many files are open. 1 us."""
    # Linux tells the number of files as the size of this directory since 6.2; before, it is 0.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
