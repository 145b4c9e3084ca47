from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
import subprocess
import sys
import threading
import time

from dask_limits.limits.ipc import messages, owner_cells, transport
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.linux import files, proctree
from dask_limits.limits.owner.heartbeat import INTERVAL_S, Heartbeat
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
    """

    def __init__(self, max_calls: int | None = None) -> None:
        if why := proctree.why_not_readable():
            raise OSError(f"no limit can be enforced, because {why}")
        self._max_calls = max_calls
        self._lock = threading.RLock()
        self._idle: list[Lease] = []
        self._leases: set[Lease] = set()
        self.closed = False
        self._lost = False
        self._control, theirs = transport.pair()
        self._receiver = transport.Receiver(self._control)
        cells_fd = files.above_standard(owner_cells.make())
        self._owner_cells = Cells(owner_cells.ROWS, cells_fd)
        fds = [theirs.fileno(), cells_fd]
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
            os.close(cells_fd)
        self.pid = self._process.pid  # of the reaper, which is the parent of the guardian
        self._heartbeat = Heartbeat(self._owner_cells, self.pid)
        transport.set_patience(self._control, INTERVAL_S)

    @property
    def lost(self) -> bool:
        """Whether the guardian has ended although its owner has not closed it."""
        if not self._lost and not self.closed and self._peek() == b"" and not self.closed:
            self._lost = True  # for good: another thread may close it at this moment
        return self._lost

    def _peek(self) -> bytes | None:
        """The first byte that the guardian has sent; None if there is none, b"" if it has ended."""
        try:
            return self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def wait_for_loss(self, seconds: float) -> bool:
        """Wait some time for the guardian to end; as `lost`."""
        deadline = time.monotonic() + seconds
        while not self.lost and not self.closed and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.lost

    def acquire(self, memory: int | None) -> Lease:
        """Take an idle task process, or start a new one.

        A process that holds more than half of `memory`, the limit of the next call in bytes, from
        earlier calls is ended instead.

        Raises:
            ConnectionError: if the guardian has ended.
            BlockingIOError: if the system has no room for another process.
        """
        with self._lock:
            if self.closed:
                raise ConnectionError("the guardian was closed")
            while not self._idle and self._peek():
                self._idle.append(self._take_over())  # for a call that Ctrl-C has interrupted
            while self._idle:
                lease = self._idle.pop()
                if lease.has_room_for(memory):
                    return lease
                self.drop(lease)
            transport.send(self._control, messages.SPAWN, 0)
            return self._take_over()

    def _take_over(self) -> Lease:
        """Receive a task process from the guardian."""
        message = self._next_message()
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
        wake = functools.partial(self._tell, messages.WAKE, 0)
        lease = Lease(self._owner_cells, row, pid, sock, wake, self._heartbeat)
        self._leases.add(lease)
        return lease

    def _next_message(self) -> transport.Message | None:
        while True:
            try:
                return self._receiver.receive()
            except BlockingIOError:
                self._heartbeat.check()

    def finish(self, lease: Lease) -> None:
        """End a call: keep the task process for the next one, if it is fit for that."""
        fit = lease.finish() and lease.calls != self._max_calls
        with self._lock:
            if fit:
                self._idle.append(lease)
            else:
                self.drop(lease)

    def drop(self, lease: Lease) -> None:
        """End a task process and everything below it, without waiting."""
        with self._lock:
            lease.drop()
            self._leases.discard(lease)
            self._tell(messages.END, lease.row)

    def cancel(self, row: int, number: int) -> None:
        """End the task process in this row if it still runs this call."""
        self._tell(messages.CANCEL, row, struct.pack("=Q", number))

    def _tell(self, kind: int, row: int, body: bytes = b"") -> None:
        with self._lock:
            try:
                transport.send(self._control, kind, row, body)
            except OSError:
                pass  # the guardian has ended, and all task processes with it

    def close(self) -> None:
        """End the guardian and everything below it, and wait until it is gone."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._control.close()
        self._heartbeat.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_WAIT_S)
        with self._lock:
            while self._idle:
                self.drop(self._idle.pop())

    def abandon(self) -> None:
        """Release a guardian that belongs to the process that we were forked from."""
        self.closed = True
        self._process.returncode = 0  # not our child: nothing to wait for
        self._control.close()
        for lease in self._leases:
            lease.sock.close()  # its process and its cells are still the owner's
