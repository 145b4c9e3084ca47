from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from dask_limits.limits.ipc import messages, owner_cells, transport
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.ipc.payload import Payload
from dask_limits.limits.limits import Limits
from dask_limits.limits.linux import files
from dask_limits.limits.owner.lease import Lease
from dask_limits.limits.task.process_state import Setting

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[3:];"
    " from dask_limits.limits.guardian.reaper import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_END_WAIT_S = 15.0
"""How long to wait for all our processes to end. They take milliseconds; for one in an
uninterruptible sleep, the guardian gives up after 10 s."""


class Connection:
    """One guardian process, and the task processes that it has handed out.

    Started by `subprocess` and not by `multiprocessing`, which forbids daemonic processes, as
    Dask's workers are, to have children. Only inherited sockets connect the two: there is no
    port and no file name by which others could reach it.

    Args:
        max_calls: Number of calls after which a task process is ended; None for no limit.

    """

    def __init__(self, max_calls: int | None = None) -> None:
        self._max_calls = max_calls
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._idle: list[Lease] = []
        self._leases: set[Lease] = set()
        self._closed = False
        self._lost = False
        self._control, theirs = transport.pair()
        self._receiver = transport.Receiver(self._control)
        owner_cells_fd = files.above_standard(
            os.memfd_create("dask-limits-owner-cells", os.MFD_CLOEXEC)
        )
        self._owner_cells = Cells(owner_cells.ROWS, owner_cells_fd)
        fds = [theirs.fileno(), owner_cells_fd]
        path = Setting.here().for_another_process().path
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *map(str, fds), *path],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C in a terminal is for the owner alone
            )
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
            os.close(owner_cells_fd)

    @property
    def closed(self) -> bool:
        """Whether its owner has closed it."""
        return self._closed

    @property
    def lost(self) -> bool:
        """Whether the guardian has ended although its owner has not closed it."""
        if not self._lost and not self._closed:
            try:
                ended = not self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                ended = False
            except OSError:
                ended = True
            if ended and not self._closed:
                self._lost = True  # for good: another thread may close it at this moment
        return self._lost

    def wait_for_loss(self, seconds: float) -> bool:
        """Wait for the guardian to end, for some time.

        Returns:
            Whether it has ended although its owner has not closed it.
        """
        deadline = time.monotonic() + seconds
        while not self.lost and not self._closed and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.lost

    def _has_news(self) -> bool:
        """Whether there is a message from the guardian to receive."""
        try:
            return bool(self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def acquire(self, memory: int | None) -> Lease:
        """Take an idle task process, or start a new one.

        Args:
            memory: The memory limit of the next call, in bytes. A process that holds more than
                half of that from earlier calls is ended instead.

        Raises:
            ConnectionError: if the guardian has ended.
            BlockingIOError: if the system has no room for another process.
        """
        with self._lock:
            if self._closed:
                raise ConnectionError("the guardian was closed")
            while not self._idle and self._has_news():
                self._idle.append(self._take_over())  # for a call that Ctrl-C has interrupted
            while self._idle:
                lease = self._idle.pop()
                if lease.has_room_for(memory):
                    return lease
                self._end(lease)
            transport.send(self._control, messages.SPAWN, 0)
            return self._take_over()

    def _take_over(self) -> Lease:
        """Receive a task process from the guardian."""
        message = self._receiver.receive()
        if message is None:
            raise ConnectionError("the guardian has ended")
        if message.kind == messages.REFUSED:
            raise BlockingIOError(bytes(message.body).decode())
        row = message.number
        if not message.fds:
            self._tell(messages.END, row)
            raise BlockingIOError("this process has too many open files to receive another")
        (pid,) = struct.unpack("=Q", message.body)
        sock = transport.adopt(message.fds.pop())
        lease = Lease(self._owner_cells, row, pid, sock, self._wake)
        self._leases.add(lease)
        return lease

    def begin(self, lease: Lease, limits: Limits, request: Payload) -> bool:
        """Start a call in a task process; see `Lease.begin`."""
        return lease.begin(next(self._numbers), limits, request)

    def finish(self, lease: Lease) -> None:
        """End a call: keep the task process for the next one, if it is fit for that."""
        fit = lease.finish() and lease.calls != self._max_calls
        with self._lock:
            if fit:
                self._idle.append(lease)
            else:
                self._end(lease)

    def drop(self, lease: Lease) -> None:
        """End a task process and everything below it, without waiting."""
        with self._lock:
            self._end(lease)

    def _end(self, lease: Lease) -> None:
        lease.drop()
        self._leases.discard(lease)
        self._tell(messages.END, lease.row)

    def cancel(self, row: int, number: int) -> None:
        """End the task process in this row if it still runs this call."""
        with self._lock:
            self._tell(messages.CANCEL, row, struct.pack("=Q", number))

    def _wake(self) -> None:
        """Make the guardian look for new calls."""
        with self._lock:
            self._tell(messages.WAKE, 0)

    def _tell(self, kind: int, row: int, body: bytes = b"") -> None:
        try:
            transport.send(self._control, kind, row, body)
        except OSError:
            pass  # the guardian has ended, and all task processes with it

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
                lease.drop()
            self._idle.clear()

    def abandon(self) -> None:
        """Release a guardian that belongs to the process that we were forked from."""
        self._closed = True
        self._process.returncode = 0  # not our child: nothing to wait for
        self._control.close()
        for lease in self._leases:
            lease.abandon()

    def __iter__(self) -> Iterator[int]:
        """The pids of the task processes, busy and idle."""
        return (lease.pid for lease in tuple(self._leases))

    @property
    def pid(self) -> int:
        """The pid of the reaper, which is the parent of the guardian."""
        return self._process.pid
