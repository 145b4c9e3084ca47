"""Messages on a `SOCK_SEQPACKET` pair, between an owner, its guardian and its task processes.

On this kind of socket a message arrives as a whole or not at all (unix(7)). So if a task process is
killed while it sends its answer, the guardian can still send its verdict on the same socket, and
the owner can tell the two apart.
"""

from __future__ import annotations

import _socket
import array
import errno
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from dask_limits.limits.linux import files, uninterrupted

Socket: TypeAlias = _socket.socket
"""What a `socket.socket` is derived from. One of these itself can be made without Python code."""
Arrival: TypeAlias = tuple[bytes, list[tuple[int, int, bytes]], int, Any]
"""A message as recvmsg(2) gives it."""

_HEADER: Final = struct.Struct("=IBQ")  # mark, kind, number of the call
_MARK: Final = 0x4C494D54
"""The start of each message. A call may write to every open file, ours included; messages without
this mark are ignored."""
_MOST_IGNORED: Final = 1000
"""Without one of ours. A call that writes there all the time must not keep its owner busy."""
MAX_BODY: Final = 128 * 1024
"""Bytes. The buffer of a socket has 208 KiB (net.core.wmem_default), and a message must fit in."""
_MOST_FILES: Final = 32  # in a message: those of a payload, and two for output
_ANCILLARY: Final = socket.CMSG_SPACE(_MOST_FILES * struct.calcsize("=i"))
_CLOSE_ON_EXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
DO_NOT_WAIT: Final = int(socket.MSG_DONTWAIT)
"""Numbers: as members of an enumeration, flags take 2 us to be put together."""
_RETRY_S: Final = 0.001
"""A user's files that are on their way, on all sockets, are limited too; they soon arrive."""


class NonsenseError(ConnectionError):
    """What comes on a socket is none of our messages."""


class Message(NamedTuple):
    """One message, of a kind in `messages`."""

    kind: int
    number: int  # of the call, or of the row
    body: memoryview  # valid until the next message is received
    fds: list[int]  # open files that came with it; the receiver must close them

    def close(self) -> None:
        """Close the files."""
        files.close(self.fds)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that block and are not inherited by programs started later."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return adopt(files.above_standard(ours.detach())), adopt(files.above_standard(theirs.detach()))


def adopt(fd: int) -> socket.socket:
    """A blocking socket of this file, regardless of `socket.setdefaulttimeout`."""
    sock = socket.socket(fileno=fd)
    sock.settimeout(None)
    return sock


def set_patience(sock: Socket, seconds: float) -> None:
    """Have each receive on this socket end after some seconds with a `BlockingIOError`."""
    # Unlike socket.settimeout, this costs no poll(2) before each receive.
    whole, part = divmod(seconds, 1)
    timeval = struct.pack("@ll", int(whole), int(part * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)


def record(kind: int, number: int, *parts: bytes) -> bytes:
    """One message, as `send` sends it."""
    return b"".join((_HEADER.pack(_MARK, kind, number), *parts))


def send(
    sock: Socket,
    kind: int,
    number: int,
    *parts: bytes,
    fds: Sequence[int] = (),
    flags: int = 0,
) -> None:
    """Send one message with a body of at most `MAX_BODY` bytes, and at most `_MOST_FILES` files."""
    data = record(kind, number, *parts)
    if not fds:
        sock.send(data, flags)
        return
    while True:
        try:
            rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds)
            sock.sendmsg((data,), (rights,), flags)
            return
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
        time.sleep(_RETRY_S)


class Receiver:
    """Receives messages from one socket; one thread at a time."""

    def __init__(self, sock: Socket) -> None:
        self._record = bytearray(_HEADER.size + MAX_BODY)
        self._view = memoryview(self._record)
        self._recvmsg_into = sock.recvmsg_into
        self._args = (self._record,), _ANCILLARY
        self._arrived: list[tuple[int, list[tuple[int, int, bytes]], int, Any]] = []
        self._fds: list[int] = []  # of the last message, as long as nobody has closed them

    def receive(self, flags: int = 0) -> Message | None:
        """The next message; None at the end of the stream.

        Raises:
            NonsenseError: if something else comes again and again.
        """
        flags |= _CLOSE_ON_EXEC
        for _ in range(_MOST_IGNORED):
            uninterrupted.put(self._arrived, self._recvmsg_into, *self._args, flags)
            size, ancillary, _, _ = self._arrived[0]
            fds = self._fds = _fds_in(ancillary) if ancillary else []
            self._arrived.clear()
            if size >= _HEADER.size:
                mark, kind, number = _HEADER.unpack_from(self._record)
                if mark == _MARK:
                    return Message(kind, number, self._view[_HEADER.size : size], fds)
            files.close(fds)
            if size == 0:
                return None
        raise NonsenseError

    def close(self) -> None:
        """Close the files of the last message, if whoever received it was interrupted."""
        if self._arrived:
            self._fds = _fds_in(self._arrived[0][1])
            self._arrived.clear()
        files.close(self._fds)


def receive(sock: Socket, arrived: list[Arrival], flags: int = 0) -> Message | None:
    """The next message, as `parse` reads it, from a socket that several threads receive from.

    What has arrived is put into a list, where it is found if this is interrupted.
    """
    size = _HEADER.size + MAX_BODY // 4
    flags |= _CLOSE_ON_EXEC
    uninterrupted.put(arrived, sock.recvmsg, size, _ANCILLARY, flags)
    return parse(arrived[0])


def parse(arrival: Arrival) -> Message | None:
    """The message that has arrived; None at the end of the stream."""
    data, ancillary, _, _ = arrival
    if not data:
        return None
    _, kind, number = _HEADER.unpack_from(data)
    return Message(kind, number, memoryview(data)[_HEADER.size :], _fds_in(ancillary))


def _fds_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()
