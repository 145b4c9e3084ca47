"""What a test may leave behind: nothing; where tests share the default guardian, that alone."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path
from typing import Any

from processes import command, kept_by_multiprocessing, until

from dask_limits.limits.linux.proctree import children_of

_MOST_TASK_PROCESSES = 6
"""With more of them than this, the guardian is closed."""
_CELLS = "memfd:dask-limits-owner-cells"
_ACCOUNT = "/dev/shm/dask-limits-"  # of what is reserved, which a program keeps open
_TRACKERS = (
    "multiprocessing.resource_tracker",
    "loky.backend.resource_tracker",
    "joblib.externals.loky.backend.resource_tracker",
)


class Leftovers:
    """What has come to this process since this was made: children, threads of ours, open files.

    Processes that children from before have started are theirs.
    """

    def __init__(self) -> None:
        self._processes = _processes()
        self._files = _files()

    def expect_none(self) -> None:
        """Wait until nothing is left; fail if something stays. The guardian stays if it rests."""
        if self._found() or not _guardian_rests():
            close_default_guardian()
            until(lambda: gc.collect() >= 0 and not self._found(), 20, self._found)

    def _found(self) -> list[str]:
        processes = [
            f"{pid} {what}" for pid, what in _processes().items() if pid not in self._processes
        ]
        files = _files().items() - self._files.items()
        if _dask_clients():  # they keep connections, to be used again
            files = {(fd, what) for fd, what in files if "socket:" not in what}
        threads = [t.name for t in threading.enumerate() if t.name.startswith("dask-limits")]
        return [*processes, *map(str, files), *threads]


def close_default_guardian() -> None:
    """End it, and with it what a call may have left."""
    if (connection := _connection()) is not None:
        sys.modules["dask_limits.limits.owner.guardian"].default_guardian().close()
        assert connection.closed


def _connection() -> Any:
    """The default guardian's, if it was started."""
    module = sys.modules.get("dask_limits.limits.owner.guardian")
    return module.default_guardian()._connection if module is not None else None


def _guardian_rests() -> bool:
    """Whether below it there are task processes alone, few, and nothing that calls have left."""
    if (connection := _connection()) is None:
        return True
    guardian = children_of(connection.pid)
    templates = [pid for of in guardian for pid in children_of(of)]
    task_processes = [pid for of in templates for pid in children_of(of)]
    return (
        len(guardian) == 1
        and all(command(pid) == command(connection.pid) for pid in templates)
        and len(task_processes) <= _MOST_TASK_PROCESSES
        and not any(map(children_of, task_processes))
    )


def _processes() -> dict[int, str]:
    """Children of this process, apart from the default guardian and what is kept for good."""
    connection, parents = _connection(), [os.getpid()]
    found: dict[int, str] = {}
    for parent in parents:
        for pid in children_of(parent):
            if kept_by_multiprocessing(pid):
                parents.append(pid)
            elif connection is None or pid != connection.pid:
                found[pid] = command(pid)
    return found


def _files() -> dict[int, str]:
    """Open files of this process, apart from the default guardian's and what is kept for good."""
    connection = _connection()
    found: dict[int, str] = {}
    kept = {sys.modules[name]._resource_tracker._fd for name in _TRACKERS if name in sys.modules}
    if (module := sys.modules.get("multiprocessing.forkserver")) is not None:
        kept.add(module._forkserver._forkserver_alive_fd)
    if (module := sys.modules.get("dask_limits.limits.linux.lifeline")) and module._own:
        kept.add(module._own.fd)
    if connection is not None:
        kept |= {connection._control.fileno(), *(one.sock.fileno() for one in connection._leases)}
        kept |= {*connection._inherited._fds}
    for link in Path("/proc/self/fd").iterdir():
        try:
            what = str(link.readlink())
        except FileNotFoundError:  # the one that lists this directory
            continue
        if (
            connection is not None and _CELLS in what
        ):  # mmap(2) keeps it open under a number of its own
            continue
        if what.startswith(_ACCOUNT):
            continue
        if int(link.name) not in kept:
            found[int(link.name)] = what
    return found


def _dask_clients() -> bool:
    """Whether a fixture of a wider scope holds a client of Dask."""
    return "distributed" in sys.modules and bool(sys.modules["distributed"].Client._instances)
