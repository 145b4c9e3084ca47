"""Finds the processes that calls have put beside their own process instead of below it.

clone(2) with CLONE_PARENT makes a sibling. What a call detaches falls to a process of ours, once
its own is no subreaper any more (PR_SET_CHILD_SUBREAPER in prctl(2)). So a child of ours that we
have not started is a call's. Its session tells whose: a process is in the session of the one that
it descends from, or else leads one that it has made. Each task process leads a session.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

from dask_limits.limits.guardian.template import EndedProcess
from dask_limits.limits.linux import proctree
from dask_limits.limits.linux.proctree import Process

_MOST_SESSIONS: Final = 10_000
"""Sessions that are remembered of a call. It may make a new one in each child."""
_START_STEP_S: Final = 0.02
"""Two steps in which the kernel tells when a process has started."""


class Family:
    """The strays of one task process, and what tells that they are its own.

    `running_since` says when its call began, in seconds since boot; inf if none runs.
    """

    def __init__(self, pid: int, running_since: Callable[[], float]) -> None:
        self._pid = pid
        self.running_since = running_since
        self.strays: list[Process] = []  # of the call that runs
        self.forget()

    def forget(self) -> None:
        """Forget the call before: another one begins."""
        self._sessions = {self._pid}
        self._members: dict[int, float] = {}  # pids and starts, at the last look
        self._ended_cpu_time = 0.0  # seconds, of strays that have ended

    def has(self, process: Process) -> bool:
        """Whether it is known to have started this process, which is not its own."""
        known = self._members.get(process.pid) == process.started
        return (known or process.session in self._sessions) and process.pid != self._pid

    @property
    def has_strays(self) -> bool:
        """Whether there are any, or were some since their CPU time was asked for."""
        return bool(self.strays or self._ended_cpu_time)

    def processes(self) -> list[Process]:
        """The strays, and all that is below them."""
        below = (proctree.descendants_of(stray) for stray in self.strays)
        return [*self.strays, *(process for processes in below for process in processes)]

    def know(self, processes: Collection[Process]) -> None:
        """Note that it has started these: they may be strays at the next look."""
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions = {self._pid}
        self._sessions.update(process.session for process in processes)
        self._members = {process.pid: process.started for process in processes}

    def note_end(self, ended: EndedProcess) -> bool:
        """Count the CPU time of a stray that has ended, and may never have been found. False if it
        is not known to be its own.
        """
        if ended.session not in self._sessions and ended.pid not in self._members:
            return False
        self._ended_cpu_time += ended.cpu_time
        return True

    def take_ended_cpu_time(self) -> float:
        """CPU seconds of strays that have ended since this was asked last."""
        seconds, self._ended_cpu_time = self._ended_cpu_time, 0.0
        return seconds


class Parent(NamedTuple):
    """A process of ours that calls may give children."""

    pid: int
    own: Collection[int]  # the children that it has started itself, as far as it has said
    is_forking: Callable[[int], bool] = lambda _: False  # whether it has started this one too

    def has_started(self, process: Process) -> bool:
        """Whether it has started this process itself, and not a call."""
        # It forks into its own session, where no call's process can go. One that leaves it has
        # said before who it is.
        return process.session == self.pid or self.is_forking(process.pid)


class Strays:
    """Knows whose each stray process is."""

    def __init__(self) -> None:
        self._families: set[Family] = set()
        self._to_end: dict[int, Process] = {}

    def add(self, family: Family) -> None:
        """A task process is there."""
        self._families.add(family)

    def remove(self, family: Family) -> None:
        """It has ended."""
        self._families.discard(family)

    def look(self, parents: Iterable[Parent]) -> dict[int, Process]:
        """Look for strays below these. Returns those to end, by pid: their call is over, or nothing
        tells whose they are.
        """
        for family in self._families:
            family.strays.clear()
        self._to_end.clear()
        for parent in parents:
            for pid in proctree.children_of(parent.pid, threads=1):
                process = None if pid in parent.own else proctree.read_process(pid)
                if process is None or (process.has_ended and parent.pid != os.getpid()):
                    continue  # a template collects it
                its = self._family_of(process)
                if its and process.started >= its.running_since() - _START_STEP_S:
                    its.strays.append(process)
                elif its or not parent.has_started(process):
                    self._to_end[pid] = process
        return self._to_end.copy()

    def _family_of(self, process: Process) -> Family | None:
        return next((family for family in self._families if family.has(process)), None)

    def note_end(self, ended: EndedProcess) -> None:
        """Note that a child of ours has ended that we have not started."""
        if ended.pid not in self._to_end:  # else its call is over
            any(family.note_end(ended) for family in self._families)
