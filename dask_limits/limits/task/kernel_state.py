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

_FILES: Final = ("limits", "oom_score_adj")
_RARER_FILES: Final = ("coredump_filter", "cgroup", "autogroup", "loginuid")
"""Files in `/proc/self` that show nothing that changes by itself."""
_CHANGING: Final = (b"State", b"Ngid", b"FDSize", b"SigQ", b"SigCgt", b"Threads", b"Vm", b"Rss")
"""How lines of `/proc/self/status` begin that change by themselves, or that libraries change."""
_SET: Final = (b"Umask", b"Cpus_allowed")
"""The same for what is restored after each call, see `Setting`."""
_TERMINAL: Final = slice(7 - 3, 9 - 3)
"""Of `/proc/self/stat`, counted as proc(5) does: the terminal of this process, and its group."""
_NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid_for_children", "uts")
_CAP_SYS_ADMIN: Final = 1 << 21
_LIBC_SIGNALS: Final = 0b11 << 32 - 1
"""Signals 32 and 33 get a handler from the C library when the first thread starts."""
_PERSONALITY_QUERY: Final = 0xFFFFFFFF
_SIZE: Final = 64 * 1024  # bytes, more than a process shows unless it is in thousands of groups

_libc = ctypes.PyDLL(None)  # keeps the GIL: these calls take less time than to release it


class KernelState:
    """Reads what the kernel shows of this process, in three parts.

    Its files stay open: to open them takes as long as to read them. A call that closes them, or
    puts others in their place, changes what is read.
    """

    def __init__(self) -> None:
        self._status = files.open_out_of_the_way("/proc/self/status")
        self._stat = files.open_out_of_the_way("/proc/self/stat")
        self._timers = _open_those_that_are_there(["/proc/self/timers"])
        self._files = _open_those_that_are_there(f"/proc/self/{name}" for name in _FILES)
        self._rarer_files = _open_those_that_are_there(f"/proc/self/{n}" for n in _RARER_FILES)
        self._folders = _open_those_that_are_there(["/proc/self/ns"])
        lines = os.pread(self._status, _SIZE, 0).split(b"\n")
        self._lines = operator.itemgetter(*(n for n, line in enumerate(lines) if _stays(line)))
        place = {line.partition(b":")[0]: n for n, line in enumerate(lines)}
        self._caught, self._threads = place[b"SigCgt"], place[b"Threads"]
        self._shared = place[b"RssShmem"]
        self._restored = operator.itemgetter(
            *(n for n, line in enumerate(lines) if line.startswith(_SET))
        )
        self._locked = operator.itemgetter(place[b"VmLck"], place[b"VmPin"])
        capable = int(lines[place[b"CapPrm"]].split()[1], 16) & _CAP_SYS_ADMIN
        # Without this capability a process can enter no other namespace of these, unless it enters
        # another user namespace first.
        names = ("user", *_NAMESPACES) if capable else ("user",)
        self._namespaces = [
            (name, fd) for fd in self._folders for name in names if name in os.listdir(fd)
        ]
        self._last = lines  # of the last reading
        self._actions = _Actions()
        self._attributes = prctl.Attributes()
        self._system_calls = SystemCalls()

    def read(self) -> tuple[object, ...]:
        """What a function can easily change, to be compared with another reading; 10 us.

        Raises:
            OSError: if a call has closed a file that this needs.
            IndexError, ValueError: if it has put another in its place.
        """
        lines = os.pread(self._status, _SIZE, 0).split(b"\n")
        self._last = lines
        return (
            self._lines(lines),
            [os.pread(fd, _SIZE, 0) for fd in self._files],
            os.stat("/")[1:3],
            *self._read_timers(),
            self._system_calls.read_scheduling(),
        )

    def read_rarer(self) -> tuple[object, ...]:
        """What hardly any function changes, and mostly C code can change alone."""
        stat = os.pread(self._stat, _SIZE, 0)
        return (
            stat[stat.rindex(b")") + 2 :].split(b" ", 6)[_TERMINAL],  # after the name
            [os.pread(fd, _SIZE, 0) for fd in self._rarer_files],
            [os.readlink(name, dir_fd=fd) for name, fd in self._namespaces],
            self._attributes.read(),
            self._system_calls.read_policies(),
            _libc.personality(_PERSONALITY_QUERY),
        )

    def read_what_libraries_change(self) -> tuple[object, ...]:
        """What some libraries change for good, as the last reading has shown it, and handlers in C.

        They lock memory, and handle signals, as a virtual machine does.
        """
        return (
            self._locked(self._last),
            int(self._last[self._caught].split()[1], 16) & ~_LIBC_SIGNALS,
            self._actions.read(),
        )

    def read_what_is_restored(self) -> tuple[bytes, ...]:
        """Umask and processors at the last reading."""
        return self._restored(self._last)  # type: ignore[no-any-return]

    def read_what_a_fork_is_without(self) -> tuple[object, ...]:
        """Timers that run, and at the last reading memory that is locked."""
        return (*self._read_timers(), self._locked(self._last))

    def _read_timers(self) -> tuple[object, ...]:
        return (
            [os.pread(fd, _SIZE, 0) for fd in self._timers],
            signal.getitimer(signal.ITIMER_REAL)[0] > 0,
            signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0,
            signal.getitimer(signal.ITIMER_PROF)[0] > 0,
        )

    def shared_memory(self) -> int:
        """How much memory is shared with other processes that have it, in KiB. As `threads`."""
        return int(self._last[self._shared].split()[1])

    def close(self) -> None:
        """Read no more."""
        open_files = [*self._timers, *self._files, *self._rarer_files, *self._folders]
        files.close([self._status, self._stat, *open_files])

    def threads(self) -> int:
        """How many threads this process had at the last reading, those of libraries included."""
        return int(self._last[self._threads].split()[1])


def _open_those_that_are_there(paths: Iterable[str]) -> list[int]:
    fds = []
    for path in paths:
        try:
            fds.append(files.open_out_of_the_way(path))
        except OSError:
            pass  # this kernel has no such file, or does not let this process read it
    return fds


def _stays(line: bytes) -> bool:
    return not line.startswith((*_CHANGING, *_SET)) and b"ctxt_switches" not in line


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
