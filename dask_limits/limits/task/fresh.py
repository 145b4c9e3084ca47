"""A call in a process of its own, which pynisher starts and limits below the task process.

A task process is neither daemonic nor threaded, so pynisher works there as designed, also on Dask
workers. Its limits are only a backup of the guardian's: they count whole seconds, and act up to
five seconds late. Its limit on memory is not used: it limits address space, and would end code
that reserves much and uses little, as NumPy's threads do. Its pipe is not used either: it would
take what a call writes there by mistake for an answer.

Source: https://github.com/automl/pynisher
"""

from __future__ import annotations

import errno
import faulthandler
import math
import multiprocessing
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, Final, NoReturn

import pynisher

from dask_limits.limits.ipc import messages, payload, task_cells, transport
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.ipc.messages import Orders
from dask_limits.limits.ipc.payload import Payload
from dask_limits.limits.ipc.task_cells import TaskCells
from dask_limits.limits.linux import files, proctree, standard_output
from dask_limits.limits.task import imports
from dask_limits.limits.task.own_memory import OwnMemory
from dask_limits.limits.task.run_function import Ended, Runner

_MARGIN_S: Final = 1
"""Seconds that pynisher waits longer than the guardian, before rounding up to whole seconds."""
_LIMITS: Final = {
    pynisher.WallTimeoutException: "wall_time",
    pynisher.CpuTimeoutException: "cpu_time",
}


def run(number: int, orders: Orders, head: memoryview, fds: list[int], runner: Runner) -> Ended:
    """Run one call in a new process, and not by the runner of this one; see `Runner.run`."""
    cells = runner.task_cells
    on_sigterm = signal.getsignal(signal.SIGTERM)  # pynisher sets its own, and leaves it there
    ours, theirs = transport.pair()
    with ours, theirs:
        transport.send(ours, messages.REQUEST, number, fds=(cells.fd, *fds))
        files.close(fds)
        answers = _Answers(ours)
        sender = _Sender(theirs, number)
        context = _Context(messages.START_METHODS[orders.start_method], answers, sender)
        limited = _Pynisher(number, orders, cells, context)
        try:
            return limited(sender, bytes(head), orders, os.getpid())  # type: ignore[no-any-return]
        except pynisher.PynisherException as error:
            if answers.poll(0):  # pynisher looks for an answer first, and for the process then
                return answers.recv()[0]
            limit = _LIMITS.get(type(error))
            if limit is None:
                _end_like(context.process)
            now = time.monotonic()
            wall_time = now - cells.get_float(0, task_cells.START)
            step = now - cells.get_float(0, task_cells.CLOCK)
            return Ended(messages.BREACHED, payload.pack_texts(limit), wall_time, step, 0.0, 0.0, 0)
        finally:
            cells.put(0, task_cells.RUNNER, 0)
            signal.signal(signal.SIGTERM, on_sigterm)
            context.close()
            runner.children_cpu_time = proctree.children_cpu_time()


class _Answers:
    """The receiving end of a pipe, as pynisher uses it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._receiver = transport.Receiver(sock)
        self._ended: Ended | None = None

    def poll(self, seconds: float) -> bool:
        """Wait for an answer."""
        if self._ended is None and self._poll.poll(seconds * 1000):
            try:
                message = self._receiver.receive()
            except BlockingIOError:
                message = None  # what came was no message
            if message is not None:
                head = bytes(message.body[messages.FRESH_ACCOUNT.size :])
                figures = messages.FRESH_ACCOUNT.unpack_from(message.body)
                self._ended = Ended(message.kind, Payload(head, message.fds), *figures)
        return self._ended is not None

    def recv(self) -> tuple[Ended, None, None]:
        """The answer: a result, without an error or a traceback."""
        assert self._ended is not None
        return self._ended, None, None

    def close(self) -> None:
        """Do nothing: we may look once more."""


class _Sender:
    """The sending end, in the new process."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.task_cells: TaskCells | None = None

    def settle_in(self) -> tuple[TaskCells, list[int]]:
        """Move our files out of the way. Returns the task cells, and the call's own file."""
        received = transport.Receiver(self.sock).receive()
        assert received is not None
        self.task_cells = TaskCells(files.out_of_the_way(received.fds[0]))
        os.close(received.fds.pop(0))
        sock = transport.adopt(files.out_of_the_way(self.sock.fileno()))
        self.sock.close()
        self.sock = sock
        return self.task_cells, received.fds

    def send(self, response: tuple[Ended | None, BaseException | None, str | None]) -> NoReturn:
        """Send the answer, and end without waiting for what the call has left in this process."""
        ended, _, text = response
        if ended is None:
            sys.stderr.write(str(text))
            os._exit(1)
        kind, end, *figures = ended
        account = messages.FRESH_ACCOUNT.pack(*figures)
        try:
            transport.send(self.sock, kind, self.number, account, end.head, fds=end.fds)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN) and self.task_cells:
                self.task_cells.put(0, task_cells.DEAF, 1)
        os._exit(0)

    def close(self) -> None:
        """Do nothing: it is closed with the process."""


class _Context:
    """A context of multiprocessing with a given pipe, which keeps the process that it makes."""

    def __init__(self, method: str, answers: _Answers, sender: _Sender) -> None:
        self._context: Any = multiprocessing.get_context(method)
        self._pipe = answers, sender
        self.process: Any = None

    def Pipe(self, duplex: bool) -> tuple[_Answers, _Sender]:  # noqa: N802
        return self._pipe

    def Process(self, **arguments: Any) -> Any:  # noqa: N802
        self.process = self._context.Process(**arguments)
        return self.process

    def close(self) -> None:
        """Close the files of the process, which pynisher has ended."""
        if self.process is not None and self.process.pid is not None:
            if self.process.exitcode is None:
                # psutil has waited for the process, so multiprocessing would never see its end,
                # and each call would leak two files.
                self.process._popen.returncode = 0
            self.process.join()
            self.process.close()


class _Pynisher(pynisher.Pynisher):  # type: ignore[misc]
    """pynisher with a wall clock that starts with the function, and that `progress()` restarts."""

    def __init__(self, number: int, orders: Orders, cells: Cells, context: _Context) -> None:
        self._number = number
        seconds = orders.wall_time + orders.grace_period
        self._seconds = math.ceil(seconds) + _MARGIN_S if orders.wall_time else math.inf
        self._task_cells = cells
        self._since = time.monotonic()
        cpu_time = math.ceil(orders.cpu_time + orders.grace_period) + _MARGIN_S
        super().__init__(
            _run_in_new_process, cpu_time=cpu_time if orders.cpu_time else None, context=context
        )

    @property
    def wall_time(self) -> float:
        """The current limit, in seconds since pynisher began.

        Never None: pynisher reads it again to compare it, and a call can write there in between.
        """
        if self._task_cells.get(0, task_cells.CALL) != self._number:
            return math.inf
        return self._task_cells.get_float(0, task_cells.CLOCK) - self._since + self._seconds

    @wall_time.setter
    def wall_time(self, _: object) -> None:
        """Do nothing: the value comes from the task cells."""


def _end_like(process: Any) -> NoReturn:
    """End as the process of the call did, so that the guardian sees how it ended."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    status = process.exitcode or 0
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _run_in_new_process(sender: _Sender, head: bytes, orders: Orders, task_process: int) -> Ended:
    """What pynisher runs in the new process: the function of a call."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pynisher's would use its pipe
    standard_output.buffer_by_lines()
    imports.look_into_archives_again()
    cells, fds = sender.settle_in()
    cells.collect_stacks()
    beside, cpu_beside = _say_who_runs(cells, task_process)
    orders = orders._replace(captures=True)  # nothing else flushes what it prints
    runner = Runner(cells, OwnMemory(beside), is_fresh=True, cpu_beside=cpu_beside)
    ended = runner.run(sender.number, orders, memoryview(head), fds)
    for child in proctree.children_of(os.getpid()):
        if not proctree.may_be_resource_tracker(child):
            proctree.kill_tree(child)  # pynisher would wait for them, for seconds
    return ended


def _say_who_runs(cells: Cells, task_process: int) -> tuple[list[int], float]:
    """Tell the guardian which descendant of the task process is the call's own process.

    Returns the pids of the others, and the CPU seconds of all those that have ended and theirs.
    """
    beside: list[proctree.Process] = []
    root = proctree.read_process(task_process)
    if root is not None:
        found = proctree.descendants_of(root)
        beside = [p for p in found if p.pid != os.getpid()]
        cells.put(0, task_cells.OVERHEAD, len(found))
    cells.put(0, task_cells.RUNNER, os.getpid())
    return [p.pid for p in beside], proctree.cpu_time_below(root, beside) if root else 0.0
