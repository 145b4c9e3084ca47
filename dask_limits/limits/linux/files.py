"""Open files, by their numbers."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import pickle
import resource
import weakref
from ctypes import c_int, c_long, c_size_t, c_void_p
from typing import Final

from dask_limits.limits.linux import uninterrupted

_HIGH_FD: Final = 512
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)
_libc.mmap.restype = c_void_p
_libc.munmap.argtypes = (c_void_p, c_size_t)
_MMAP_FAILED: Final = c_void_p(-1).value


def close(fds: list[int]) -> None:
    """Close files, and clear the list of their numbers. If this is interrupted, call it again."""
    if fds:
        uninterrupted.use_up(fds, os.close)


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


def map_privately(fd: int) -> memoryview:
    """The contents of a file as memory; what is written there is not written to the file.

    Unlike `mmap.mmap`, this does not keep the file open: a process that holds many results would
    run out of numbers for open files.

    Raises:
        OSError: when there is no room for it.
    """
    size = os.fstat(fd).st_size
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    addresses: list[int] = []
    try:
        uninterrupted.put(addresses, _libc.mmap, None, size, protection, mmap.MAP_PRIVATE, fd, 0)
        if addresses[0] == _MMAP_FAILED:
            addresses.clear()
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        block = (ctypes.c_ubyte * size).from_address(addresses[0])
        unmap = weakref.finalize(block, _unmap, addresses, size)
        unmap.atexit = False  # it may be in use until the very end
        return pickle.PickleBuffer(block).raw()  # each part of it keeps the block
    except BaseException:  # Ctrl-C
        _unmap(addresses, size)
        raise


def _unmap(addresses: list[int], size: int) -> None:
    uninterrupted.use_up(addresses, _libc.munmap, size)
