"""The template: forks task processes, and collects those that have ended. It runs no call.

It has imported what the calls of its owner need, so a task process forked from it has done so too,
within a millisecond and without using memory of its own. It starts no thread.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
import traceback
from typing import NamedTuple, NoReturn

from dask_limits.limits.ipc import messages, payload, transport
from dask_limits.limits.linux import prctl, signals
from dask_limits.limits.task import main as task_main
from dask_limits.limits.task.import_watch import NOTHING_EXCLUDED, Excluded
from dask_limits.limits.task.preparation import Preparation, report_of


class EndedProcess(NamedTuple):
    """A process that has ended, as wait4(2) tells."""

    pid: int
    status: int
    cpu_time: float  # seconds
    peak_memory: int  # bytes
    session: int = 0  # that it was in


def collect_ended() -> list[EndedProcess]:
    """Collect the children of this process that have ended."""
    ended = []
    try:
        while (child := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            session = os.getsid(child.si_pid)  # it has one until it is collected
            pid, status, used = os.wait4(child.si_pid, 0)
            cpu_time = used.ru_utime + used.ru_stime
            ended.append(EndedProcess(pid, status, cpu_time, used.ru_maxrss * 1024, session))
    except ChildProcessError:
        pass  # there is none
    return ended


class ChildSignal:
    """Makes a poll return when a child has ended."""

    def __init__(self) -> None:
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        """The file to poll."""
        return self._woken.fileno()

    def clear(self) -> None:
        """Poll for the next one."""
        self._woken.recv(4096)

    def close(self) -> None:
        """Go back to what a new process does."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._woken.close()
        self._wake.close()


def run(sock_fd: int, open_files: tuple[int, int]) -> NoReturn:
    """Be a template, in a new child of the guardian, until that closes the socket.

    `open_files` are the owner's limits on open files, soft and hard.
    """
    try:
        prctl.set_name("limits-template")
        task_main.undo_guardian(open_files, sock_fd)
        _Template(transport.adopt(sock_fd)).serve()
    except ConnectionError:
        pass  # the guardian has ended
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


class _Template:
    """Answers the guardian: imports modules, forks task processes, reports those that end."""

    def __init__(self, sock: socket.socket) -> None:
        # Calls may send it signals: it minds none but SIGKILL and SIGSTOP.
        self._mask = signals.block_all()
        self._sock = sock
        self._receiver = transport.Receiver(sock)
        self._pid = os.getpid()
        self._preparation = Preparation()

    def serve(self) -> None:
        """Prepare, if asked to; then fork until the guardian closes the socket."""
        message = self._receiver.receive()
        excluded = NOTHING_EXCLUDED
        if message is not None and message.kind == messages.EXCLUDED:
            excluded = Excluded.unpacked(bytes(message.body))
            message = self._receiver.receive()
        if message is not None and message.kind == messages.PREPARE:
            if not self._prepare(message, excluded):
                return
            message = self._receiver.receive()
        else:
            self._preparation.take_stock()
        children = ChildSignal()
        gc.freeze()  # what exists by now stays in pages that the children share
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(children, select.POLLIN)
        while message is not None:
            self._fork(message, children)
            ready: set[int] = set()
            while self._sock.fileno() not in ready:
                ready = {fd for fd, _ in poll.poll()}
                if children.fileno() in ready:
                    children.clear()
                    self._report_ended()
            message = self._receiver.receive()

    def _prepare(self, message: transport.Message, excluded: Excluded) -> bool:
        """Import what the owner asks for. False if another template has to, or none can."""
        kind, body = messages.PREPARED, b""
        try:
            pickled = message.body[messages.PREPARE_BODY.size :]
            self._preparation = payload.unpack(pickled, message.fds)
            signals.unblock_all(self._mask)  # programs that imports start inherit the mask
            found = self._preparation.in_template(excluded)
            self._mask = signals.block_all()
            if found != NOTHING_EXCLUDED:
                kind, body = messages.EXCLUDED, (excluded | found).packed()
        except BaseException as why:
            kind, body = messages.FAILED, report_of(why)
        transport.send(self._sock, kind, message.number, body)
        message.close()
        return kind == messages.PREPARED

    def _report_ended(self) -> None:
        for pid, *figures in collect_ended():
            transport.send(self._sock, messages.ENDED, pid, messages.ENDED_BODY.pack(*figures))

    def _fork(self, message: transport.Message, children: ChildSignal) -> None:
        """Fork a task process, which reports by itself when it is ready."""
        before = time.process_time()
        try:
            pid = os.fork()
        except OSError as error:
            why = str(error).encode()
            transport.send(self._sock, messages.UNFORKED, message.number, why)
            message.close()
            return
        if pid == 0:
            children.close()
            self._become_task_process(message)
        body = messages.FORKED_BODY.pack(pid, time.process_time() - before)
        transport.send(self._sock, messages.FORKED, message.number, body)
        message.close()

    def _become_task_process(self, message: transport.Message) -> NoReturn:
        def settled(seconds: float, report: bytes) -> None:
            body = messages.SETTLED_BODY.pack(seconds)
            transport.send(self._sock, messages.SETTLED, message.number, body, report)
            self._sock.close()

        signals.unblock_all(self._mask)
        sock_fd, cells_fd = message.fds
        task_main.run(sock_fd, cells_fd, self._pid, self._preparation, settled)
