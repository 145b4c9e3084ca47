"""Control groups: what is in one is counted, and can be ended, as a whole.

All of this is about version 2, except for what a group may use, which both versions tell.

Source: cgroups(7), and `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` of the kernel.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

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


class Allowed(NamedTuple):
    """What a group, with all groups below it, may use; infinity where there is no limit.

    Attributes:
        group: A number that no other group of this machine has, in whatever namespace one is.
    """

    group: int
    memory: float  # bytes
    cores: float


def allowed_here() -> Iterator[Allowed]:
    """What the groups that this process is in may use: its own ones, and those above them."""
    for folder in dict.fromkeys(_folders_of_this_process()):
        quota, period = ([*_read(folder, "cpu.max").split(), "max", "max"])[:2]
        if quota == "max":
            quota, period = _read(folder, "cpu.cfs_quota_us"), _read(folder, "cpu.cfs_period_us")
        memory = _read(folder, "memory.max") or _read(folder, "memory.limit_in_bytes")
        cores = _number(quota) / _number(period)
        if os.path.exists(folder):
            yield Allowed(os.stat(folder).st_ino, _number(memory), cores if cores > 0 else math.inf)


def _folders_of_this_process() -> Iterator[str]:
    """The folders of its groups for memory and processors, and those above them."""
    for line in _read("/proc/self", "cgroup").splitlines():
        names, path = line.split(":", 2)[1:]
        if names and not {"memory", "cpu"} & {*names.split(",")}:
            continue
        mounts = [f"{_MOUNTS[0]}/{name}" for name in (names, *names.split(","))] if names else []
        for mount in mounts or _MOUNTS:
            # In a namespace of its own it may be in a group that is not to be seen there.
            folder = os.path.normpath(f"{mount}/{path}")
            while folder.startswith(f"{mount}/"):
                yield folder
                folder = os.path.dirname(folder)
            yield mount


def _read(folder: str, name: str) -> str:
    """What is in a file; empty if it is not there."""
    try:
        with open(os.path.join(folder, name)) as file:
            return file.read().strip()
    except OSError:
        return ""


def _number(text: str) -> float:
    return int(text) if text.isdigit() and int(text) else math.inf


def _write(folder: str, name: str, text: bytes) -> None:
    fd = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
