"""What the kernel shows of this process, apart from what changes by itself.

Whole files of `/proc/self` are compared, so that what a kernel adds to them is compared too. What
they do not show is asked for by itself. What no kernel shows cannot be compared: rules of Landlock,
for example. Source: proc(5), prctl(2).
"""

from __future__ import annotations

import ctypes
import operator
import os
import signal
from collections.abc import Iterable
from typing import Final

from dask_limits.limits.linux import files, prctl
from dask_limits.limits.linux.system_calls import SystemCalls

_FILES: Final = (
    *("limits", "oom_score_adj", "timers", "coredump_filter", "cgroup", "autogroup", "loginuid"),
)
"""Files in `/proc/self` that show nothing that changes by itself."""
_CHANGING: Final = (b"State", b"Ngid", b"FDSize", b"SigQ", b"SigCgt", b"Threads", b"Vm", b"Rss")
_NOT_CHANGING: Final = (b"VmLck", b"VmPin")
"""How lines of `/proc/self/status` begin that change by themselves, and that do not."""
_STAT_FIELDS: Final = operator.itemgetter(*(n - 3 for n in (5, 6, 7, 8, 18, 19, 38, 40, 41)))
"""Of `/proc/self/stat`, counted as proc(5) does: process group, session, terminal and its group,
priority, nice, exit signal, real-time priority, policy."""
_THREADS: Final = 20 - 3
_NAMESPACES: Final = ("user", "cgroup", "ipc", "mnt", "net", "pid_for_children", "uts")
_LIBC_SIGNALS: Final = 0b11 << 32 - 1
"""Signals 32 and 33 get a handler from the C library when the first thread starts."""
_PERSONALITY_QUERY: Final = 0xFFFFFFFF
_SIZE: Final = 64 * 1024  # bytes, more than a process shows unless it is in thousands of groups

_libc = ctypes.PyDLL(None)  # keeps the GIL: these calls take less time than to release it


class KernelState:
    """Reads what the kernel shows of this process; some 18 us.

    Its files stay open: to open them takes as long as to read them. A call that closes them, or
    puts others in their place, changes what is read.
    """

    def __init__(self) -> None:
        self._status = _open("/proc/self/status")
        self._stat = _open("/proc/self/stat")
        self._files = _open_those_that_are_there(f"/proc/self/{name}" for name in _FILES)
        self._folders = _open_those_that_are_there(["/proc/self/ns"])
        self._namespaces = [
            (name, fd) for fd in self._folders for name in _NAMESPACES if name in os.listdir(fd)
        ]
        lines = os.pread(self._status, _SIZE, 0).split(b"\n")
        self._lines = operator.itemgetter(*(n for n, line in enumerate(lines) if _stays(line)))
        self._caught = next(n for n, line in enumerate(lines) if line.startswith(b"SigCgt:"))
        self._actions = _Actions()
        self._attributes = prctl.Attributes()
        self._system_calls = SystemCalls()

    @property
    def open_files(self) -> set[int]:
        """The files that this keeps open."""
        return {self._status, self._stat, *self._files, *self._folders}

    def read(self) -> tuple[object, ...]:
        """All of it, to be compared with another reading.

        Raises:
            OSError: if a call has closed a file that this needs.
            IndexError, ValueError: if it has put another in its place.
        """
        lines = os.pread(self._status, _SIZE, 0).split(b"\n")
        return (
            self._lines(lines),
            int(lines[self._caught].split()[1], 16) & ~_LIBC_SIGNALS,
            _STAT_FIELDS(self._stat_fields()),
            [os.pread(fd, _SIZE, 0) for fd in self._files],
            [os.readlink(name, dir_fd=fd) for name, fd in self._namespaces],
            os.stat("/")[1:3],
            signal.getitimer(signal.ITIMER_REAL)[0] > 0,
            signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0,
            signal.getitimer(signal.ITIMER_PROF)[0] > 0,
            self._actions.read(),
            self._attributes.read(),
            self._system_calls.read(),
            _libc.personality(_PERSONALITY_QUERY),
        )

    def threads(self) -> int:
        """How many threads this process has, those of libraries included."""
        return int(self._stat_fields()[_THREADS])

    def _stat_fields(self) -> list[bytes]:
        stat = os.pread(self._stat, _SIZE, 0)
        return stat[stat.rindex(b")") + 2 :].split()  # what comes before is a name


def _open(path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    high = files.out_of_the_way(fd)
    os.close(fd)
    return high


def _open_those_that_are_there(paths: Iterable[str]) -> list[int]:
    fds = []
    for path in paths:
        try:
            fds.append(_open(path))
        except OSError:
            pass  # this kernel has no such file, or does not let this process read it
    return fds


def _stays(line: bytes) -> bool:
    changes = line.startswith(_CHANGING) or b"ctxt_switches" in line
    return not changes or line.startswith(_NOT_CHANGING)


class _Actions:
    """What sigaction(2) tells of the signals that have a handler, and of SIGCHLD.

    Of the others the status of this process tells enough. SIGCHLD has flags that count although it
    has no handler. The layout of the structure is that of glibc and of musl on 64 bits.
    """

    _WORDS: Final = 20  # of 8 bytes: more than the structure has
    _HANDLER: Final = 0
    _FLAGS: Final = 17  # after 1024 bits of signals, of which the C library leaves some undefined

    def __init__(self) -> None:
        self._select([int(signal.SIGCHLD)])
        handled = [n for n in range(1, signal.NSIG) if self._handler(n) > signal.SIG_IGN]
        self._select(sorted({*handled, int(signal.SIGCHLD)}))

    def _select(self, numbers: list[int]) -> None:
        words = (ctypes.c_uint64 * (self._WORDS * len(numbers)))()
        self._words = memoryview(words).cast("B").cast("Q")
        size = 8 * self._WORDS
        self._places = [(number, ctypes.byref(words, n * size)) for n, number in enumerate(numbers)]

    def _handler(self, number: int) -> int:
        found = _libc.sigaction(number, None, self._places[0][1]) == 0
        return self._words[self._HANDLER] if found else 0

    def read(self) -> tuple[list[int], list[int]]:
        """Addresses of handlers, and flags."""
        for number, place in self._places:
            _libc.sigaction(number, None, place)
        return (
            self._words[self._HANDLER :: self._WORDS].tolist(),
            self._words[self._FLAGS :: self._WORDS].tolist(),
        )
