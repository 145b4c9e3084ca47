"""Ways in which calls take memory: each function takes so many bytes, and frees them again.

What their child processes take, these keep for some seconds, so that the guardian sees it.

Modules are imported where they are needed, because a call is charged for its imports.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SEEN_S = 0.5
"""How long the processes of a call keep what they have, so that the guardian sees it."""


def keep(size: int) -> None:
    """Take memory, and leave it in the process instead of what was left before."""
    modules: dict[str, Any] = sys.modules
    modules["kept"] = bytearray(size)


def write(block: Any, size: int) -> None:
    """Write to each page of a block."""
    for at in range(0, size, mmap.PAGESIZE):
        block[at] = 1


def fork(function: Callable[[], object], seconds: float = SEEN_S) -> int:
    """Call a function in a child process, which then waits. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        kept = function()
        time.sleep(seconds)
        del kept
        os._exit(0)
    return pid


def _by_bytearray(size: int, _: float) -> None:
    bytearray(size)


def _by_steps(size: int, _: float) -> None:
    blocks = [b"x" * 100_000 for _ in range(size // 100_000)]
    blocks.clear()


def _by_private_mapping(size: int, _: float) -> None:
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        write(block, size)


def _by_shared_mapping(size: int, _: float) -> None:
    with mmap.mmap(-1, size) as block:
        write(block, size)


def _by_file_in_memory(size: int, _: float) -> None:
    fd = os.memfd_create("block")
    os.ftruncate(fd, size)
    with mmap.mmap(fd, size) as block:
        write(block, size)
    os.close(fd)


def _by_child(size: int, seconds: float) -> None:
    os.waitpid(fork(lambda: bytearray(size), seconds), 0)


def _by_two_children(size: int, seconds: float) -> None:
    for pid in [fork(lambda: bytearray(size // 2), seconds) for _ in range(2)]:
        os.waitpid(pid, 0)


def _by_sharing_with_children(size: int, seconds: float) -> None:
    kept = bytearray(size)
    for pid in [fork(lambda: kept, seconds) for _ in range(3)]:
        os.waitpid(pid, 0)


def _by_mapping_of_children(size: int, seconds: float) -> None:
    with mmap.mmap(-1, size) as block:
        for pid in [fork(lambda: write(block, size), seconds) for _ in range(2)]:
            os.waitpid(pid, 0)


def _by_another_program(size: int, seconds: float) -> None:
    code = f"import time; block = bytearray({size}); time.sleep({seconds})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


TAKING: dict[str, Callable[[int, float], None]] = {
    "bytearray": _by_bytearray,
    "steps": _by_steps,
    "private mapping": _by_private_mapping,
    "shared mapping": _by_shared_mapping,
    "file in memory": _by_file_in_memory,
    "child": _by_child,
    "two children": _by_two_children,
    "sharing with children": _by_sharing_with_children,
    "mapping of children": _by_mapping_of_children,
    "another program": _by_another_program,
}
