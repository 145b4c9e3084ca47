"""Messages on a `SOCK_SEQPACKET` pair, between an owner, its guardian and its task processes.

Why this kind of socket: what is sent at once arrives at once or not at all (unix(7)). So when a
task process is killed in the middle of a long answer, the guardian can still write its verdict
behind it, on the same socket, and the owner can tell the two apart.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Final

_HEADER: Final = struct.Struct("=IBQQ")  # mark, kind, number of the call, bytes of the message
_MARK: Final = 0x4C494D54
"""Begins each record. A call may write to every file that it finds open, ours among them; what
does not begin like this is such noise, and passed over."""
# Linux gives a socket 208 KiB of buffer (net.core.wmem_default); a record must fit in it whole.
# Smaller ones cost more system calls for long messages.
_RECORD: Final = 128 * 1024


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that block and are not inherited by programs started later."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return adopt(above_standard(ours.detach())), adopt(above_standard(theirs.detach()))


def adopt(fd: int) -> socket.socket:
    """A socket of this file that blocks, whatever `socket.setdefaulttimeout` has been set to."""
    sock = socket.socket(fileno=fd)
    sock.settimeout(None)
    return sock


def above_standard(fd: int) -> int:
    """The same file under a number that is not one of 0 to 2, which a daemon may have closed."""
    if fd > 2:
        return fd
    higher = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return higher


def send(sock: socket.socket, kind: int, number: int, body: bytes = b"", flags: int = 0) -> None:
    """Send one message, in as many records as it takes.

    Raises:
        OSError: when nobody can receive it any more.
    """
    header = _HEADER.pack(_MARK, kind, number, len(body))
    if len(body) <= _RECORD:
        sock.send(header + body, flags)
        return
    view = memoryview(body)
    for start in range(0, len(body), _RECORD):
        sock.sendmsg([header, view[start : start + _RECORD]], (), flags)


def send_fd(sock: socket.socket, kind: int, number: int, body: bytes, fd: int) -> None:
    """Send one short message that carries an open file."""
    socket.send_fds(sock, [_HEADER.pack(_MARK, kind, number, len(body)) + body], [fd])


def receive_fd(sock: socket.socket) -> tuple[int, int, bytes, int | None]:
    """Receive one short message that may carry an open file: kind, number, body, the file.

    Raises:
        ConnectionError: at the end of the stream.
    """
    record, fds, _, _ = socket.recv_fds(sock, _HEADER.size + 1024, 1)
    if len(record) < _HEADER.size:
        raise ConnectionError("the other end is closed")
    _, kind, number, _ = _HEADER.unpack_from(record)
    return kind, number, record[_HEADER.size :], fds[0] if fds else None


class Receiver:
    """Receives messages from one socket; one thread at a time.

    Args:
        sock: The socket to read from. It is not closed by this.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._record = bytearray(_HEADER.size + _RECORD)
        self._view = memoryview(self._record)

    def receive(self) -> tuple[int, int, memoryview] | None:
        """The next message: kind, number of the call, body. None at the end of the stream.

        The body is valid until the next call of this. A long message that is cut off by one of
        another kind, or for another call, is dropped: its sender was killed.
        """
        record = self._receive_record()
        while record is not None:
            kind, number, total, body = record
            if len(body) >= total:
                return kind, number, body
            whole = memoryview(bytearray(total))
            at = 0
            while record is not None and record[:3] == (kind, number, total):
                body = record[3]
                if at + len(body) > total:  # two processes write at once: a call that has forked
                    return None
                whole[at : at + len(body)] = body
                at += len(body)
                if at == total:
                    return kind, number, whole
                record = self._receive_record()
        return None

    def _receive_record(self) -> tuple[int, int, int, memoryview] | None:
        while size := self._sock.recv_into(self._record):
            if size >= _HEADER.size:
                mark, kind, number, total = _HEADER.unpack_from(self._record)
                if mark == _MARK:
                    return kind, number, total, self._view[_HEADER.size : size]
        return None
