"""What the process of a call notes of it, as far as that can be true.

A call can write anything into the cells of its process, at any time. So no note may lift a limit:

- That a call has begun counts from the first look that finds it noted, whatever is there later.
- No time is in the future, or before an earlier one.
- No figure of what was there before the call is higher than what the guardian has found itself.
- An answer that its owner does not find when it looks was not sent.
- Whether the call has a fresh process is what its owner says.
"""

from __future__ import annotations

import fcntl
import math
import socket
import struct
import termios
import time
from typing import Final

from dask_limits.limits.guardian.memory import MemoryBefore
from dask_limits.limits.ipc import messages, owner_cells, task_cells
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.ipc.task_cells import TaskCells

_SEND_WAIT_S: Final = 60.0
"""How long an owner may take to send a call, and a fresh process to start."""
_TAKE_WAIT_S: Final = 1.0
"""How long a call that was sent may take to begin in a process that waits for it."""
_ANSWER_WAIT_S: Final = 20.0
"""How long a fresh process may take to free its memory, before its call is answered; and how long
an owner may take from reading the answer to saying so."""
_SEND_ANSWER_S: Final = 1.0
"""How long a call that is done may take to answer, after its wall time, and after a fresh process
has freed its memory. It takes far less than a millisecond."""
_CPU_SLACK_S: Final = 0.05
"""By how much two measurements of CPU time may differ: /proc counts in steps of 10 ms."""
_MOST_BESIDE: Final = {"": 0, "fork": 1, "spawn": 2, "forkserver": 3}
"""Processes that exist to run a call and are not its own, by the method by which it is started: the
fresh process, which counts as the task process does; a resource tracker; a fork server."""


class Notes:
    """The notes of one call, whose limits are in a row of the owner cells.

    `sock` is the end of its task process.
    """

    def __init__(
        self, cells: Cells, row: int, noted: TaskCells, sock: socket.socket, number: int
    ) -> None:
        self._owner_cells = cells
        self._row = row
        self._task_cells = noted
        self._sock = sock
        self.number = number
        self._handed_over = cells.get_float(row, owner_cells.START)
        self._method = messages.START_METHODS[cells.get(row, owner_cells.START_METHOD)]
        self.is_fresh = self._method != ""
        self.has_begun = False
        self.start = self._clock = self._handed_over
        # When a look found that it was.
        self._sent_at = self._done_at = self._answered_at = math.inf
        self._freeing_at = 0.0  # when one found that its fresh process frees its memory
        self.cpu_before = 0.0  # seconds, before the call; see `found`
        self.memory_before = 0  # bytes, as well
        self._found: tuple[float, int] | None = None

    def read(self, now: float) -> None:
        """Read what is noted by now, in seconds of `time.monotonic()`."""
        noted = self._task_cells
        if not self.has_begun and self._is_noted_as_begun():
            self.has_begun = True
            self.start = self._clock = _within(
                self._handed_over, noted.get_float(0, task_cells.START), now
            )
        if self.has_begun:
            self._clock = _within(self._clock, noted.get_float(0, task_cells.CLOCK), now)
        elif self._owner_cells.get(self._row, owner_cells.SENT) >= self.number:
            self._sent_at = min(self._sent_at, now)
        if noted.get(0, task_cells.DONE) == self.number:
            self._done_at = min(self._done_at, now)
        if self.says_answered and self._answered_at == math.inf:
            self._answered_at = time.monotonic()  # and not `now`: it may have been sent since

    def _is_noted_as_begun(self) -> bool:
        if self._task_cells.get(0, task_cells.CALL) == self.number:
            return True
        # A fresh process takes time to start. In any other, the call begins when it is sent.
        return self.is_fresh and self._task_cells.has_begun_for_good(self.number)

    def found(self, cpu_time: float, memory: int, had_begun: bool) -> None:
        """Take CPU seconds and bytes of all that counts, found at a look, `had_begun` before it.

        Before the call there was no more: than at the first look, in a process that waits for a
        call; than at the last look before the call had begun, in a fresh process.
        """
        if self._found is None or (self.is_fresh and not had_begun):
            self._found = cpu_time, memory
        self.cpu_before, self.memory_before = self._found
        if not self.has_begun:
            return
        noted = self._task_cells
        cpu_before = noted.get_float(0, task_cells.CPU_BEFORE)
        if cpu_before <= self.cpu_before + _CPU_SLACK_S:  # not so for what is no number
            self.cpu_before = cpu_before
        self.memory_before = min(noted.get(0, task_cells.MEMORY_BEFORE), self.memory_before)

    def memory(self, faults: int) -> MemoryBefore:
        """What there was before the call; by now there have been so many page faults."""
        resident, noted = self.memory_before, self._task_cells
        if not self.has_begun:
            return MemoryBefore(resident, resident, resident, faults)
        return MemoryBefore(
            resident,
            min(noted.get(0, task_cells.OWN_BEFORE), resident),
            min(noted.get(0, task_cells.ANONYMOUS_BEFORE), resident),
            min(noted.get(0, task_cells.FAULTS_BEFORE), faults),
        )

    @property
    def last_progress(self) -> float:
        """When the wall time of the call started to count."""
        if self.has_begun:
            return self._clock
        wait = _SEND_WAIT_S if self.is_fresh else _TAKE_WAIT_S
        return min(self._handed_over + _SEND_WAIT_S, self._sent_at + wait)

    @property
    def is_done(self) -> bool:
        """Whether the call says that it is done: its answer is sent, or will be at once."""
        return self._task_cells.get(0, task_cells.DONE) == self.number

    @property
    def says_answered(self) -> bool:
        """Whether it says that the answer is sent."""
        return self._task_cells.get(0, task_cells.ANSWERED) >= self.number

    @property
    def is_answered(self) -> bool:
        """Whether it says so, and its owner has not looked in vain since."""
        silent = self._owner_cells.get_float(self._row, owner_cells.SILENT)
        return self.says_answered and silent <= self._answered_at

    def is_late(self, now: float, deadline: float, frees_memory: bool) -> bool:
        """Whether a call that is done, and whose wall time has ended at `deadline`, must be ended.

        Not while its owner has not read the answer.
        """
        if _is_unread(self._sock):
            return False
        if now > deadline + _ANSWER_WAIT_S:
            return True
        if frees_memory:
            self._freeing_at = now
        return not self.is_answered and now > max(deadline, self._freeing_at) + _SEND_ANSWER_S

    def is_mute(self, now: float) -> bool:
        """Whether the call is done, and its process does not answer."""
        late = now > self._done_at + _ANSWER_WAIT_S
        return late and not self.is_answered and not _is_unread(self._sock)

    @property
    def runner(self) -> int:
        """The pid of the process that runs the function, where it is a child; 0 if it is not."""
        return self._task_cells.get(0, task_cells.RUNNER)

    @property
    def beside(self) -> int:
        """How many processes below the task process were not started by the call."""
        return min(self._task_cells.get(0, task_cells.OVERHEAD), _MOST_BESIDE[self._method])


def _within(least: float, noted: float, most: float) -> float:
    """A time that was noted, if it is possible; else the earliest one that is."""
    return noted if least <= noted <= most else least


def _is_unread(sock: socket.socket) -> bool:
    """Whether what was sent on this socket is still to be read."""
    (size,) = struct.unpack("@i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return bool(size)
