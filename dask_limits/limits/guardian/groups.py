"""The control group of a task process, where this user may make one.

What no look at processes finds is in there: CPU time of processes that nobody waits for, and what
has hidden from those that end it. A process can leave its group, as the user may move it.

To move a process takes up to 20 ms, in which no process of the machine can start or end. So a call
that has started processes gets a group once it has run for some seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import partial
from typing import Final

from dask_limits.limits.guardian.helpers import Helpers
from dask_limits.limits.linux import cgroup, proctree

_NAME: Final = "dask-limits"
_END_WAIT_S: Final = 1.0


class Groups:
    """The groups of one guardian, each named by the pid of a task process."""

    def __init__(self, helpers: Helpers) -> None:
        self._helpers = helpers
        self._folder = _make_folder()  # where they are; empty if this user may make none
        self._grouped: set[int] = set()
        self._ended: set[int] = set()

    def move(self, pid: int, below: Iterable[int]) -> str:
        """Give a task process a group, with what it has started so far. It does not wait for that.

        Returns the folder of the group; empty if there is none.
        """
        if self._folder and pid not in self._grouped:
            self._grouped.add(pid)
            self._helpers.start(partial(cgroup.move, [pid, *below], self._of(pid)))
        return self._folder and self._of(pid)

    def _of(self, pid: int) -> str:
        return os.path.join(self._folder, str(pid))

    def note_end(self, pid: int) -> None:
        """Note that a child has ended, which may have been a task process."""
        if pid in self._grouped:
            self._grouped.discard(pid)
            self._ended.add(pid)

    def remove(self) -> None:
        """End what is left in the groups of those that have ended, and remove these.

        Nothing is known to be left.
        """
        for pid in list(self._ended):
            # A new process may have this number, and so the group.
            if proctree.read_process(pid) is not None or cgroup.end(self._of(pid)):
                self._ended.discard(pid)

    def remove_all(self) -> None:
        """The same with those of all processes, of which none is left."""
        give_up_at = time.monotonic() + _END_WAIT_S
        while self._folder and not cgroup.end(self._folder) and time.monotonic() < give_up_at:
            time.sleep(0.001)


def _make_folder() -> str:
    own = cgroup.own_folder()
    if own is None or not cgroup.is_writable(own):
        return ""
    _remove_those_without_an_owner(own)
    folder = os.path.join(own, f"{_NAME}-{os.getpid()}-{os.urandom(3).hex()}")
    try:
        os.mkdir(folder)
    except OSError:
        return ""
    if cgroup.can_be_ended(folder):
        return folder
    os.rmdir(folder)
    return ""


def _remove_those_without_an_owner(own: str) -> None:
    """Remove what is left where both a guardian and its reaper were killed. Groups with members
    stay.
    """
    for name in os.listdir(own):
        kind, _, pid = name.rpartition("-")[0].rpartition("-")
        if kind == _NAME and pid.isdigit() and proctree.read_process(int(pid)) is None:
            cgroup.remove(os.path.join(own, name))
