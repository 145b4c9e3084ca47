from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import weakref
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED: Final = ctypes.c_void_p(-1).value


def map_privately(fd: int) -> memoryview:
    """The contents of a file as memory; what is written there is not written to the file.

    Unlike `mmap.mmap`, this does not keep the file open: a process that holds many results would
    run out of numbers for open files.

    Raises:
        OSError: when there is no room for it.
    """
    size = os.fstat(fd).st_size
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    address = _libc.mmap(None, size, protection, mmap.MAP_PRIVATE, fd, 0)
    if address == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    block = (ctypes.c_ubyte * size).from_address(address)
    unmap = weakref.finalize(block, _libc.munmap, address, size)
    unmap.atexit = False  # it may be in use until the very end
    return pickle.PickleBuffer(block).raw()  # each part of it keeps the block
