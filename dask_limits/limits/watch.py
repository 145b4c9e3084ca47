from __future__ import annotations

import math
import resource
import time
from typing import Final

from dask_limits.limits import notes, proctree, slots
from dask_limits.limits.messages import Verdict
from dask_limits.limits.table import Table

_COSTLY_SHARE: Final = 0.05
"""Share of the guardian's time that may go into the costly looks at one call: the children of
each of its threads, and memory with shared pages counted once."""
_BEGIN_WAIT_S: Final = 60.0
"""How long a call may take to begin, which is how long its arguments are on their way."""


class Watch:
    """What the guardian knows of one call.

    Args:
        table: Where the owner has written the call's limits.
        row: Where in it.
        noted: What the task process notes of its calls.
        pid: The task process that runs the call.
        number: The number of the call.
    """

    def __init__(self, table: Table, row: int, noted: Table, pid: int, number: int) -> None:
        self.number = number
        self._slots = table
        self._row = row
        self._notes = noted
        self._pid = pid
        self._handed_over = table.get_float(row, slots.START)
        self._cpu_before = table.get_float(row, slots.CPU_BEFORE)
        self._wall_limit = table.get_float(row, slots.WALL_TIME) or math.inf
        self._cpu_limit = table.get_float(row, slots.CPU_TIME) or math.inf
        self._memory_limit = table.get(row, slots.MEMORY) or math.inf
        self._process_limit = table.get(row, slots.NUM_PROCESSES) or math.inf
        self._oom_kills = _oom_kills()
        self._below: list[proctree.Process] = []
        self._next_scan = 0.0
        self._next_exact = 0.0
        self._waited = 0.0
        self._vanished = 0.0
        self._cpu_time = 0.0
        self._peak_memory = 0
        self._peak_processes = 1

    @property
    def wall_deadline(self) -> float:
        """When the call's wall time is over, in seconds of `time.monotonic()`; may be inf."""
        if self._notes.get(0, notes.CALL) == self.number:
            return self._notes.get_float(0, notes.START) + self._wall_limit
        return self._handed_over + self._wall_limit + _BEGIN_WAIT_S

    @property
    def _started(self) -> float:
        if self._notes.get(0, notes.CALL) == self.number:
            return self._notes.get_float(0, notes.START)
        return self._handed_over

    def look(self, now: float) -> str:
        """See what the call uses.

        Returns:
            The limit that it has breached, or an empty string.
        """
        if self._notes.get(0, notes.DONE) == self.number:
            return ""  # all that is left to do is to send the answer, and the owner may be slow
        root = proctree.read_process(self._pid)
        if root is None:
            return ""
        self._find_children(root)
        cpu_time = self._tree_cpu_time(root)
        memory = self._tree_memory(root, now)
        processes = 1 + sum(p.state != "Z" for p in self._below)
        self._note(cpu_time, memory, processes)
        if now >= self.wall_deadline:
            return "wall_time"
        if cpu_time > self._cpu_limit:
            return "cpu_time"
        if memory > self._memory_limit:
            return "memory"
        if processes > self._process_limit:
            return "num_processes"
        return ""

    def _find_children(self, root: proctree.Process) -> None:
        """Look for new descendants, less often where there are many threads to look through."""
        before, known = time.monotonic(), self._below
        if before < self._next_scan:
            again = (proctree.read_process(p.pid) for p in known)
            self._below = [p for p in again if p is not None]
        else:
            self._below = proctree.descendants_of(root)
            if root.threads > 1:
                after = time.monotonic()
                self._next_scan = after + (after - before) / _COSTLY_SHARE
        self._keep_account_of_vanished(root, known)

    def _keep_account_of_vanished(
        self, root: proctree.Process, known: list[proctree.Process]
    ) -> None:
        """Keep the CPU time of children that were not waited for, as with SIGCHLD ignored.

        What a child has used goes into the account of the parent that waits for it, or nowhere.
        """
        still = {p.pid for p in self._below}
        used = sum(p.cpu_time + p.waited_cpu_time for p in known if p.pid not in still)
        waited = root.waited_cpu_time + sum(p.waited_cpu_time for p in self._below)
        if used:
            self._vanished += max(used - max(waited - self._waited, 0.0), 0.0)
        self._waited = waited

    def _tree_cpu_time(self, root: proctree.Process) -> float:
        below = sum(p.cpu_time + p.waited_cpu_time for p in self._below)
        total = proctree.cpu_seconds(self._pid) + root.waited_cpu_time + below + self._vanished
        return max(total - self._cpu_before, self._cpu_time)

    def _tree_memory(self, root: proctree.Process, now: float) -> int:
        """Resident bytes of the tree: shared pages once, as soon as that makes a difference."""
        total = root.resident + sum(p.resident for p in self._below)
        if not self._below or total <= self._memory_limit:
            return total
        if now < self._next_exact:
            return self._peak_memory
        pids = [root.pid, *(p.pid for p in self._below)]
        exact = max(root.resident, sum(map(proctree.proportional_memory, pids)))
        after = time.monotonic()
        self._next_exact = after + (after - now) / _COSTLY_SHARE
        return exact

    def _note(self, cpu_time: float, memory: int, processes: int) -> None:
        """Keep the highest figures, and write them where the owner finds them."""
        self._cpu_time = cpu_time
        self._peak_memory = max(self._peak_memory, memory)
        self._peak_processes = max(self._peak_processes, processes)
        self._slots.put(self._row, slots.PEAK_MEMORY, self._peak_memory)
        self._slots.put(self._row, slots.PEAK_PROCESSES, self._peak_processes)
        self._slots.put_float(self._row, slots.CPU_USED, cpu_time)
        self._slots.put(self._row, slots.SEEN, self.number)

    def verdict(
        self,
        cause: str,
        status: int | None,
        used: resource.struct_rusage | None,
        stacks: str,
    ) -> Verdict:
        """What the owner is told of the end of this call.

        Args:
            cause: See Verdict.
            status: See Verdict.
            used: What wait4(2) says that the process has used in its life; None if it still lives.
            stacks: Python stacks, as text.
        """
        cpu_time, peak_memory = self._cpu_time, self._peak_memory
        if used is not None:
            cpu_time = max(cpu_time, used.ru_utime + used.ru_stime - self._cpu_before)
            peak_memory = peak_memory or used.ru_maxrss * 1024
        return Verdict(
            cause=cause,
            status=status,
            wall_time=time.monotonic() - self._started,
            cpu_time=cpu_time,
            peak_memory=peak_memory,
            peak_processes=self._peak_processes,
            system_memory=_oom_kills() > self._oom_kills,
            stacks=stacks,
        )


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since the machine started."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
