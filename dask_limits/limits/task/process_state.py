"""The state of a process that a call can change, and the next call would find changed."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import importlib
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import Any, Final

_RLIMITS: Final = [
    getattr(resource, f"RLIMIT_{name}")
    for name in ("AS", "CPU", "DATA", "FSIZE", "NOFILE", "NPROC", "STACK")
]
_SIGNALS: Final = sorted(signal.valid_signals())


@dataclass
class Setting:
    """The state that a task process takes from its owner, and restores after each call."""

    path: list[str]
    directory: str
    environment: dict[Any, Any]
    authkey: bytes | None = field(repr=False)
    """By which multiprocessing's proxies of managers connect; None while nothing has imported it.
    As multiprocessing's own processes inherit it, it is passed on in memory alone."""

    @classmethod
    def here(cls) -> Setting:
        """The state of this process. Its lists are not copied, and change with it."""
        try:
            directory = os.getcwd()
        except OSError:  # it has been removed
            directory = "/"
        # os.environ compares and copies itself slowly; this is the dict of bytes in it.
        environment = os.environ._data  # type: ignore[attr-defined]
        process = sys.modules.get("multiprocessing.process")
        authkey = None if process is None else bytes(process.current_process().authkey)
        return cls(sys.path, directory, environment, authkey)

    def for_another_process(self) -> Setting:
        """A copy that can be unpickled in any process."""
        path = [os.fsdecode(p) for p in self.path if isinstance(p, str | bytes | os.PathLike)]
        environment = dict(self.environment)
        return Setting(list(map(str, path)), self.directory, environment, self.authkey)

    def restore(self) -> None:
        """Restore it in this process, where it was changed."""
        now = Setting.here()
        if now.path != self.path:
            sys.path[:] = self.path
            importlib.invalidate_caches()
        if now.environment != self.environment:
            for name in now.environment.keys() - self.environment.keys():
                os.unsetenv(name)
            for name, value in self.environment.items() - now.environment.items():
                os.putenv(name, value)
            now.environment.clear()
            now.environment.update(self.environment)
        if now.authkey != self.authkey is not None:
            from multiprocessing import process

            process.current_process().authkey = self.authkey
        if now.directory != self.directory:
            try:
                os.chdir(self.directory)
            except OSError:
                pass  # the owner's directory has been removed


def traits() -> tuple[object, ...]:
    """State that is not restored: if a call changes it, its process is ended."""
    umask = os.umask(0o77)
    os.umask(umask)
    return (
        umask,
        list(map(resource.getrlimit, _RLIMITS)),
        # signal.getsignal makes an enum of each handler, at eight times the time
        list(map(_signal.getsignal, _SIGNALS)),
        _signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0,
        signal.getitimer(signal.ITIMER_PROF)[0] > 0,
        os.getpriority(os.PRIO_PROCESS, 0),
        sys.getrecursionlimit(),
        socket.getdefaulttimeout(),
        *map(id, (sys.stdin, sys.stdout, sys.stderr)),
        *map(_identity, range(3)),
        sys.gettrace(),
        sys.getprofile(),
        gc.isenabled(),
    )


def _identity(fd: int) -> tuple[int, ...] | None:
    """Inode and device of an open file; None if it is closed."""
    try:
        return os.fstat(fd)[1:3]
    except OSError:
        return None


def leaves_something() -> bool:
    """Whether a call has left a thread or a child process, zombies included."""
    if len(sys._current_frames()) > 1:
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
