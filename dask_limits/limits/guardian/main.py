"""The guardian: a single-threaded process that starts task processes, watches and ends them.

Nothing in its loop may block: a call that cannot be ended must not delay the end of another.
So a task process is ended in steps, one in each pass of the loop:

    condemned   it writes its Python stacks, for a few milliseconds at most
    killed      SIGKILL was sent to its tree; wait until it has ended
    buried      the verdict was sent to the owner
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import pickle
import resource
import select
import signal
import socket
import struct
import time
import traceback
from typing import Final

from dask_limits.limits.guardian.monitor import TICK_S, Watch
from dask_limits.limits.guardian.task_process import TaskProcess
from dask_limits.limits.ipc import messages, owner_cells, task_cells, transport
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.linux import proctree, stacks
from dask_limits.limits.task import main as task_main
from dask_limits.limits.task.grace import SIGNALS

_STACKS_WAIT_S: Final = 0.06
"""How long to wait for stacks. They take a millisecond, but on a busy machine a process may have to
wait for a processor. One that goes on using memory has a processor, and writes them first."""
_BLOCKED_STACKS_WAIT_S: Final = 0.02
"""The same for a process that blocks their signal, as one does while vfork(2) starts a program."""
_STACKS_POLL_S: Final = 0.001
_KILL_WAIT_S: Final = 1.0
"""A process that has not ended this long after SIGKILL is in an uninterruptible sleep."""
_IDLE_TICKS: Final = 50
"""Ticks without a new call before the guardian sleeps until a look at a call is due. Waking it
costs the owner a message, 10 us."""
_LONGEST_SLEEP_S: Final = 1.0
"""How often, at least, the guardian checks that its reaper lives."""
_MIN_WAIT_S: Final = 0.001
_DEATHS_BY_WARNING: Final = {-number for number in (*SIGNALS.values(), stacks.SIGNAL)}


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
        self._orphans_until = 0.0  # how long to wait for what calls have detached; 0 for none
        self._reaper = os.getppid()
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
        finally:
            signal.set_wakeup_fd(-1)

    def _step(self) -> bool:
        """Wait for an event, and act on it. False if the owner has ended."""
        self._keep_spare()
        ready = {fd for fd, _ in self._poll.poll(self._patience_ms())}
        if self._woken.fileno() in ready:
            self._woken.recv(4096)
        for ended in collect_ended():
            self._bury(*ended)
        if self._orphans_until:
            self._end_orphans()
        if self._control.fileno() in ready and not self._take_message():
            return False
        self._look(time.monotonic())
        return True

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
            if process.cause and not process.dead:
                wait = min(wait, _STACKS_POLL_S)
            elif process.watch is not None:
                wait = min(wait, max(process.watch.next_look - now, _MIN_WAIT_S))
        return wait * 1000

    # -- requests of the owner -------------------------------------------------------------

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
            self._end_if_running(process, number, "cancelled")
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
        """Start a task process.

        Raises:
            OSError: if the system or the owner cells have no room for another.
        """
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
        row = self._free_rows.pop()
        self._owner_cells.clear(row)
        process = self._by_pid[pid] = TaskProcess(row, pid, own_end, task_cells_fd)
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
            self._kill(process, "released")

    def _forget(self, process: TaskProcess) -> None:
        self._by_row.pop(process.row, None)  # the spare is not in there
        self._free_rows.append(process.row)
        process.close()

    # -- watching --------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Look at each task process, and take the next step in ending those that are to end."""
        busy = False
        for process in list(self._by_row.values()):
            try:
                busy |= self._look_at(process, now)
            except Exception:  # an error with one process must not end all others
                traceback.print_exc()
                self._kill(process, process.cause or "died")
        if busy:
            self._idle_ticks = 0
            owner_cells.set_asleep(self._owner_cells, False)
        else:
            self._idle_ticks += 1

    def _look_at(self, process: TaskProcess, now: float) -> bool:
        """The same for one task process. Returns whether it needs another look soon."""
        if process.dead:
            self._answer_for(process)
            return process.verdict is not None and not process.hung_up
        if process.cause:
            self._go_on_ending(process, now)
            return True
        number = self._owner_cells.get(process.row, owner_cells.CALL)
        if number == 0:
            process.watch = None
            return False
        before, watch = process.watch, self._watch(process, number)
        if now < watch.next_look:
            return False
        breached = watch.look(now)
        if breached:
            watch.note_child(breached)
            if watch.warn_of(breached):
                self._warn(process, watch, SIGNALS[breached])
            else:
                self._end_if_running(process, number, breached)
        return bool(breached) or watch is not before

    def _warn(self, process: TaskProcess, watch: Watch, number: int) -> None:
        """Warn a call of its end by a signal, and have its stacks written."""
        process.task_cells.put(0, task_cells.WARNED, watch.number)
        if process.task_cells.get(0, task_cells.DONE) == watch.number:
            return  # see GraceWarning
        task_cells.forget_stacks(process.task_cells_fd)
        # Of two pending signals, the handler of faulthandler, in C, runs first.
        for each in (stacks.SIGNAL, number):
            proctree.send_signal(watch.runner, each)

    def _watch(self, process: TaskProcess, number: int) -> Watch:
        if process.watch is None or process.watch.number != number:
            process.watch = Watch(
                self._owner_cells, process.row, process.task_cells, process.pid, number
            )
        return process.watch

    def _end_if_running(self, process: TaskProcess, number: int, cause: str) -> None:
        """Begin to end a process, unless the call in question has ended already.

        The call may end at any moment and another one start in the same process. So we first
        write that the process is condemned, then read what it runs. The owner first clears what
        it runs, then reads whether the process is condemned; if so it runs nothing more in it.
        """
        if process.cause or process.dead:
            return
        self._owner_cells.put(process.row, owner_cells.CONDEMNED, number)
        if self._owner_cells.get(process.row, owner_cells.CALL) != number:
            return  # and the owner releases the process
        runner = self._watch(process, number).runner
        process.cause = cause
        blocked = proctree.blocks_signal(runner, stacks.SIGNAL)
        patience = _BLOCKED_STACKS_WAIT_S if blocked else _STACKS_WAIT_S
        process.stacks_until = time.monotonic() + patience
        task_cells.forget_stacks(process.task_cells_fd)
        proctree.send_signal(runner, signal.SIGCONT)  # a stopped process writes nothing
        proctree.send_signal(runner, stacks.SIGNAL)

    # -- ending ----------------------------------------------------------------------------

    def _go_on_ending(self, process: TaskProcess, now: float) -> None:
        if process.killed_at == math.inf:
            size = task_cells.stacks_length(process.task_cells_fd)
            if (size and size == process.stacks_size) or now > process.stacks_until:
                if process.watch is not None:
                    process.watch.note_child(process.cause)
                self._kill(process, process.cause)
            process.stacks_size = size
        elif now > process.killed_at + _KILL_WAIT_S and process.verdict is None:
            if process.watch is not None:
                self._judge(process, process.watch)
            self._deliver(process)

    def _kill(self, process: TaskProcess, cause: str) -> None:
        process.cause = cause
        process.killed_at = time.monotonic()
        proctree.kill_tree(process.pid)

    def _bury(self, pid: int, status: int, used: resource.struct_rusage) -> None:
        """A child has ended: end what it left behind, and tell the owner if it ran a call."""
        process = self._by_pid.pop(pid, None)
        if process is None:
            return  # an orphan of a call
        self._end_orphans()
        process.dead = True
        if self._spare is not None and self._spare[0] is process:
            self._spare[1].close()
            self._spare = None
            self._forget(process)
            return
        process.sock.shutdown(socket.SHUT_RD)  # an owner that still sends must not wait for ever
        number = self._owner_cells.get(process.row, owner_cells.CALL)
        begun = bool(process.cause) or process.task_cells.get(0, task_cells.CALL) == number
        if process.verdict is None and number and begun:
            self._judge(process, self._watch(process, number), status, used)
        self._answer_for(process)
        if process.released:
            self._forget(process)

    def _answer_for(self, process: TaskProcess) -> None:
        """Tell the owner, if it waits for a process that has ended.

        Until it knows, it may start another call there, which has not begun and can run elsewhere.
        """
        number = self._owner_cells.get(process.row, owner_cells.CALL)
        if process.verdict is None and number:
            process.verdict = messages.UNBEGUN, number, b""
        self._deliver(process)

    def _end_orphans(self) -> None:
        """End what calls have started: detached processes become our children when these end.

        With much memory they take long to end. No verdict is sent before, or the next call could
        begin while that memory is in use; but one in an uninterruptible sleep is not waited for.
        """
        orphans = [p for p in proctree.children_of(os.getpid()) if p not in self._by_pid]
        for pid in orphans:
            proctree.kill_tree(pid)
        if not orphans:
            self._orphans_until = 0.0
        elif not self._orphans_until:
            self._orphans_until = time.monotonic() + _KILL_WAIT_S

    def _judge(
        self,
        process: TaskProcess,
        watch: Watch,
        status: int | None = None,
        used: resource.struct_rusage | None = None,
    ) -> None:
        code = None if status is None else os.waitstatus_to_exitcode(status)
        cause = process.cause or self._cause_of_death(process, watch, code)
        verdict = watch.verdict(cause, code, used, task_cells.stacks(process.task_cells_fd))
        process.verdict = messages.VERDICT, watch.number, pickle.dumps(verdict)

    def _cause_of_death(self, process: TaskProcess, watch: Watch, code: int | None) -> str:
        """The cause of the end of a process that we have not ended."""
        if process.task_cells.get(0, task_cells.DEAF):
            return "deaf"
        if watch.warned_of and code in _DEATHS_BY_WARNING:
            return watch.warned_of  # the call has restored what these signals do by default
        return "died"

    def _deliver(self, process: TaskProcess) -> None:
        """Send the verdict, if any, once the socket has room for it; then shut the socket down."""
        if process.hung_up or process.verdict is None or time.monotonic() < self._orphans_until:
            return
        try:
            transport.send(process.sock, *process.verdict, flags=socket.MSG_DONTWAIT)
            process.sock.shutdown(socket.SHUT_RDWR)
        except BlockingIOError:
            return
        except OSError:
            pass  # the owner has abandoned this call
        process.hung_up = True


def collect_ended() -> list[tuple[int, int, resource.struct_rusage]]:
    """Collect the children that have ended: pid, wait status and resources used, by wait4(2)."""
    ended = []
    try:
        while (child := os.wait4(-1, os.WNOHANG))[0]:
            ended.append(child)
    except ChildProcessError:
        pass  # there is none
    return ended
