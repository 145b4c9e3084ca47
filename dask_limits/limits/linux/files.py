"""Open files, by their numbers."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import pickle
import resource
from ctypes import c_int, c_long, c_size_t, c_void_p
from typing import Final

from dask_limits.limits.linux import uninterrupted

_HIGH_FD: Final = 512
_ALL_FILES: Final = 2**31 - 1  # more than any limit: it may have been lowered since
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)
_libc.mmap.restype = c_void_p
_MAP_FIXED: Final = 0x10  # of mmap(2): in the place of what is mapped there


def close(fds: list[int]) -> None:
    """Close files, and clear the list of their numbers. If this is interrupted, call it again."""
    if fds:
        uninterrupted.use_up(fds, os.close)


def close_from(fd: int) -> None:
    """Close this file and all with a higher number."""
    os.closerange(fd, _ALL_FILES)


def above_standard(fd: int) -> int:
    """The same file under a number above 2. A daemon may have closed the standard files."""
    if fd > 2:
        return fd
    higher = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return higher


def out_of_the_way(fd: int) -> int:
    """A second, high number of the same file, which calls that close or write to low ones miss."""
    lowest = min(_HIGH_FD, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def open_out_of_the_way(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file under such a number."""
    low = os.open(path, flags | os.O_CLOEXEC)
    try:
        return out_of_the_way(low)
    finally:
        os.close(low)


def read(path: str, size: int = 64 * 1024) -> bytes:
    """The first bytes of a file. Ctrl-C leaves no file open: all of it is one step."""
    fds: list[int] = []
    contents: list[bytes] = []
    try:
        uninterrupted.together(
            (fds.extend, map(os.open, (path,), (os.O_RDONLY | os.O_CLOEXEC,))),
            (contents.extend, map(os.pread, fds, (size,), (0,))),
            (contents.extend, map(os.close, fds)),
            (fds.clear,),
        )
    finally:
        close(fds)
    return contents[0]


def in_pages(size: int) -> int:
    """Bytes of the pages that so many bytes take."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def write_all(fd: int, data: bytes | bytearray | memoryview | pickle.PickleBuffer) -> None:
    """Write all of this, a multiple of 2 GiB too: one write(2) takes no more."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def map_privately(fd: int, *, writable: bool = True) -> memoryview:
    """The contents of a file as memory; what is written there is not written to the file.

    Unlike `mmap.mmap` of the file, this does not keep the file open: a process that holds many
    results would run out of numbers for open files. The memory goes with the last part of the view,
    by code in C alone, so that no signal's handler can come between.

    Raises:
        OSError: when there is no room for it.
    """
    return _map(fd, os.fstat(fd).st_size, mmap.MAP_PRIVATE, writable)


def map_shared(fd: int, size: int) -> memoryview:
    """The same of so many bytes, for all that map the file; what is written is written to it."""
    return _map(fd, size, mmap.MAP_SHARED)


def _map(fd: int, size: int, kind: int, writable: bool = True) -> memoryview:
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    block = mmap.mmap(-1, size, mmap.MAP_PRIVATE, protection)  # of no file
    view = memoryview(block)
    if not writable:
        protection, view = mmap.PROT_READ, view.toreadonly()
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    if _libc.mmap(address, size, protection, kind | _MAP_FIXED, fd, 0) != address:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return view
