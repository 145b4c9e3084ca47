"""Ends a process together with the program that it works for, even if that is killed.

prctl(PR_SET_PDEATHSIG) does so when the thread ends that has started the process, which may be long
before its program does. So the program holds a pipe open, and the kernel sends SIGKILL when it ends
to those who have opened its other end: no thread and no further process has to wait for that.

Source: fcntl(2), O_ASYNC and F_SETSIG; proc(5), /proc/PID/fd.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import select
import signal
import threading
from typing import NamedTuple

from dask_limits.limits.linux import proctree


class Lifeline(NamedTuple):
    """A pipe that a process holds open as long as it lives, as others can find it."""

    pid: int
    fd: int
    pipe: str  # its name, which proc(5) shows


_lock = threading.Lock()
_own: Lifeline | None = None
_tied_to: set[Lifeline] = set()


def of_this_process() -> Lifeline:
    """The lifeline of this process, which is made when it is first needed."""
    global _own
    with _lock:
        if _own is None:
            read_end, write_end = os.pipe()
            os.close(read_end)
            _own = Lifeline(os.getpid(), write_end, os.readlink(f"/proc/self/fd/{write_end}"))
        return _own


def end_with(lifeline: Lifeline) -> None:
    """Have this process killed when that one has ended, if it was started by it or below it."""
    if lifeline in _tied_to:
        return
    _tied_to.add(lifeline)
    parent = multiprocessing.parent_process()  # known even when it has ended
    if (parent is None or parent.pid != lifeline.pid) and not _is_below(lifeline.pid):
        return
    try:
        fd = os.open(f"/proc/{lifeline.pid}/fd/{lifeline.fd}", os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        os.kill(os.getpid(), signal.SIGKILL)  # it has ended before
        return
    if os.readlink(f"/proc/self/fd/{fd}") != lifeline.pipe:  # one on another machine, say
        os.close(fd)
        return
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(fd, 0)
    if poll.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)  # it has ended meanwhile


def _is_below(pid: int) -> bool:
    """Whether this process was started by another one, or by one below that."""
    above = proctree.read_process(os.getppid())
    while above is not None and above.pid != pid:
        above = proctree.read_process(above.parent)
    return above is not None


def _forget() -> None:
    """In a fork: the pipe belongs to the parent, and ends with it."""
    global _own, _lock
    if _own is not None:
        os.close(_own.fd)
    _own, _lock = None, threading.Lock()
    _tied_to.clear()


os.register_at_fork(after_in_child=_forget)
