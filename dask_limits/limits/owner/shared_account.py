"""What each program of a user has reserved on this machine: a file with a row for each of them.

The file is in memory, and only its user can read or write it. A program holds a lock on its row,
which the kernel releases when the program ends, however it ends: the row of a program that was
killed is void, and there is nothing to clean up. Another lock is held for some microseconds while
the rows are compared.

Both are locks of fcntl(2), "POSIX record locks": they are this process's alone, and no child has
them. They would be lost if this process opened the file a second time and closed it, which it does
not.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import sys
import time
from typing import Final, NamedTuple

from dask_limits.limits.linux import files
from dask_limits.limits.owner.capacity import Capacity

FOLDER: Final = "/dev/shm"
"""On each Linux, in memory, and the same for all programs of a machine, whatever their environment
is. A batch job may have one of its own."""
_WIDTH: Final = 16  # numbers of 8 bytes in a row: its place, and the fields of `Row`
_ROW_SIZE: Final = 8 * _WIDTH
_IS_OURS, _ROWS, _PROGRAMS, _TICKET = 0, 1, 2, 3
"""In the first row: what file it is, its rows, the programs that have one, and the last ticket."""
_MAGIC: Final = 0x31_5354_494D_494C  # "LIMITS1"
_MOST_ROWS: Final = 511
"""Programs at one time; each process of a pool is one. Others have accounts of their own."""
_SIZE: Final = (1 + _MOST_ROWS) * _ROW_SIZE
_LOCK_WAIT_S: Final = 1.0
"""How long to wait for a program that holds the lock for microseconds. If it is stopped just
there, others go on without, rather than never: two might start a call at the same instant."""
_LOOK_S: Final = 0.1
"""How often, at most, to check that the file is still there, and open here."""

_libc = ctypes.PyDLL(None)  # keeps the GIL: these calls take less time than to release it


class _Flock(ctypes.Structure):
    """Of fcntl(2)."""

    _fields_ = (
        ("type", ctypes.c_short),
        ("whence", ctypes.c_short),
        ("start", ctypes.c_long),
        ("length", ctypes.c_long),
        ("pid", ctypes.c_int),
    )


_LOCK: Final = ctypes.byref(_Flock(fcntl.F_WRLCK, os.SEEK_SET, 0, 1))
_UNLOCK: Final = ctypes.byref(_Flock(fcntl.F_UNLCK, os.SEEK_SET, 0, 1))


class Row(NamedTuple):
    """What a program has reserved, and the claim of its first call that waits, if any does.

    Attributes:
        ticket: The number of the claim; 0 is none. The lowest one of all programs counts.
        backfilled: The number of a claim of another program, and what calls hold here that have
            started beside it.
    """

    memory: int = 0  # bytes
    cores: int = 0
    ticket: int = 0
    claimed_memory: int = 0
    claimed_cores: int = 0
    backfilled: int = 0
    backfilled_memory: int = 0
    backfilled_cores: int = 0


class SharedAccount:
    """The file, with a row for this program. One thread uses it at a time.

    It is mapped into memory, so that a look at it takes no system call.
    """

    def __init__(self, capacity: Capacity) -> None:
        """Open the file, which is made if it is not there.

        Raises:
            OSError: if that is not possible, or if it is not this user's own.
        """
        self._place = capacity.number
        self._user = os.geteuid()
        self._path = os.path.join(FOLDER, f"dask-limits-{self._user}")
        self._fds = [_open(self._path)]
        self._identity = os.fstat(self._fds[0])
        try:
            os.posix_fallocate(self._fds[0], 0, _SIZE)  # else a write might end this program
            self._words = files.map_shared(self._fds[0], _SIZE).cast("Q")
            self.lock()
            try:
                self._number = self._register()
            finally:
                self.unlock()
        except BaseException:
            self.forget()
            raise
        self._next_look = 0.0  # seconds of time.monotonic()
        self._claim: tuple[int, ...] = ()  # that was told

    def _register(self) -> int:
        """Take the first row that nobody has."""
        words = self._words
        words[_IS_OURS] = _MAGIC
        for number in range(1, _MOST_ROWS + 1):
            if self._try_lock_row(number):
                self._put(number, self._place)
                words[_ROWS] = max(words[_ROWS], number)
                words[_PROGRAMS] = self._count()
                return number
        raise OSError(f"{_MOST_ROWS} programs use {self._path}")

    def _count(self) -> int:
        there = self._words[_WIDTH : (self._words[_ROWS] + 1) * _WIDTH : _WIDTH]
        return sum(place != 0 for place in there)

    def is_alone(self) -> bool:
        """Whether no other program has a row. If one comes, it sees what this one has published.

        It looks now and then whether the file is good. It is not locked.
        """
        return self._words[_PROGRAMS] == 1 and time.monotonic() < self._next_look

    def _put(self, number: int, *row: int) -> None:
        at = number * _WIDTH
        for column in range(_WIDTH):
            self._words[at + column] = row[column] if column < len(row) else 0

    def lock(self) -> None:
        """Keep other programs from starting calls, until `unlock`."""
        give_up_at = 0.0
        while _libc.fcntl(self._fd, fcntl.F_SETLK, _LOCK):
            now = time.monotonic()
            give_up_at = give_up_at or now + _LOCK_WAIT_S
            if now > give_up_at:
                return
            time.sleep(0.0002)

    def unlock(self) -> None:
        """Let them go on."""
        _libc.fcntl(self._fd, fcntl.F_SETLK, _UNLOCK)

    @property
    def _fd(self) -> int:
        return self._fds[0] if self._fds else -1

    def others(self) -> list[Row]:
        """The rows of the other programs of this place. It is locked."""
        words, found = self._words, []
        for number in range(1, words[_ROWS] + 1):
            at = number * _WIDTH
            if number != self._number and words[at] == self._place:
                found.append(Row(*words[at + 1 : at + 1 + len(Row._fields)]))
        return found

    def hold(self, memory: int, cores: int) -> None:
        """Tell the others what the calls of this program hold."""
        at, words = self._number * _WIDTH + 1, self._words
        words[at], words[at + 1] = memory, cores

    def claim(self, *claim: int) -> None:
        """Tell them the rest of the row of this program."""
        if claim != self._claim:
            for column, value in enumerate(claim, self._number * _WIDTH + 3):
                self._words[column] = value
            self._claim = claim

    def next_ticket(self) -> int:
        """A number for a claim, higher than all before. It is locked."""
        self._words[_TICKET] += 1
        return self._words[_TICKET]

    def void_the_dead(self) -> None:
        """Clear the rows of programs that have ended. It is locked."""
        for number in range(self._words[_ROWS], 0, -1):
            is_used = number != self._number and self._words[number * _WIDTH] != 0
            if is_used and self._try_lock_row(number):
                self._put(number)
                self._unlock_row(number)
            if number == self._words[_ROWS] and not self._words[number * _WIDTH]:
                self._words[_ROWS] -= 1
        self._words[_PROGRAMS] = self._count()

    def _try_lock_row(self, number: int) -> bool:
        """Take the lock on a row. False if its program is alive."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number * _ROW_SIZE)
        except BlockingIOError:
            return False
        return True

    def _unlock_row(self, number: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number * _ROW_SIZE)

    def is_good(self) -> bool:
        """Whether the file is open here, still there, and this user's. It looks now and then."""
        now = time.monotonic()
        if now < self._next_look:
            return True
        self._next_look = now + _LOOK_S
        if self._words[_PROGRAMS] > 1:
            self.lock()
            self.void_the_dead()
            self.unlock()
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return False
        is_there = os.path.samestat(there, self._identity) and self._is_open()
        return is_there and self._user == os.geteuid()

    def _is_open(self) -> bool:
        """Whether the file is open here. If this program has closed it, its row may be another's,
        and the number of the file too.
        """
        try:
            return os.path.samestat(os.fstat(self._fd), self._identity)
        except OSError:
            return False

    def close(self) -> None:
        """Leave the account. The last one to leave removes the file."""
        self._next_look = 0.0
        if self._is_open():
            self.lock()
            self._put(self._number)
            self.void_the_dead()
            if self._words[_ROWS] == 0 and self.is_good():
                os.unlink(self._path)
            self.unlock()
        self.forget()

    def forget(self) -> None:
        """Close the file only: in a fork, the row is the parent's."""
        if not self._is_open():
            self._fds.clear()
        files.close(self._fds)


def _open(path: str) -> int:
    """Open a file that only this user can read or write, and that has no other name."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(fd)
        is_own = status.st_uid == os.geteuid() and status.st_nlink == 1
        if not is_own or not stat.S_ISREG(status.st_mode):
            raise PermissionError(f"{path} is not a file of this user's alone")
        if os.pread(fd, 8, 0) not in (b"", bytes(8), _MAGIC.to_bytes(8, sys.byteorder)):
            raise OSError(f"{path} is not a file of dask_limits")
        os.fchmod(fd, 0o600)
        return files.out_of_the_way(fd)
    finally:
        os.close(fd)
