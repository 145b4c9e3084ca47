"""The guardian: a single-threaded process that starts task processes, watches and ends them."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import struct
import time
import traceback
from typing import Final

from dask_limits.limits.guardian.leftovers import Leftovers
from dask_limits.limits.guardian.monitor import TICK_S
from dask_limits.limits.guardian.task_process import TaskProcess
from dask_limits.limits.ipc import messages, owner_cells, task_cells, transport
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.linux import proctree
from dask_limits.limits.task import main as task_main

_IDLE_TICKS: Final = 50
"""Ticks without a new call before the guardian sleeps until a look at a call is due. Waking it
costs the owner a message, 10 us."""
_LONGEST_SLEEP_S: Final = 1.0
"""How often, at least, the guardian checks that its reaper lives."""
_MIN_WAIT_S: Final = 0.001
_CHECK_S: Final = 0.05
"""How often, while calls run, the guardian checks that a call has not stopped our other processes.
It takes 10 us."""


class GuardianProcess:
    """The guardian's loop; `control` is its socket with the owner."""

    def __init__(self, control: socket.socket, cells: Cells) -> None:
        self._control = control
        self._receiver = transport.Receiver(control)
        self._owner_cells = cells
        self._by_row: dict[int, TaskProcess] = {}
        self._by_pid: dict[int, TaskProcess] = {}
        # Each task process needs two open files here. Task processes get the owner's own limit.
        self._open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        hard = self._open_files[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._free_rows = list(range(owner_cells.ROWS - 1, 0, -1))
        self._spare: tuple[TaskProcess, socket.socket] | None = None
        self._idle_ticks = 0
        self._orphans: set[int] = set()  # what calls have detached, and is still there
        self._leftovers = Leftovers()
        self._reaper = os.getppid()
        self._next_check = 0.0
        # SIGCHLD must end the poll: its handler writes to this socket.
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        gc.freeze()  # what exists by now stays in pages that the children share

    def run(self) -> None:
        """Watch until the owner or the reaper ends."""
        try:
            while os.getppid() == self._reaper and self._step():
                pass
        except ConnectionError:
            pass  # the owner has ended while it was sent an answer
        finally:
            signal.set_wakeup_fd(-1)

    def _step(self) -> bool:
        """Wait for an event, and act on it. False if the owner has ended."""
        self._keep_spare()
        ready = {fd for fd, _ in self._poll.poll(self._patience_ms())}
        if self._woken.fileno() in ready:
            self._woken.recv(4096)
        ended = collect_ended()
        for child in ended:
            self._bury(*child)
        if ended or self._orphans:
            self._end_orphans()
        if self._control.fileno() in ready and not self._take_message():
            return False
        owner_cells.count_step(self._owner_cells)
        now = time.monotonic()
        self._continue_reaper(now)
        self._look(now)
        return True

    def _continue_reaper(self, now: float) -> None:
        """Continue the reaper if a call has stopped it; it does the same for us."""
        if now >= self._next_check:
            self._next_check = now + _CHECK_S
            if proctree.is_stopped(self._reaper):
                proctree.send_signal(self._reaper, signal.SIGCONT)

    def _patience_ms(self) -> float:
        """How long to wait for an event, in milliseconds."""
        wait = TICK_S
        if self._idle_ticks > _IDLE_TICKS:
            if owner_cells.is_asleep(self._owner_cells):
                wait = _LONGEST_SLEEP_S
            else:
                # The owner may be starting a call, having seen that we are awake: look once more.
                owner_cells.set_asleep(self._owner_cells, True)
        now = time.monotonic()
        for process in self._by_row.values():
            wait = min(wait, max(process.next_look - now, _MIN_WAIT_S))
        return wait * 1000

    def _take_message(self) -> bool:
        """Handle one message. False if the owner has ended."""
        message = self._receiver.receive()
        if message is None:
            return False
        kind, row, body, _ = message
        if kind == messages.SPAWN:
            self._hand_out()
        elif kind == messages.WAKE:
            owner_cells.set_asleep(self._owner_cells, False)
            self._idle_ticks = 0
        elif (process := self._by_row.get(row)) is None:
            pass  # a call to cancel that has ended, and whose process was released, before
        elif kind == messages.END:
            self._release(process)
        elif kind == messages.CANCEL:
            (number,) = struct.unpack("=Q", body)
            process.end_if_running(number, "cancelled")
        return True

    def _hand_out(self) -> None:
        """Give the owner a task process."""
        try:
            spare = self._spare or self._fork()
        except OSError as error:
            transport.send(self._control, messages.REFUSED, 0, str(error).encode())
            return
        self._spare = None
        process, owner_end = spare
        self._by_row[process.row] = process
        body = struct.pack("=Q", process.pid)
        transport.send(self._control, messages.SPAWNED, process.row, body, fds=[owner_end.fileno()])
        owner_end.close()

    def _fork(self) -> tuple[TaskProcess, socket.socket]:
        """Start a task process; an OSError if the system or the owner cells have no room for it."""
        if not self._free_rows:
            raise OSError(f"{owner_cells.ROWS - 1} calls are running, the maximum")
        with contextlib.ExitStack() as undo:
            owner_end, own_end = map(undo.enter_context, transport.pair())
            task_cells_fd = task_cells.make()
            undo.callback(os.close, task_cells_fd)
            pid = os.fork()
            undo.pop_all()
        if pid == 0:
            self._owner_cells.close()
            task_main.run(own_end.fileno(), task_cells_fd, self._open_files)
        row, cells = self._free_rows.pop(), self._owner_cells
        cells.clear(row)
        process = self._by_pid[pid] = TaskProcess(
            row, pid, cells, own_end, task_cells_fd, self._leftovers
        )
        return process, owner_end

    def _keep_spare(self) -> None:
        """Have a task process ready for the next call that needs a new one."""
        if self._spare is None and self._by_row:
            try:
                self._spare = self._fork()
            except OSError:
                pass  # the next request for one gets the error

    def _release(self, process: TaskProcess) -> None:
        """The owner needs this process no more: only now another one may have its row."""
        process.released = True
        if process.dead:
            self._forget(process)
        elif not process.cause:
            process.kill("released")

    def _forget(self, process: TaskProcess) -> None:
        self._by_row.pop(process.row, None)  # the spare is not in there
        self._free_rows.append(process.row)
        process.close()

    def _look(self, now: float) -> None:
        """Look at each task process, and take the next step in ending those that are to end."""
        busy = False
        for process in list(self._by_row.values()):
            try:
                busy |= process.look(now)
            except Exception:  # an error with one process must not end all others
                traceback.print_exc()
                process.kill(process.cause or "died")
        if busy:
            self._idle_ticks = 0
            owner_cells.set_asleep(self._owner_cells, False)
        else:
            self._idle_ticks += 1

    def _bury(self, pid: int, status: int, used: resource.struct_rusage) -> None:
        """A child has ended: if it is a task process, judge the call that it ran, if any."""
        process = self._by_pid.pop(pid, None)
        if process is None:
            return  # an orphan of a call
        if self._spare is not None and self._spare[0] is process:
            self._spare[1].close()
            self._spare = None
            process.released = True
        process.bury(status, used)
        if process.released:
            self._forget(process)

    def _end_orphans(self) -> None:
        """End what calls have started: detached processes become our children when these end.

        Nothing tells whose they were. One that we see first now has come from a task process that
        has ended just now, or from another orphan: calls that have no answer yet wait for it.
        """
        orphans = {p for p in proctree.children_of(os.getpid()) if p not in self._by_pid}
        self._leftovers.end(orphans)
        for process in self._by_row.values():
            process.note_orphans(orphans, orphans - self._orphans)
        self._orphans = orphans


def collect_ended() -> list[tuple[int, int, resource.struct_rusage]]:
    """Collect the children that have ended: pid, wait status and resources used, by wait4(2)."""
    ended = []
    try:
        while (child := os.wait4(-1, os.WNOHANG))[0]:
            ended.append(child)
    except ChildProcessError:
        pass  # there is none
    return ended
