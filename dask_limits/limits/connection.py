from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

from dask_limits.limits import messages, wire
from dask_limits.limits.lease import Lease
from dask_limits.limits.slots import Slots

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[3:];"
    " from dask_limits.limits.reaper import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_END_WAIT_S = 15.0
"""How long to wait for the end of all our processes. They take milliseconds; one in an
uninterruptible sleep makes the guardian give up after 10 s."""


class Connection:
    """One guardian process, and the task processes that it has handed out.

    Started by `subprocess` and not by `multiprocessing`, which forbids daemonic processes, as
    Dask's workers are, to have children. Only inherited sockets connect the two: there is no
    port and no file name by which anybody else could reach it.

    Attributes:
        slots: The table that both have.
        numbers: Gives each call its number.
    """

    def __init__(self) -> None:
        self.slots = Slots()
        self.numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._idle: list[Lease] = []
        self._leases: set[Lease] = set()
        self._closed = False
        self._control, theirs = wire.pair()
        with theirs:
            fds = [theirs.fileno(), self.slots.fd]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *map(str, fds), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C in a terminal is for the owner alone
            )
        os.close(self.slots.fd)  # the mapping has a file of its own, and closes that with itself

    @property
    def closed(self) -> bool:
        """Whether it was closed by its owner."""
        return self._closed

    @property
    def lost(self) -> bool:
        """Whether the guardian is gone."""
        try:
            return not self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def acquire(self, memory: int | None) -> Lease:
        """A task process that runs nothing: one that has run before, or a new one.

        Args:
            memory: The memory limit of the call that is to run, bytes. A process that holds more
                than half of that from earlier calls is not fit for it, and is ended.

        Raises:
            ConnectionError: when the guardian is gone.
            BlockingIOError: when the system has no room for another process.
        """
        with self._lock:
            while self._idle:
                lease = self._idle.pop()
                if memory is None or 2 * lease.resident() <= memory:
                    return lease
                self._end(lease)
            wire.send(self._control, messages.SPAWN, 0)
            kind, row, body, fd = wire.receive_fd(self._control)
            if kind == messages.REFUSED or fd is None:
                raise BlockingIOError("the system has no room for another process")
            (pid,) = struct.unpack("=Q", body)
            lease = Lease(self, row, pid, socket.socket(fileno=fd))
            self._leases.add(lease)
            return lease

    def give_back(self, lease: Lease) -> None:
        """Keep a task process for the next call."""
        with self._lock:
            self._idle.append(lease)

    def end(self, lease: Lease) -> None:
        """End a task process and everything below it, and wait for nothing."""
        with self._lock:
            self._end(lease)

    def _end(self, lease: Lease) -> None:
        lease.close()
        self._leases.discard(lease)
        self._tell(messages.END, lease.row)

    def cancel(self, row: int, number: int) -> None:
        """End the task process of this row if it still runs this call."""
        with self._lock:
            self._tell(messages.CANCEL, row, struct.pack("=Q", number))

    def wake(self) -> None:
        """Have the guardian look for a new call."""
        with self._lock:
            self._tell(messages.WAKE, 0)

    def _tell(self, kind: int, row: int, body: bytes = b"") -> None:
        try:
            wire.send(self._control, kind, row, body)
        except OSError:
            pass  # it is gone, and with it every process that could have been meant

    def close(self) -> None:
        """End the guardian and everything below it, and wait until it is gone."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_WAIT_S)
        with self._lock:
            for lease in self._idle:
                self._leases.discard(lease)
                lease.close()
            self._idle.clear()

    def abandon(self) -> None:
        """Let go of a guardian that belongs to the process that we were forked from."""
        self._closed = True
        self._process.returncode = 0  # not our child: nothing to wait for
        self._control.close()
        for lease in self._leases:
            lease.close()

    def __iter__(self) -> Iterator[int]:
        """The pids of the task processes that are in use or kept."""
        return (lease.pid for lease in tuple(self._leases))

    @property
    def pid(self) -> int:
        """Of the reaper, the parent of the guardian."""
        return self._process.pid
