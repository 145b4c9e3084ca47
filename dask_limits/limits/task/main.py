"""The task process: runs the calls of one owner, one at a time, and sends back how they ended."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from dask_limits.limits.ipc import messages, payload, task_cells, transport
from dask_limits.limits.ipc.task_cells import TaskCells
from dask_limits.limits.linux import files, prctl, proctree, signals, standard_output
from dask_limits.limits.task import enclosing, imports, temporary_folder
from dask_limits.limits.task.baseline import Baseline
from dask_limits.limits.task.own_changes import OwnChanges
from dask_limits.limits.task.own_memory import OwnMemory
from dask_limits.limits.task.preparation import Preparation, report_of
from dask_limits.limits.task.process_state import Setting
from dask_limits.limits.task.run_function import NOTHING, Ended, Runner

_IDLE_GROWTH: Final = 256 * 2**20
"""Bytes by which an idle process may have grown since its first call; or its size then, if that is
more. A new process costs the next call its imports, a large one costs memory."""


def undo_guardian(open_files: tuple[int, int], *keep: int) -> None:
    """Undo what a fork of the guardian inherits, but for these files and the standard files.

    `open_files` are the owner's limits on open files, soft and hard.
    """
    prctl.die_with_parent(signal.SIGKILL)
    os.setsid()
    temporary_folder.use_another()
    signal.set_wakeup_fd(-1)
    signals.stop_ignoring()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
    start = 3
    for fd in sorted(keep):
        os.closerange(start, fd)
        start = fd + 1
    files.close_from(start)


def run(
    sock_fd: int,
    task_cells_fd: int,
    template: int,
    preparation: Preparation,
    settled: Callable[[float, bytes], None],
) -> NoReturn:
    """Be a task process, in a new child of the template, until the owner closes the socket.

    Tells by `settled` what it has cost to become one, in seconds, and by a report why it could not.
    """
    try:
        sock, cells = _settle_in(sock_fd, task_cells_fd, template)
        try:
            own_changes = OwnChanges(cells.note_looked_for)  # before the hooks are noted
            if _prepare(preparation, settled):
                own_changes.end_preparation()
                TaskProcess(sock, cells, preparation, own_changes).serve()
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN):
                cells.put(0, task_cells.DEAF, 1)
            elif not isinstance(error, ConnectionError):  # the owner has given up on this call
                raise
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _settle_in(sock_fd: int, task_cells_fd: int, template: int) -> tuple[socket.socket, TaskCells]:
    """Leave the template's session, and move the two files out of the way."""
    prctl.set_readable(readable=True)  # else a call could not open its own /proc/self/mem
    prctl.die_with_parent(signal.SIGKILL)
    if os.getppid() != template:
        os._exit(0)
    prctl.become_subreaper()
    prctl.set_name("limits-task")
    temporary_folder.use_another()
    files_before = sock_fd, task_cells_fd
    sock_fd, task_cells_fd = map(files.out_of_the_way, files_before)
    files.close([*files_before])
    cells = TaskCells(task_cells_fd)
    cells.put(0, task_cells.PID, os.getpid())  # so that it is known in its new session
    os.setsid()  # its process group has no other members
    cells.collect_stacks()
    standard_output.buffer_by_lines()
    return transport.adopt(sock_fd), cells


def _prepare(preparation: Preparation, settled: Callable[[float, bytes], None]) -> bool:
    """Do what comes before the first call. False if that has failed."""
    report = b""
    start = time.monotonic() - proctree.queued_seconds()
    try:
        preparation.in_task_process()
    except BaseException as why:
        report = report_of(why)
    took = time.monotonic() - proctree.queued_seconds() - start  # on a busy machine no more
    settled(max(time.process_time(), took), report)
    return not report


class TaskProcess:
    """Receives calls, runs them, and sends answers."""

    def __init__(
        self,
        sock: socket.socket,
        cells: TaskCells,
        preparation: Preparation,
        own_changes: OwnChanges,
    ) -> None:
        self._sock = sock
        self._receiver = transport.Receiver(sock)
        self._task_cells = cells
        self._setting: Setting  # comes before the first call
        self._memory = OwnMemory()
        self._first_idle_memory = 0
        self._preparation = preparation
        self._runner = Runner(cells, self._memory)
        self._own_changes = own_changes
        self._baseline: Baseline | None = None  # of a process that may be used again
        self._keeps = True  # what libraries keep on purpose; as the last call orders it
        self._modules = preparation.modules
        self._imported = preparation.imported  # before it
        self._has_imported = False  # the last call

    def serve(self) -> None:
        """Run calls until the other end is closed, or a call leaves this process unfit."""
        while (message := self._receiver.receive()) is not None:
            if message.kind == messages.SETTING:
                setting, is_for_one = payload.unpack(message.body, message.fds)
                message.close()
                self._setting = self._preparation.changes.applied_to(setting)
                self._setting.restore()
                self._own_changes.begin_call()
                imports.look_into_archives_again()
                if self._baseline is None and not is_for_one:  # before a request, which has files
                    self._baseline = Baseline(self._task_cells, self._preparation.random)
                self._memory.get_ready()
            elif not (self._run_all(message) and self._is_fit()):
                break

    def _run_all(self, request: transport.Message) -> bool:
        """Run the calls of a request. False if one has left this process unfit for the next, or if
        that does not matter: they have taken so long that it is to be replaced.
        """
        orders = messages.Orders(*messages.ORDERS.unpack_from(request.body))
        self._keeps = orders.keeps
        enclosing.begin_call(reserved=orders.reserved)
        seconds, has_imported = 0.0, False
        for number, head in enumerate(messages.calls_in(request.body), request.number):
            if number > request.number:
                if not self._is_fit():
                    return False
                if self._goes_elsewhere(number, orders, seconds):
                    transport.send(self._sock, messages.SKIPPED, number)
                    break
            seconds += self._run_one(number, orders, head, request.fds)
            has_imported |= self._has_imported
        # The owner allows for modules of the user's, which another process would import again.
        return seconds <= orders.seconds or has_imported

    def _goes_elsewhere(self, number: int, orders: messages.Orders, seconds: float) -> bool:
        """Whether the next call of a request is not to begin here."""
        is_full = 0 < orders.memory < self._memory.held
        is_held = self._task_cells.get(0, task_cells.HELD) >= number
        return seconds > orders.seconds or is_full or is_held

    def _run_one(
        self, number: int, orders: messages.Orders, head: memoryview, fds: list[int]
    ) -> float:
        """Run a call, and send the answer. Returns the seconds that it took."""
        kind, end, *figures = self._run(number, orders, head, fds)
        if len(sys.modules) != len(self._modules) or self._imported:
            self._report_imports(number)
        account = messages.ACCOUNT.pack(*figures, self._memory.first)
        transport.send(self._sock, kind, number, account, end.head, fds=end.fds)
        end.close()
        # From here on this call is not ended any more. Whoever holds the next ones looks at this.
        self._task_cells.put(0, task_cells.ANSWERED, number)
        return figures[0]

    def _run(self, number: int, orders: messages.Orders, head: memoryview, fds: list[int]) -> Ended:
        captured = NOTHING
        if orders.captures:
            captured = standard_output.redirected(fds[-2:])
            del fds[-2:]
        with captured:
            if orders.start_method:
                from dask_limits.limits.task import fresh  # with pynisher, which few calls need

                return fresh.run(number, orders, head, fds, self._runner)
            return self._runner.run(number, orders, head, fds)

    def _report_imports(self, number: int) -> None:
        """Tell the owner what the call has imported, so that later processes have it from start."""
        new = [name for name in sys.modules if name not in self._modules]
        self._modules = frozenset(sys.modules)
        description = imports.describe(new, self._own_changes.imported_after(new))
        reports = (messages.PREPARED_IMPORTS, self._imported), (messages.IMPORTED, description)
        for kind, report in reports:
            for part in imports.in_parts(report):
                transport.send(self._sock, kind, number, part)
        self._imported = b""
        self._has_imported = bool(new)

    def _is_fit(self) -> bool:
        """Restore what a call has changed, and check that nothing else is left of it.

        This runs after the answer was sent. If this process is not fit for another call, it ends,
        with all that the call has left. A request that arrives meanwhile has not begun, and goes
        to another process.
        """
        if (
            self._has_imported
            and not self._keeps
            and (self._setting.differs_here() or self._runner.context_differs())
        ):
            return False  # modules have changed path, environment, ..., and would not do so again
        self._has_imported = False
        if self._baseline is None:
            return False
        if not self._baseline.restore(self._setting, self._keeps, self._runner.busy):
            return False
        if self._own_changes.has_looked:
            self._own_changes.begin_call()
        call = self._task_cells.get(0, task_cells.CALL)
        warned = self._task_cells.get(0, task_cells.WARNED) == call
        if call and (warned or self._has_grown()):
            return False
        self._memory.get_ready()  # now, while nobody waits for it
        return True

    def _has_grown(self) -> bool:
        """Whether it holds much more memory than after its first call."""
        now = self._memory.tidy_up()
        self._first_idle_memory = self._first_idle_memory or now
        return now > self._first_idle_memory + max(_IDLE_GROWTH, self._first_idle_memory)
