"""What a new child of this process would inherit: it tells an owner that it has changed itself.

A guardian and the processes below it have what the owner had when it started them. No process can
change another one's credentials, resource limits or namespaces. So an owner that has changed its
own needs another guardian, which inherits them as any child does.

Source: fork(2), execve(2), proc(5), prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import operator
import os
import struct
import threading
import time
from typing import Final

from dask_limits.limits.linux import files, prctl
from dask_limits.limits.linux.system_calls import SystemCalls

_RARER_FILES: Final = ("oom_score_adj", "cgroup", "coredump_filter", "loginuid")
"""Files in `/proc/self` that show nothing but what is inherited."""
_SCHEDULING: Final = struct.Struct("=4xIQi")  # policy, flags and nice in struct sched_attr
_RESET_ON_FORK: Final = 1  # SCHED_FLAG_RESET_ON_FORK
_REAL_TIME: Final = (1, 2, 6)  # SCHED_FIFO, SCHED_RR, SCHED_DEADLINE
_OWN: Final = (
    *(b"Name", b"State", b"Tgid", b"Ngid", b"Pid", b"PPid", b"TracerPid", b"FDSize", b"NS"),
    *(b"Vm", b"Rss", b"Huge", b"CoreDumping", b"Threads", b"SigQ", b"SigPnd", b"ShdPnd", b"SigBlk"),
    *(b"SigCgt", b"x86_Thread", b"voluntary", b"nonvoluntary"),
)
"""How lines of `/proc/PID/status` begin that a new program has of its own."""
_SENT: Final = (b"Umask", b"Cpus_allowed")
"""The same for what is sent with a call, see `Setting`."""
_IGNORED: Final = b"SigIgn"
_LAST_LINES: Final = b"\nvoluntary"
"""Where that begins which changes all the time. If the rest is as it was, nothing has changed."""
_CAP_SYS_ADMIN: Final = 1 << 21
_NOT_IGNORED: Final = ~sum(1 << number - 1 for number in (1, 2, 3, 13, 15, 17, 25))
"""Signals that task processes handle whatever the owner does: SIGHUP, SIGINT, SIGQUIT, SIGPIPE,
SIGTERM, SIGCHLD, SIGXFSZ. system(3) ignores SIGINT and SIGQUIT while a program runs."""
_SIZE: Final = 64 * 1024  # bytes, more than a process shows unless it is in thousands of groups
_PERSONALITY_QUERY: Final = 0xFFFFFFFF
_LOOK_AT_RARER_EVERY_S: Final = 0.005
"""How often, at most, to look at what hardly any program changes: it takes 40 us, or 100 where
namespaces count and the processor has done something else meanwhile. So short calls share a look.
"""

_libc = ctypes.PyDLL(None)  # keeps the GIL: this call takes less time than to release it


class Inherited:
    """What a child of the calling thread inherits, as it was when this was made.

    Threads share most of it; what each has of its own is that of the thread that looks.

    Attributes:
        umask: As at the last look.
    """

    def __init__(self) -> None:
        paths = "/proc/self/status", "/proc/self/limits"
        self._fds = [files.open_out_of_the_way(path) for path in paths]
        self._of_thread: tuple[int, int] = 0, -1  # a thread, and the file of its status
        self._changing_thread = threading.Lock()  # nobody waits for it: see `Connection`
        self._rarer_files = [n for n in _RARER_FILES if os.path.exists(f"/proc/self/{n}")]
        self._attributes = prctl.Attributes(inherited=True)
        self._system_calls = SystemCalls()
        status = self._read_status()
        lines = status.split(b"\n")
        place = {line.partition(b":")[0]: n for n, line in enumerate(lines)}
        others = *_OWN, *_SENT, _IGNORED
        self._lines = operator.itemgetter(
            *(n for n, line in enumerate(lines) if not line.startswith(others))
        )
        self._umask, self._ignored = place[b"Umask"], place[_IGNORED]
        # Without this capability a process can only enter another user namespace, where it has it.
        capable = int(lines[place[b"CapEff"]].split()[1], 16) & _CAP_SYS_ADMIN
        self._namespaces = os.listdir("/proc/self/ns") if capable else []
        # One that is closed now may be any file later.
        self._outputs = [fd for fd in (1, 2) if _identity(fd) is not None]
        self._status, self._seen = self._take(status), status
        self._others = self._read_others()
        self._rarer = self._read_rarer()
        self._scheduling = self._system_calls.read_scheduling()
        self._next_look_at_rarer = 0.0  # seconds of time.monotonic()

    def has_changed(self) -> bool:
        """Whether a child of this thread would inherit anything else now. 10 us."""
        try:
            status = self._read_status()
            if not status.startswith(self._seen) and not self._shows_the_same(status):
                return True
            if self._read_others() != self._others or self._schedules_otherwise():
                return True
            if (now := time.monotonic()) < self._next_look_at_rarer:
                return False
            if self._read_rarer() != self._rarer:
                return True
            self._next_look_at_rarer = now + _LOOK_AT_RARER_EVERY_S
            return False
        except (OSError, LookupError, ValueError):  # someone has closed our files
            return True

    def _shows_the_same(self, status: bytes) -> bool:
        """Whether a status shows what a child has inherited; if so, it is known the next time."""
        if self._take(status) != self._status:
            return False
        self._seen = status[: status.rindex(_LAST_LINES)]
        return True

    def _take(self, status: bytes) -> tuple[object, ...]:
        """What a child inherits of what the status shows."""
        lines = status.split(b"\n")
        self.umask = int(lines[self._umask].split()[1], 8)
        return self._lines(lines), int(lines[self._ignored].split()[1], 16) & _NOT_IGNORED

    def _read_others(self) -> tuple[object, ...]:
        return os.pread(self._fds[1], _SIZE, 0), *map(_identity, self._outputs)

    def _schedules_otherwise(self) -> bool:
        now = self._system_calls.read_scheduling()
        if now == self._scheduling:
            return False
        policy, flags, nice = _SCHEDULING.unpack_from(now)
        if not flags & _RESET_ON_FORK:
            return True
        reset = policy in _REAL_TIME
        inherited = (0, 0) if reset else (policy, max(nice, 0))
        policy, _, nice = _SCHEDULING.unpack_from(self._scheduling)
        return inherited != (policy, nice)

    def _read_rarer(self) -> tuple[object, ...]:
        return (
            os.stat("/")[1:3],
            [files.read(f"/proc/self/{name}") for name in self._rarer_files],
            [os.readlink(f"/proc/thread-self/ns/{name}") for name in self._namespaces],
            self._attributes.read(),
            self._system_calls.read_policies(),
            _libc.personality(_PERSONALITY_QUERY),
        )

    def _read_status(self) -> bytes:
        """Of this thread: credentials and capabilities can differ."""
        thread = threading.get_native_id()
        if thread == os.getpid():
            return os.pread(self._fds[0], _SIZE, 0)
        known, fd = self._of_thread
        if thread == known:
            with contextlib.suppress(ProcessLookupError):  # an earlier thread had this number
                return os.pread(fd, _SIZE, 0)
        self._keep_file_of(thread)
        return files.read("/proc/thread-self/status")

    def _keep_file_of(self, thread: int) -> None:
        """Keep the file of this thread open, unless another thread that lives uses the place.

        To open it takes 60 us, and the thread of a pool looks often.
        """
        if not self._changing_thread.acquire(blocking=False):
            return
        try:
            known, fd = self._of_thread
            if known not in (0, thread) and os.path.exists(f"/proc/self/task/{known}"):
                return
            self._of_thread = 0, -1
            if known:
                self._fds.remove(fd)
                os.close(fd)
            fd = files.open_out_of_the_way("/proc/thread-self/status")
            self._fds.append(fd)
            self._of_thread = thread, fd
        finally:
            self._changing_thread.release()

    def close(self) -> None:
        """Close its files. After this, everything has changed."""
        files.close(self._fds)


def _identity(fd: int) -> tuple[int, ...] | None:
    """Which file is open under this number; None if there is none."""
    try:
        return os.fstat(fd)[1:3]
    except OSError:
        return None
