from __future__ import annotations

import functools
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from dask_limits.limits.ipc import messages, transport
from dask_limits.limits.ipc.transport import Arrival, Message, Socket
from dask_limits.limits.linux import uninterrupted
from dask_limits.limits.owner.lease import Lease

_socket_of: Final = functools.partial(Socket, socket.AF_UNIX, socket.SOCK_SEQPACKET, 0)

_ANSWERS: Final = messages.SPAWNED, messages.REFUSED, messages.UNPREPARED


class Hold:
    """What one call holds of its guardian: a task process, and how it got it.

    A signal may interrupt the call at any moment. So a task process is always to be found: among
    those that are idle, or here. It comes here from there, or as a message of the guardian, which
    then becomes a lease; and it is here until it is idle again, or until the guardian was told to
    end it. Each of these is one step, and the end can be repeated if it was interrupted itself.
    """

    def __init__(self) -> None:
        self._asked: list[None] = []  # of length 1 while the guardian has not answered
        self._arrived: list[Arrival] = []
        self._socks: list[Socket] = []  # the one that has arrived
        self.leases: list[Lease] = []

    @property
    def lease(self) -> Lease:
        """The task process."""
        return self.leases[0]

    def take_idle(self, idle: deque[Lease]) -> None:
        """Take over an idle task process. An `IndexError` if there is none."""
        uninterrupted.put(self.leases, idle.pop)

    def take_from_idle(self, idle: deque[Lease], lease: Lease) -> None:
        """Take over this idle task process. A `ValueError` if another thread has."""
        uninterrupted.together((idle.remove, lease), (self.leases.append, lease))

    def make_idle(self, idle: deque[Lease]) -> None:
        """Return the task process to those that are idle."""
        uninterrupted.put(idle, self.leases.pop)

    def ask(self, send: Callable[[bytes], object], record: bytes, left: list[None]) -> None:
        """Ask the guardian by this message, if there is no question `left` without an answer."""
        try:
            uninterrupted.together((left.pop,), (self._asked.append, None))
        except IndexError:
            uninterrupted.together((send, record), (self._asked.append, None))

    def leave_question(self, left: list[None]) -> None:
        """Leave a question without an answer to the next call."""
        messages_ = map(transport.parse, self._arrived)
        if self._asked and not any(m and m.kind in _ANSWERS for m in messages_):
            uninterrupted.together((self._asked.pop,), (left.append, None))

    def receive(self, control: Socket, flags: int) -> Message | None:
        """The next message of the guardian; None if it has ended."""
        self._arrived.clear()
        return transport.receive(control, self._arrived, flags)

    def become_lease(self, message: Message, make: Callable[[Socket], Lease]) -> Lease:
        """Make a lease of the task process that came with the last message."""
        self._adopt(message)
        lease = make(self._socks[0])
        self.leases.append(lease)
        uninterrupted.together((self._asked.clear,), (self._arrived.clear,), (self._socks.clear,))
        return lease

    def _adopt(self, message: Message) -> None:
        """Have its file closed with an object. A second time this does nothing."""
        if message.fds and not self._socks:
            uninterrupted.put(self._socks, _socket_of, message.fds[0])
            self._socks[0].settimeout(None)  # regardless of `socket.setdefaulttimeout`

    def close(self) -> int | None:
        """Close all files. The row of the task process, which is still to be ended; None if none
        is held.
        """
        for lease in self.leases:
            lease.close()
            return lease.row
        for message in map(transport.parse, self._arrived):
            if message is not None and message.kind == messages.SPAWNED:
                self._adopt(message)
                for sock in self._socks:
                    sock.close()
                return message.number
        return None

    def end_by(self, send: Callable[[bytes], object], record: bytes) -> None:
        """Send this message, and hold nothing any more. If the guardian has ended, there is nothing
        left to hold.
        """
        lists = self._asked, self._arrived, self._socks, self.leases
        forget = [(some.clear,) for some in lists]
        try:
            uninterrupted.together((send, record), *forget)
        except OSError:
            uninterrupted.together(*forget)
