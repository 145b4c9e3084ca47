from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from typing import Final, NamedTuple

from dask_limits.limits.guardian.children import child_to_name
from dask_limits.limits.guardian.groups import Groups
from dask_limits.limits.guardian.memory import CallMemory
from dask_limits.limits.guardian.notes import Notes
from dask_limits.limits.guardian.strays import Family
from dask_limits.limits.guardian.template import EndedProcess
from dask_limits.limits.ipc import owner_cells
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.ipc.messages import Verdict
from dask_limits.limits.ipc.task_cells import STACKS_SIGNAL, TaskCells
from dask_limits.limits.linux import cgroup, proctree
from dask_limits.limits.outcome import ChildProcess, Usage
from dask_limits.limits.task.grace import SIGNALS

TICK_S: Final = 0.01
"""Time between two looks at a call. A shorter time sees more and costs more: 20 us a look, 1 us at
a process that sleeps."""
_LONGEST_REST_S: Final = 0.1
_REST_SHARE: Final = 0.02
"""Share of its run time for which a call is not looked at, if it is far from its limits: from a run
time of five seconds on, `_LONGEST_REST_S`."""
_LONGEST_SLEEP_S: Final = 1.0
"""How often to read what a process has that has not run since it was last read. The kernel may join
small pages of it to large ones, so it has more."""
_TOGETHER_S: Final = 0.05
"""Calls that can rest for longer are looked at together, in one step of the guardian. Each step
costs 100 us; and one with a look at 100 calls that run takes 3 ms, in which no other call ends."""
_GROWTH_B_PER_S: Final = 10e9
"""More than one thread can fill, because the kernel clears each page first."""
_FORKS_PER_S: Final = 5000
_PROCESSORS: Final = os.cpu_count() or 1
_COSTLY_SHARE: Final = 0.05
"""Share of the guardian's time for looking through the threads of one call for their children."""
_CPU_STEPS_S: Final = 0.05
"""By how much the CPU time of processes that /proc shows, in steps of 10 ms each, may differ from
that of their group."""
_GROUPED_AFTER_S: Final = 3.0
"""How long a call has run when it gets a control group, if it has started processes."""
_DONE_CPU_S: Final = 1.0
"""CPU seconds that a process may use beyond the limit of a call that is done, to send its answer
and get ready for the next one."""


class _Sleep(NamedTuple):
    """What there was to see of a call whose process is all that it has.

    A process that does not run starts no other, takes no memory and makes no progress: as long as
    it has used no CPU time, to the nanosecond, there is nothing new.
    """

    has_used: float = 0.0  # CPU seconds, before the look; 0 if they are not known
    until: float = -math.inf  # seconds of time.monotonic()
    rest: float = 0.0  # seconds until the next look

    def lasts(self, has_used: float, now: float) -> bool:
        """Whether the process has not run since."""
        return 0 < has_used == self.has_used and now < self.until


class Watch:
    """Watches one call, whose limits are in a row of the owner cells."""

    def __init__(
        self,
        cells: Cells,
        row: int,
        notes: Notes,
        pid: int,
        family: Family,
        groups: Groups,
    ) -> None:
        self.number = notes.number
        self._family = family
        self._groups = groups
        self._group = ""  # the folder of its control group, once it has run for long
        self.notes = notes
        self._owner_cells = cells
        self._row = row
        self._pid = pid
        self._wall_limit = cells.get_float(row, owner_cells.WALL_TIME) or math.inf
        self._cpu_limit = cells.get_float(row, owner_cells.CPU_TIME) or math.inf
        self._memory_limit = cells.get(row, owner_cells.MEMORY) or math.inf
        self._process_limit = cells.get(row, owner_cells.NUM_PROCESSES) or math.inf
        told = cells.get_all(row, owner_cells.SHARED_AT, owner_cells.SHARED)
        self._shared = frozenset(inode for inode in told if inode)
        self._grace_period = cells.get_float(row, owner_cells.GRACE_PERIOD)
        self.warned_of, self._warned_at = "", math.inf  # for which limit on time
        self.next_look = 0.0  # seconds of time.monotonic()
        self._oom_kills = proctree.oom_kills()
        self._below: list[proctree.Process] = []
        self._next_scan = 0.0
        self._has_scanned = False  # at the last look
        self._waited = self._vanished = self._cpu_time = 0.0
        self._unseen_before = 0.0  # CPU seconds that its group has counted before this call
        self._child: ChildProcess | None = None
        self._memory: CallMemory | None = None
        self._peak_processes = 1
        self._sleep = _Sleep()

    @property
    def wall_deadline(self) -> float:
        """When the call's wall time ends, in seconds of `time.monotonic()`; may be inf."""
        if self.warned_of:
            return self._warned_at + self._grace_period
        return self.notes.last_progress + self._wall_limit

    def look(self, now: float) -> str:
        """Read what the call uses. Returns the limit that it has breached; or "mute" if it is done
        and sends no answer; or nothing.
        """
        self.next_look = now + TICK_S
        has_used = proctree.cpu_seconds(self._pid)
        if self._sleep.lasts(has_used, now) and not self._family.has_strays:
            self._look_again(now, self._sleep.rest)
            return ""
        before, self._sleep = self._sleep, _Sleep(has_used)
        notes, had_begun = self.notes, self.notes.has_begun
        notes.read(now)
        root = proctree.read_process(self._pid)
        if root is None:
            return ""
        self._find_children(root)
        cpu_time = self._tree_cpu_time(root)
        notes.found(cpu_time, sum(p.resident for p in self._counted(root)), had_begun)
        if notes.is_fresh and not notes.has_begun:
            return "wall_time" if now >= self.wall_deadline else ""
        cpu_time += self._unseen_cpu_time(cpu_time, now) - notes.cpu_before
        cpu_time = max(cpu_time, self._cpu_time)
        memory = self._look_at_memory(root, now, had_begun)
        below = sum(not p.has_ended for p in self._below)
        processes = 1 + max(below - notes.beside, 0)
        self._note(cpu_time, memory.peak, processes)
        if notes.is_mute(now):
            return "mute"
        if late := self._over_time(now, cpu_time):
            return late
        if memory.now > self._memory_limit:
            return "memory"
        if processes > self._process_limit:
            return "num_processes"
        rest = self._rest(root, now, memory.most, processes)
        self._look_again(now, rest)
        # Twice alike: the kernel may leave out a child while another one ends.
        if has_used == before.has_used and self._is_alone and memory.is_settled:
            until = min(now + _LONGEST_SLEEP_S, self.wall_deadline)
            self._sleep = _Sleep(has_used, until, rest)
        return ""

    @property
    def _is_alone(self) -> bool:
        """Whether nothing can change of its call as long as its process does not run."""
        notes = self.notes
        others = self._below or self._group or self._family.has_strays or not self._has_scanned
        return notes.has_begun and not (notes.is_fresh or notes.is_done or self.warned_of or others)

    def _look_again(self, now: float, rest: float) -> None:
        then = now + rest
        if rest >= _TOGETHER_S:
            then = max(math.floor(then / _TOGETHER_S) * _TOGETHER_S, now + TICK_S)
        if self.wall_deadline > now:  # else it is done, and its answer is on its way
            then = min(then, self.wall_deadline)
        self.next_look = then

    def _rest(self, root: proctree.Process, now: float, memory: int, processes: int) -> float:
        """Seconds until it can be over a limit at the earliest, or a share of its age if less."""
        if root.ignores_children or self.warned_of:  # then look often
            return TICK_S
        threads = root.threads + sum(p.threads for p in self._below)
        tasks = min(max(threads, 1), _PROCESSORS)  # one that has just ended has none
        rest = min(
            (self._memory_limit - memory) / (_GROWTH_B_PER_S * tasks),
            (self._cpu_limit - self._cpu_time) / _PROCESSORS,
            (self._process_limit - processes) / _FORKS_PER_S,
            (now - self.notes.start) * _REST_SHARE,
            _LONGEST_REST_S,
        )
        return max(rest, TICK_S)

    def _over_time(self, now: float, cpu_time: float) -> str:
        """The limit on time for which to warn or end the call now; empty for none."""
        is_done = self.notes.is_done
        deadline = self.notes.last_progress + self._wall_limit
        if now >= deadline and not (is_done and not self._is_answered_late(now, deadline)):
            over = "wall_time"
        elif cpu_time > self._cpu_limit + is_done * _DONE_CPU_S:
            over = "cpu_time"
        else:
            self.warned_of, self._warned_at = "", math.inf  # there may have been progress
            return ""
        if not self.warned_of:
            return over
        return self.warned_of if now >= self._warned_at + self._grace_period else ""

    def _is_answered_late(self, now: float, deadline: float) -> bool:
        frees_memory = self.notes.is_fresh and proctree.is_exiting(self.runner)
        return self.notes.is_late(now, deadline, frees_memory)

    def warn_of(self, limit: str) -> bool:
        """Whether to warn a call that is over this limit before it is ended."""
        if not (self._grace_period and limit in SIGNALS and self.notes.has_begun) or self.warned_of:
            return False
        self.warned_of, self._warned_at = limit, time.monotonic()
        return True

    @property
    def runner(self) -> int:
        """The pid of the process that runs the function."""
        pid = self.notes.runner
        # The call can write anything there: accept only a process of its own.
        return pid if any(p.pid == pid for p in self._below) else self._pid

    def is_kept_waiting(self) -> bool:
        """Whether the process that runs the function waits for a processor, or in vfork(2)."""
        process = proctree.read_process(self.runner)
        if process is None:
            return False
        # In vfork(2) it is shown as one that waits for a disk, but such a one blocks no signals.
        in_vfork = process.state == "D" and proctree.blocks_signal(process.pid, STACKS_SIGNAL)
        return process.state == "R" or in_vfork

    def read_cpu_time(self) -> float:
        """CPU seconds of the call's processes by now."""
        root = proctree.read_process(self._pid)
        if root is None:
            return math.inf
        self._find_children(root)
        return self._tree_cpu_time(root)

    def _find_children(self, root: proctree.Process) -> None:
        """Look for new descendants; less often if there are many threads to look through."""
        before, known = time.monotonic(), self._below
        self._has_scanned = before >= self._next_scan
        if not self._has_scanned:
            again = (proctree.read_process(p.pid) for p in known)
            below = [p for p in again if p is not None]
        else:
            below = proctree.descendants_of(root)
            if root.threads > 1:
                after = time.monotonic()
                self._next_scan = after + (after - before) / _COSTLY_SHARE
        below += self._family.processes()
        self._below = list({p.pid: p for p in below}.values())
        self._family.know(self._below)
        self._count_vanished(root, known)

    def _count_vanished(self, root: proctree.Process, known: list[proctree.Process]) -> None:
        """Count the CPU time of children that nobody waited for, as when SIGCHLD is ignored.

        The kernel adds what a child has used to the parent that waits for it, or to none. We wait
        for strays ourselves, which are no children of the call's processes.
        """
        still, its = {p.pid for p in self._below}, {root.pid, *(p.pid for p in known)}
        gone = [p for p in known if p.pid not in still]
        used = sum(p.cpu_time + p.waited_cpu_time for p in gone if p.parent in its)
        # What those have waited for is part of what their parents have waited for now.
        before = self._waited - sum(p.waited_cpu_time for p in gone)
        self._waited = root.waited_cpu_time + sum(p.waited_cpu_time for p in self._below)
        if used:
            self._vanished += max(used - max(self._waited - before, 0.0), 0.0)
        self._vanished += self._family.take_ended_cpu_time()

    def _tree_cpu_time(self, root: proctree.Process) -> float:
        """CPU seconds of the tree; with a fresh process, without those of the task process."""
        total = proctree.cpu_time_below(root, self._below) + self._vanished
        return total if self.notes.is_fresh else total + proctree.cpu_seconds(self._pid)

    def _unseen_cpu_time(self, seen: float, now: float) -> float:
        """CPU seconds of the call, beyond those seen, that its control group counts, if any."""
        if now - self.notes.start < _GROUPED_AFTER_S or not (self._group or self._below):
            return 0.0
        seen += proctree.cpu_seconds(self._pid) if self.notes.is_fresh else 0.0
        if not self._group:
            self._group = self._groups.move(self._pid, [p.pid for p in self._below])
            self._unseen_before = cgroup.cpu_seconds(self._group) - seen
        if not self._group:
            return 0.0
        unseen = cgroup.cpu_seconds(self._group) - seen - self._unseen_before
        return unseen if unseen > _CPU_STEPS_S else 0.0

    def _counted(self, root: proctree.Process) -> list[proctree.Process]:
        """The processes whose memory counts. A task process that has a fresh one only waits."""
        return self._below if self.notes.is_fresh else [root, *self._below]

    def _look_at_memory(self, root: proctree.Process, now: float, had_begun: bool) -> CallMemory:
        counted = self._counted(root)
        if self._memory is None or self.notes.has_begun != had_begun:
            before = self.notes.memory(sum(p.faults for p in counted))
            self._memory = CallMemory(before, self.runner, self._memory_limit, self._shared)
        self._memory.look(counted, now)
        return self._memory

    @property
    def _peak_memory(self) -> int:
        return 0 if self._memory is None else self._memory.peak

    def _note(self, cpu_time: float, peak_memory: int, processes: int) -> None:
        """Keep the highest figures, and write them for the owner.

        Unless they may be those of the next call by now, or those of the last one are not read yet.
        """
        self._cpu_time = cpu_time
        self._peak_processes = max(self._peak_processes, processes)
        seen = self._owner_cells.get(self._row, owner_cells.SEEN)
        is_unread = seen >= self._owner_cells.get(self._row, owner_cells.CALL)
        if self.notes.says_answered or (is_unread and seen != self.number):
            return
        self._owner_cells.put(self._row, owner_cells.PEAK_MEMORY, peak_memory)
        self._owner_cells.put(self._row, owner_cells.PEAK_PROCESSES, self._peak_processes)
        self._owner_cells.put_float(self._row, owner_cells.CPU_USED, cpu_time)
        self._owner_cells.put(self._row, owner_cells.SEEN, self.number)

    def note_child(self, limit: str) -> None:
        """Note which child process has the largest share of what was breached, while it lives."""
        if self._child is not None and self._child.command:
            return  # else it may have been a fork that was about to start its program
        own_cpu_time = proctree.cpu_seconds(self.runner) - self.notes.cpu_before
        found = child_to_name(limit, self.runner, self._below, own_cpu_time)
        if found is not None and limit == "memory":  # which has grown since it was looked at
            found = replace(found, used=min(found.used, self._peak_memory))
        self._child = found or self._child

    def verdict(
        self, cause: str, status: int | None, used: EndedProcess | None, noted: TaskCells
    ) -> Verdict:
        """The verdict for the owner on the end of this call, and what its process has `noted`.

        `used` is what the process has used in its life, by wait4(2); None if it still lives.
        """
        cpu_time, peak_memory = self._cpu_time, self._peak_memory
        now, notes, had_begun = time.monotonic(), self.notes, self.notes.has_begun
        notes.read(now)
        if used is not None and notes.has_begun and not notes.is_fresh:
            notes.found(used.cpu_time, used.peak_memory, had_begun)
            cpu_time = max(cpu_time, used.cpu_time - notes.cpu_before)
            peak_memory = peak_memory or max(used.peak_memory - notes.memory_before, 0)
        wall_time = now - notes.start
        return Verdict(
            cause=cause,
            usage=Usage(
                wall_time,
                cpu_time,
                peak_memory,
                self._peak_processes,
                exit_code=status,
                started=time.time() - wall_time,
            ),
            system_memory=proctree.oom_kills() > self._oom_kills,
            stacks=noted.stacks(),
            child=self._child,
            looked_for=noted.looked_for(),
        )
