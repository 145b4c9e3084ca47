"""Control groups, version 2: what is in one is counted, and can be ended, as a whole.

Source: cgroups(7), and `Documentation/admin-guide/cgroup-v2.rst` of the kernel.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final

_MOUNTS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_MEMBERS: Final = "cgroup.procs"
_KILL: Final = "cgroup.kill"  # since Linux 5.14


def own_folder() -> str | None:
    """The folder of the group that this process is in; None where this machine shows none."""
    try:
        with open("/proc/self/cgroup", "rb") as groups:
            lines = map(os.fsdecode, groups)
            own = next((line[3:].strip().lstrip("/") for line in lines if line[:3] == "0::"), None)
    except OSError:
        return None
    folders = [] if own is None else [os.path.join(mount, own) for mount in _MOUNTS]
    return next((f for f in folders if os.path.exists(os.path.join(f, _MEMBERS))), None)


def is_writable(folder: str) -> bool:
    """Whether this process may make groups below this one, and move its own processes there."""
    return all(os.access(path, os.W_OK) for path in (folder, os.path.join(folder, _MEMBERS)))


def move(pids: Iterable[int], folder: str) -> None:
    """Make a group, and move processes into it, as far as that can be done."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            _write(folder, _MEMBERS, str(pid).encode())


def can_be_ended(folder: str) -> bool:
    """Whether the kernel can end all members of a group at once."""
    return os.path.exists(os.path.join(folder, _KILL))


def remove(folder: str) -> bool:
    """Remove a group, and all below it, if they are without members. Whether it is gone."""
    for lowest, *_ in os.walk(folder, topdown=False):
        try:
            os.rmdir(lowest)
        except FileNotFoundError:
            pass
        except OSError:
            return False
    return True


def end(folder: str) -> bool:
    """Remove a group, or else end all members of it and of those below. Whether it is gone."""
    if remove(folder):
        return True
    with contextlib.suppress(OSError):
        _write(folder, _KILL, b"1")
    return False


def cpu_seconds(folder: str) -> float:
    """CPU seconds of all processes while they were in a group; 0 if there is none. 10 us."""
    try:
        with open(os.path.join(folder, "cpu.stat"), "rb") as figures:
            return int(figures.readline().split()[1]) / 1e6
    except OSError:
        return 0.0


def _write(folder: str, name: str, text: bytes) -> None:
    fd = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
