"""Counts the threads of this process that a fork of it would be without, and would wait for.

A fork has only the thread that forks. Two libraries are made for that, and end their threads before
a fork or do without them after it (pthread_atfork(3)): OpenBLAS, which NumPy and SciPy start, and
jemalloc, which Arrow has in it. All other threads count.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import Final

_JEMALLOC: Final = b"jemalloc_bg_thd\n"
_OPENBLAS: Final = re.compile(r"/.*openblas.*\.so.*")
_BY_PTHREADS: Final = 1
"""What `openblas_get_parallel` returns for a build with threads of its own: not those of OpenMP,
which does not survive a fork."""
_SYMBOLS: Final = [
    (f"{prefix}openblas_get_parallel{suffix}", f"{prefix}openblas_get_num_threads{suffix}")
    for prefix in ("", "scipy_")
    for suffix in ("", "64_", "_64", "64")
]


def missed_by_a_fork() -> int:
    """How many threads a fork would be without, and would wait for."""
    names = []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/comm", "rb") as comm:
                names.append(comm.read())
        except OSError:
            pass  # it has ended
    others = len(names) - 1 - names.count(_JEMALLOC)
    return max(0, others - _of_openblas()) if others > 0 else 0


def _of_openblas() -> int:
    """The threads that all OpenBLAS libraries in this process have started."""
    with open("/proc/self/maps") as maps:
        paths = {found[0] for line in maps if (found := _OPENBLAS.search(line))}
    return sum(map(_of_library, paths))


def _of_library(path: str) -> int:
    try:
        library = ctypes.CDLL(path, os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return 0
    for is_parallel, number in _SYMBOLS:
        if hasattr(library, is_parallel) and hasattr(library, number):
            if getattr(library, is_parallel)() != _BY_PTHREADS:
                return 0
            return max(0, int(getattr(library, number)()) - 1)
    return 0
