"""Captured output: how the process of a call redirects it, and how the owner reads it."""

from __future__ import annotations

import _socket
import contextlib
import ctypes
import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from dask_limits.limits.linux import files, uninterrupted

_CHUNK: Final = 64 * 1024
"""Bytes to read at once: the capacity of a pipe (pipe(7))."""
_IOLBF: Final = 1  # of stdio.h in glibc and musl
_libc = ctypes.CDLL(None)


class Capture:
    """Reads what one call prints while it runs, and keeps `keep` bytes of each stream."""

    def __init__(self, keep: int) -> None:
        self.fds: list[int] = []  # for standard output and standard error of the call
        self._keep = keep
        self._pipes: list[tuple[int, int]] = []
        self._read_ends: list[int] = []
        self._streams: dict[int, _Kept] = {}

    def open(self) -> None:
        """Open the files.

        Raises:
            OSError: if this process has too many open files.
        """
        for _ in range(2):
            uninterrupted.put(self._pipes, os.pipe)
            self._split_pipe()
        for fd in self._read_ends:
            self._streams[fd] = _Kept(self._keep)
            os.set_blocking(fd, False)

    def _split_pipe(self) -> None:
        for read, write in self._pipes:
            uninterrupted.together(
                (self._read_ends.append, read), (self.fds.append, write), (self._pipes.clear,)
            )

    def sent(self) -> None:
        """Close the ends that were sent to the call."""
        files.close(self.fds)

    @property
    def listens_to(self) -> list[int]:
        """The files from which something may still come."""
        return [fd for fd, kept in self._streams.items() if not kept.has_ended]

    def take_until_readable(self, sock: _socket.socket, patience_s: float) -> None:
        """Read what is printed until the socket is readable, or for so long."""
        give_up_at = time.monotonic() + patience_s
        while True:
            poll = select.poll()
            for fd in (sock.fileno(), *self.listens_to):
                poll.register(fd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(patience_s * 1000)}
            for fd in ready & self._streams.keys():
                self._take(fd)
            if sock.fileno() in ready or time.monotonic() > give_up_at:
                return

    def _take(self, fd: int) -> None:
        """Read what is there, one pipe full at most."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        kept = self._streams[fd]
        kept.add(data)
        kept.has_ended = not data

    def texts(self) -> tuple[str, str]:
        """Standard output and standard error so far."""
        for fd in self._streams:
            self._take(fd)
        out, err = (kept.text() for kept in self._streams.values())
        return out, err

    def close(self) -> None:
        """Stop reading. A process that still prints gets an error, as with any closed pipe."""
        self._split_pipe()
        self.sent()
        self._streams.clear()
        files.close(self._read_ends)


class _Kept:
    """The start and the end of a stream."""

    def __init__(self, keep: int) -> None:
        self._head_size = keep // 2
        self._tail_size = keep - self._head_size
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0
        self.has_ended = False

    def add(self, data: bytes) -> None:
        self._total += len(data)
        missing = self._head_size - len(self._head)
        self._head += data[:missing]
        self._tail += data[missing:]
        if len(self._tail) > self._tail_size + _CHUNK:
            del self._tail[: -self._tail_size]

    def text(self) -> str:
        tail = self._tail[-self._tail_size :]
        left_out = self._total - len(self._head) - len(tail)
        gap = b"\n[... %d bytes left out ...]\n" % left_out if left_out else b""
        return (self._head + gap + tail).decode(errors="replace")


@contextlib.contextmanager
def redirected(fds: Sequence[int]) -> Iterator[None]:
    """Print into these two files, from Python, C and child processes. For task processes.

    The files are closed. Flush the buffers before the end of the block.
    """
    flush()
    saved = [files.out_of_the_way(fd) for fd in (1, 2)]
    streams = sys.stdout, sys.stderr
    for number, fd in enumerate(fds, 1):
        os.dup2(fd, number)
        os.close(fd)
    # An owner that is a daemon may have none.
    sys.stdout = sys.stdout or open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for number, file in enumerate(saved, 1):
            os.dup2(file, number)
            os.close(file)


def flush() -> None:
    """Flush the buffers of standard output and standard error, those of C included."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except BaseException:  # none, closed by the call, without a reader, or of the call's making
            pass
    _libc.fflush(None)


def buffer_by_lines() -> None:
    """Flush after each line, so that the lines of a call that is killed are not lost."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    _libc.setvbuf(ctypes.c_void_p.in_dll(_libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))
