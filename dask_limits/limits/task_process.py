"""The task process: runs the calls of one owner, one at a time, and says how they ended."""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import io
import os
import pickle
import resource
import signal
import socket
import sys
import time
import traceback
from typing import Any, Final, NoReturn

from dask_limits.limits import messages, notes, parcel, pickling, prctl, wire
from dask_limits.limits.call import exit_status, to_its_end
from dask_limits.limits.parcel import Parcel
from dask_limits.limits.surroundings import Setting, leaves_something, traits
from dask_limits.limits.table import Table

STACKS_SIGNAL: Final = signal.SIGRTMAX - 2
"""On this a task process writes its Python stacks; chosen to be nobody else's."""
_HIGH_FD: Final = 512
"""Our files are from here on, out of the way of calls that close or write to low numbers."""


def run(sock_fd: int, notes_fd: int, open_files: tuple[int, int]) -> NoReturn:
    """Be a task process, in a new child of the guardian, until the owner closes the socket.

    Args:
        sock_fd: Where calls come in and answers go out.
        notes_fd: The file for notes and stacks.
        open_files: The limits on open files, soft and hard, that the owner has.
    """
    try:
        sock_fd, notes_fd = _settle_in(sock_fd, notes_fd, open_files)
        table = notes.read(notes_fd)
        try:
            process = TaskProcess(wire.adopt(sock_fd), table)
            process.serve()
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN):
                table.put(0, notes.DEAF, 1)
            elif not isinstance(error, ConnectionError):  # the owner has given up on this call
                raise
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _settle_in(sock_fd: int, notes_fd: int, open_files: tuple[int, int]) -> tuple[int, int]:
    """Shake off what a fork of the guardian brings along.

    Returns:
        The two files, at their new places.
    """
    prctl.die_with_parent(signal.SIGKILL)
    prctl.become_subreaper()
    prctl.set_name("limits-task")
    os.setsid()  # signals to its process group are for nobody else
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
    high = min(_HIGH_FD, open_files[0] // 2)
    sock_fd = fcntl.fcntl(sock_fd, fcntl.F_DUPFD_CLOEXEC, high)
    notes_fd = fcntl.fcntl(notes_fd, fcntl.F_DUPFD_CLOEXEC, sock_fd + 1)
    os.closerange(3, sock_fd)
    os.closerange(sock_fd + 1, notes_fd)
    os.closerange(notes_fd + 1, _ALL_FILES)
    faulthandler.enable(notes_fd)
    faulthandler.register(STACKS_SIGNAL, notes_fd, all_threads=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a call that is killed has printed its lines
    return sock_fd, notes_fd


_ALL_FILES: Final = 2**31 - 1  # the sum of all limits: the owner's may have been lowered since


class TaskProcess:
    """Takes calls, runs them, answers.

    Args:
        sock: Where calls come in and answers go out.
        table: Its notes.
    """

    def __init__(self, sock: socket.socket, table: Table) -> None:
        self._sock = sock
        self._receiver = wire.Receiver(sock)
        self._notes = table
        self._pid = os.getpid()
        self._setting = Setting.here().for_another_process()
        self._traits = traits()
        self._children_cpu_time = 0.0
        self._peak_memory = _max_resident()
        self._statm_fd = os.open("/proc/self/statm", os.O_RDONLY)

    def serve(self) -> None:
        """Answer requests until the other end is closed, or a call leaves this process unfit."""
        while self._is_fit() and (message := self._receiver.receive()) is not None:
            if message.kind == messages.SETTING:
                self._setting = parcel.unpack(message.body, message.fds)
                message.close()
                self._setting.restore()
                continue
            number = message.number
            account, kind, end = self._run(message)
            with end:
                wire.send(self._sock, kind, number, account, end.head, fds=end.fds)
            self._peak_memory = _max_resident()  # what was large is not for the next account

    def _run(self, request: wire.Message) -> tuple[bytes, int, Parcel]:
        """Run one call, and make its account and its end ready to be sent."""
        number = request.number
        cpu_before = time.process_time()
        start = time.monotonic()
        self._notes.put_float(0, notes.START, start)
        self._notes.put(0, notes.CALL, number)
        kind, end = _answer(request)
        if os.getpid() != self._pid:
            os._exit(0)  # the call has forked, and its child has returned from it too
        children_before, self._children_cpu_time = self._children_cpu_time, _children_cpu_time()
        account = messages.ACCOUNT.pack(
            time.monotonic() - start,
            time.process_time() - cpu_before + self._children_cpu_time - children_before,
            self._children_cpu_time,
            self._peak(),
        )
        self._notes.put(0, notes.DONE, number)
        return account, kind, end

    def _peak(self) -> int:
        """Most bytes of this process in this call, as far as the kernel keeps account of it."""
        peak = _max_resident()
        if peak > self._peak_memory:
            return peak
        try:  # the peak was in an earlier call: in this one it was between now and then
            return int(os.pread(self._statm_fd, 100, 0).split()[1]) * resource.getpagesize()
        except OSError:  # closed by a call
            return 0

    def _is_fit(self) -> bool:
        """Put back what a call has changed, and see whether that is all.

        Done when the answer is on its way. If this process is not fit for another call it ends,
        and what a call has left in it with it; a request that is on its way here then is known
        not to have begun, and goes to another process.
        """
        self._setting.restore()
        return not leaves_something() and traits() == self._traits


def _answer(request: wire.Message) -> tuple[int, Parcel]:
    """Run one call to its end, and make its end ready to be sent."""
    try:
        fn, args, kwargs = parcel.unpack(request.body, request.fds)
    except BaseException as error:
        return _unpicklable("arguments", error)
    finally:
        request.close()
    try:
        value = to_its_end(fn(*args, **kwargs))
    except SystemExit as error:
        return messages.EXITED, _pack(exit_status(error))
    except BaseException as error:
        return _pack_exception(error)
    finally:
        _flush()
    try:
        return messages.RETURNED, _pack(value)
    except BaseException as error:
        return _unpicklable("result", error)


def _pack_exception(error: BaseException) -> tuple[int, Parcel]:
    text = _text(error)
    try:
        packed = _pack((pickling.without_history(error), text))
        # many exceptions can be pickled, but not unpickled
        parcel.unpack(memoryview(packed.head), list(packed.fds))
    except BaseException as why:
        return _unpicklable("exception", why, messages.say(error), text)
    return messages.RAISED, packed


def _unpicklable(
    part: str, error: BaseException, what: str = "", text: str = ""
) -> tuple[int, Parcel]:
    return messages.UNPICKLABLE, _pack((part, messages.say(error), what, text or _text(error)))


def _pack(value: Any) -> Parcel:
    """Pickle a value; by value where the plain way, by name, does not do."""
    try:
        return parcel.pack(value, pickle.Pickler)
    except Exception:
        return parcel.pack(value, pickling.new_pickler)


def _text(error: BaseException) -> str:
    """The traceback as Python prints it, from the user's own function on."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, tb))
    except Exception:  # it breaks even the printing of itself
        return "".join(traceback.format_tb(tb)) + messages.say(error)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed by the call, or a pipe without a reader
            pass


def _children_cpu_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _max_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
