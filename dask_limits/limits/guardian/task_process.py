"""Watches one task process, and ends it.

Nothing here may block: a call that cannot be ended must not delay the end of another. So a task
process is ended in steps, one in each pass of the guardian's loop:

    condemned   it writes its Python stacks: a few milliseconds, if it gets a processor
    killed      SIGKILL was sent to its tree; wait until it has ended
    buried      it has ended, and what it left behind is about to; then the owner gets the verdict
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import socket
import time
from typing import Final

from dask_limits.limits.guardian.groups import Groups
from dask_limits.limits.guardian.leftovers import Leftovers
from dask_limits.limits.guardian.monitor import Watch
from dask_limits.limits.guardian.notes import Notes
from dask_limits.limits.guardian.strays import Family
from dask_limits.limits.guardian.template import EndedProcess
from dask_limits.limits.guardian.templates import Spare
from dask_limits.limits.ipc import messages, owner_cells, task_cells, transport
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.ipc.task_cells import TaskCells, is_whole
from dask_limits.limits.linux import proctree
from dask_limits.limits.linux.proctree import Process
from dask_limits.limits.task.grace import SIGNALS

_STACKS_WAIT_S: Final = 0.06
"""How long to wait for stacks, which take a millisecond."""
_BLOCKED_STACKS_WAIT_S: Final = 0.02
"""The same for a process that blocks their signal, as one does while vfork(2) starts a program."""
_LONGEST_STACKS_WAIT_S: Final = 2.0
"""The same for one that is still to be given a processor, as long as its call has used no more CPU
time than this wait takes else. So it cannot have used more memory, or started more processes."""
_HOLD_S: Final = 0.0001
"""What one processor writes is seen by all others far sooner."""
KILL_WAIT_S: Final = 1.0
"""A process that has not ended this long after SIGKILL is in an uninterruptible sleep."""
_DEATHS_BY_WARNING: Final = {-number for number in (*SIGNALS.values(), task_cells.STACKS_SIGNAL)}


class TaskProcess:
    """The guardian's record of one task process, which has a row of the owner cells."""

    def __init__(
        self,
        row: int,
        spare: Spare,
        cells: Cells,
        groups: Groups,
        leftovers: Leftovers,
    ) -> None:
        self.row = row
        self.pid = pid = spare.pid
        self.cause = ""  # why it is being ended; empty if it is not
        self.dead = False
        self.released = False  # whether the owner needs it no more
        self.key = os.urandom(8)  # its call cannot know: it is made after the process
        self._owner_cells = cells
        self._task_cells = TaskCells(spare.task_cells_fd)
        self._sock = (
            spare.own_end
        )  # a copy of its end: to send a verdict even when the process has ended
        self._leftovers = leftovers
        self._groups = groups
        self.family = Family(pid, self._running_since)
        self._watch: Watch | None = None
        self._stacks_until = self._stacks_until_at_most = math.inf
        self._stacks_until_cpu = math.inf  # CPU seconds of its call
        self._stacks = ""  # as far as they were written at the last look
        self._killed_at = math.inf
        self._died_at = math.inf
        self._orphans: set[int] = set()  # what its call may have detached, and is still there
        self._exit_code: int | None = None
        self._used: EndedProcess | None = None
        self._busy_at = time.monotonic()  # when it was last seen to run a call
        self._verdict: tuple[int, int, bytes] | None = None
        self._hung_up = False
        self._answered = 0, 0  # the last call of which it is noted, in the request that ends so
        self._ahead_of, self._ahead_since = 0, 0.0  # a call of the owner's, and when that was found
        self._given_back = 0  # up to this number; see `_hold`

    def close(self) -> None:
        """Close its files."""
        self._sock.close()
        self._task_cells.close()

    @property
    def next_look(self) -> float:
        """When to look at it again, in seconds of `time.monotonic()`."""
        if self.cause and not self.dead:
            return 0.0
        return math.inf if self._watch is None else self._watch.next_look

    def _running_since(self) -> float:
        """When its owner handed its call over, in seconds since boot; inf if none runs, or it is
        being ended.
        """
        if self.cause or self.dead or not self._call:
            return math.inf
        ago = time.monotonic() - self._owner_cells.get_float(self.row, owner_cells.START)
        return proctree.seconds_since_boot() - ago

    @property
    def _call(self) -> int:
        """The number of the call that runs, or is about to; 0 is none.

        The owner may not have read the answers of those before it in the same request.
        """
        number = self._owner_cells.get(self.row, owner_cells.CALL)
        answered = self._task_cells.get(0, task_cells.ANSWERED)
        return min(answered + 1, self._last) if 0 < number <= answered else number

    @property
    def _last(self) -> int:
        """The number of the last call of its request."""
        return self._owner_cells.get(self.row, owner_cells.LAST)

    def _is_lying(self) -> bool:
        """Whether a call says that it is answered, and its owner does not find the answer.

        So it would pass for the next one of its request. What is answered stays so.
        """
        number, last = self._owner_cells.get(self.row, owner_cells.CALL), self._last
        (request, before), answered = self._answered, self._task_cells.get(0, task_cells.ANSWERED)
        self._answered = last, answered
        if not 0 < number < last:
            return False
        if answered < number:
            return request == last and answered < before
        if self._ahead_of != number:
            self._ahead_of, self._ahead_since = number, time.monotonic()
        silent = self._owner_cells.get_float(self.row, owner_cells.SILENT)
        still = self._owner_cells.get(self.row, owner_cells.CALL) == number
        return still and silent > self._ahead_since

    def _hold(self, number: int) -> bool:
        """Have no call after this one begin. False if this one has ended by now.

        A process notes that a call is answered, and looks then whether the next one is held. So if
        that is not noted by now, it finds that it is.
        """
        if self._last <= number:
            return True
        self._task_cells.put(0, task_cells.HELD, self._last)
        time.sleep(_HOLD_S)
        return self._task_cells.get(0, task_cells.ANSWERED) < number

    def _give_back_after(self, number: int) -> bool:
        """Let the owner have the calls that wait for this one to end. It may take long.

        False if it has ended by now: its process says then which calls it has not begun.
        """
        if self._last <= number or self._last == self._given_back:
            return True
        if not self._hold(number):
            return False
        what = messages.UNBEGUN, number + 1, self.key
        with contextlib.suppress(OSError):  # there may be no room: then at the next look
            transport.send(self._sock, *what, flags=transport.DO_NOT_WAIT)
            self._given_back = self._last
        return True

    def look(self, now: float) -> bool:
        """Look at its call, or take the next step in ending it. False if the next look can wait."""
        number = self._call
        if self.dead and self._verdict is None and number:
            # Until the owner knows, it may start another call there, which has not begun and can
            # run elsewhere.
            self._verdict = messages.UNBEGUN, number, self.key
        elif self.cause and not self.dead:
            self._go_on_ending(now)
        if self.cause or self.dead:
            # Processes with much memory take long to end, and it is in use until then. But one in
            # an uninterruptible sleep is not waited for.
            if not self._orphans or now > self._died_at + KILL_WAIT_S:
                self._deliver()
            return not self.dead or (self._verdict is not None and not self._hung_up)
        if number == 0:
            self._watch = None
            return False
        if self._is_lying():
            self.end_if_running(number, "mute")
            return True
        self._busy_at = now
        before, watch = self._watch, self._watch_call(number)
        if now < watch.next_look:
            return False
        breached = watch.look(now)
        if breached:
            watch.note_child(breached)
            if watch.warn_of(breached):
                self._warn(watch, SIGNALS[breached])
            else:
                self.end_if_running(number, breached)
        elif watch is before:
            self._give_back_after(number)
        return bool(breached) or watch is not before

    def _watch_call(self, number: int) -> Watch:
        if self._watch is None or self._watch.number != number:
            self.family.forget()
            notes = Notes(self._owner_cells, self.row, self._task_cells, self._sock, number)
            its = self.pid, self.family, self._groups
            self._watch = Watch(self._owner_cells, self.row, notes, *its)
        return self._watch

    def _warn(self, watch: Watch, number: int) -> None:
        """Warn a call of its end by a signal, and have its stacks written."""
        noted = self._task_cells
        noted.put(0, task_cells.WARNED, watch.number)
        # In this order: if that call runs when the second is read, the first was of one before it.
        done, begun = noted.get(0, task_cells.DONE), noted.get(0, task_cells.CALL)
        if watch.number == done or watch.number != begun:
            return  # see GraceWarning
        noted.forget_stacks()
        # Of two pending signals, the handler of faulthandler, in C, runs first.
        runner = watch.runner
        proctree.send_signal(runner, task_cells.STACKS_SIGNAL)
        proctree.send_signal(runner, number)

    def cancel(self, number: int) -> None:
        """End it if it runs this call, or have it not begin this one."""
        call, ends = self._call, self.cause or self.dead
        is_next = 0 < call < number <= self._last and not ends
        if is_next and self._give_back_after(call):
            return
        if number == self._call:  # it may have begun just now
            self.end_if_running(number, "cancelled")

    def end_if_running(self, number: int, cause: str) -> None:
        """Begin to end it, unless the call in question has ended already.

        The call may end at any moment and another one start in the same process. So we first
        write that the process is condemned, then read what it runs. The owner first clears what
        it runs, then reads whether the process is condemned; if so it runs nothing more in it.
        """
        if self.cause or self.dead or not self._hold(number):
            return
        self._owner_cells.put(self.row, owner_cells.CONDEMNED, number)
        if not 0 < self._owner_cells.get(self.row, owner_cells.CALL) <= number:
            return  # and the owner releases the process
        watch = self._watch_call(number)
        runner = watch.runner
        self.cause = cause
        blocked = proctree.blocks_signal(runner, task_cells.STACKS_SIGNAL)
        patience = _BLOCKED_STACKS_WAIT_S if blocked else _STACKS_WAIT_S
        now = time.monotonic()
        self._stacks_until = now + patience
        self._stacks_until_at_most = now + _LONGEST_STACKS_WAIT_S
        self._task_cells.forget_stacks()
        proctree.send_signal(runner, signal.SIGCONT)  # a stopped process writes nothing
        proctree.send_signal(runner, task_cells.STACKS_SIGNAL)
        self._stacks_until_cpu = watch.read_cpu_time() + patience

    def _go_on_ending(self, now: float) -> None:
        if self._killed_at == math.inf:
            stacks = self._task_cells.stacks()
            if (stacks == self._stacks and is_whole(stacks)) or not self._may_write_stacks(now):
                if self._watch is not None:
                    self._watch.note_child(self.cause)
                self.kill(self.cause)
            self._stacks = stacks
        elif now > self._killed_at + KILL_WAIT_S and self._verdict is None:
            self._judge()

    def _may_write_stacks(self, now: float) -> bool:
        """Whether it is worth while to wait for stacks, and does no harm."""
        if now <= self._stacks_until or self._watch is None:
            return now <= self._stacks_until
        return (
            now <= self._stacks_until_at_most
            and self._watch.is_kept_waiting()
            and self._watch.read_cpu_time() <= self._stacks_until_cpu
        )

    def kill(self, cause: str) -> None:
        """End it and everything below it."""
        self.cause = cause
        self._killed_at = time.monotonic()
        trackers = proctree.kill_tree(self.pid)
        self._leftovers.note_end(tracker.session for tracker in trackers)

    def idle_s(self, now: float) -> float:
        """For how long it has run no call, in seconds."""
        if self._call or self.dead:
            return 0.0
        return now - max(self._busy_at, self._owner_cells.get_float(self.row, owner_cells.START))

    @property
    def is_warm(self) -> bool:
        """Whether it is kept for what its calls have left in it."""
        return self._owner_cells.get(self.row, owner_cells.WARM) != 0

    def let_go(self) -> None:
        """Have it end by itself, unless the owner has just sent a call: after that call then."""
        self._sock.shutdown(socket.SHUT_RD)

    def bury(self, ended: EndedProcess) -> None:
        """It has ended: judge the call that it ran, if any."""
        self.dead = True
        self._died_at = time.monotonic()
        self._leftovers.note_end([self.pid])  # which is its session too
        self._exit_code = os.waitstatus_to_exitcode(ended.status)
        self._used = ended
        self._owner_cells.put(self.row, owner_cells.GONE, 1)
        self._sock.shutdown(socket.SHUT_RD)  # an owner that still sends must not wait for ever
        number = self._call
        if self._verdict is None and number:
            watch = self._watch if self.cause else None  # of the call for which it was ended
            notes = (watch or self._watch_call(number)).notes
            notes.read(self._died_at)
            if self.cause or notes.has_begun:
                self._judge()

    def note_orphans(self, orphans: dict[int, Process], known: set[int]) -> None:
        """Answer only when those have ended that its call may have detached.

        `orphans` are all that are to end, by pid. `known` were so before.
        """
        for pid, orphan in orphans.items():
            if self.family.has(orphan) or (pid not in known and self._is_ending):
                self._orphans.add(pid)
        self._orphans &= orphans.keys()

    @property
    def _is_ending(self) -> bool:
        """Whether what it has detached may be an orphan now: it may have ended unreported."""
        return self.dead or bool(self.cause) or proctree.has_ended(self.pid)

    def _judge(self) -> None:
        watch = self._watch
        if watch is None:
            return
        cause = self.cause or "died"
        if not self.cause and self._task_cells.get(0, task_cells.DEAF):
            cause = "deaf"
        elif not self.cause and watch.warned_of and self._exit_code in _DEATHS_BY_WARNING:
            cause = watch.warned_of  # the call has restored what these signals do by default
        verdict = watch.verdict(cause, self._exit_code, self._used, self._task_cells)
        self._verdict = messages.VERDICT, watch.number, self.key + pickle.dumps(verdict)

    def _deliver(self) -> None:
        """Send the verdict, if any, once the socket has room for it; then shut the socket down."""
        if self._hung_up or self._verdict is None:
            return
        try:
            transport.send(self._sock, *self._verdict, flags=transport.DO_NOT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            pass  # the owner has abandoned this call, or the call has left no room for a verdict
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._hung_up = True
