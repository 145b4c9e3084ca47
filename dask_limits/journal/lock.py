"""One driver at a time: who writes a journal has its lock file."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from dask_limits.exceptions import JournalError
from dask_limits.limits.linux.proctree import read_process
from dask_limits.printable import printable

_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system answers that has no locks, as some of several machines."""

_held: Final[set[tuple[int, int]]] = set()
_guard: Final = threading.RLock()


class Lock:
    """A lock on a journal, which the kernel releases if its process is killed.

    The lock file says who has it. Where the file system has no locks, that counts, as long as the
    process is there: a process is known by its start time too, as its number is used again.

    Raises:
        JournalError: if another driver has the lock. The message says which.
    """

    def __init__(self, journal: Path) -> None:
        self._path = Path(f"{journal}.lock")
        self._journal = journal
        self._fd = -1
        with _guard:
            self._take()

    def _take(self) -> None:
        while True:
            # The kernel's locks are those of a process, which closing the file would release.
            if _key_at(self._path) in _held:
                raise JournalError(
                    f"This program (process {os.getpid()}) writes the journal {self._journal}"
                    " already. Wait until that run has ended, or shut that executor down, or use"
                    " another file."
                )
            fd = _open(self._path)
            try:
                self._check_free(fd)
                if _key_at(self._path) == _key_of(fd):
                    break
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # who had it has removed it meanwhile
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(this_process()).encode(), 0)
        self._fd, self._key = fd, _key_of(fd)
        _held.add(self._key)

    def _check_free(self, fd: int) -> None:
        """Take the lock, or raise that another process has it."""
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _said(fd)
            if error.errno not in _NO_LOCKS:
                raise self._error(holder) from None
            if holder and not is_gone(holder):
                raise self._error(holder) from None

    def _error(self, holder: dict[str, Any]) -> JournalError:
        who = ", ".join(
            f"{what} {printable(str(holder[name]))}"
            for name, what in (
                ("pid", "process"),
                ("host", "on"),
                ("job", "in job"),
                ("since", "since"),
                ("program", "program"),
            )
            if holder.get(name)
        )
        return JournalError(
            f"Another driver writes the journal {self._journal}: {who or 'an unknown one'}. Wait"
            " until it has ended, or use another file."
            f" If it has ended on a machine that is gone, remove {self._path}."
        )

    @property
    def is_there(self) -> bool:
        """Whether nobody has removed the lock file since: then another driver gets the lock."""
        return _key_at(self._path) == self._key

    def check_is_there(self) -> None:
        """Check that nobody has removed the lock file since.

        Raises:
            JournalError: if somebody has.
        """
        if not self.is_there:
            raise JournalError(
                f"{self._path} was removed or replaced while this program had it, so another driver"
                f" may write the journal {self._journal} now"
            )

    def release(self) -> None:
        """Release the lock. Further calls do nothing."""
        with _guard:
            if self._fd < 0:
                return
            fd, self._fd = self._fd, -1
            if self.is_there:
                self._path.unlink(missing_ok=True)
            _held.discard(self._key)
            os.close(fd)


def _open(path: Path) -> int:
    """Open the lock file, not as standard input, output or error, if one of these is closed.

    Whoever closes the file has released the lock, by any number.
    """
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        return fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(opened)


def _key_of(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _key_at(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _said(fd: int) -> dict[str, Any]:
    try:
        said = json.loads(os.pread(fd, 4096, 0))
    except (ValueError, OSError):
        return {}
    return said if isinstance(said, dict) else {}


def this_process() -> dict[str, Any]:
    """What tells this process from all others, and what a person knows it by."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "start": start_of(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "program": Path(sys.argv[0]).name if sys.argv else "",
    }


def is_gone(holder: dict[str, Any]) -> bool:
    """Whether a process of this machine is gone. That of others cannot be seen."""
    if holder.get("host") != socket.gethostname():
        return False
    if holder.get("boot") != _boot():
        return True
    pid = holder.get("pid")
    return not isinstance(pid, int) or start_of(pid) != holder.get("start")


def start_of(pid: int) -> float | None:
    """When a process was started, in seconds since the boot; None if it is gone."""
    process = read_process(pid)
    return None if process is None else process.started


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
