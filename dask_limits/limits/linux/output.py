"""What a call prints: how its process redirects it, and how its owner takes it in."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from dask_limits.limits.linux import files

_CHUNK: Final = 64 * 1024
"""Bytes read at once: as much as a pipe holds (pipe(7))."""
_IOLBF: Final = 1  # of stdio.h in glibc and musl
_libc = ctypes.CDLL(None)


class Capture:
    """Takes in what one call prints, as fast as it prints, and keeps the start and the end.

    Args:
        keep: Bytes to keep of each stream.

    Raises:
        OSError: when this process has too many open files.
    """

    def __init__(self, keep: int) -> None:
        self._streams: dict[int, _Kept] = {}
        self._write_ends: list[int] = []
        try:
            for _ in range(2):
                read, write = os.pipe()
                self._streams[read] = _Kept(keep)
                self._write_ends.append(write)
                os.set_blocking(read, False)
        except OSError:
            self.close()
            raise

    @property
    def fds(self) -> Sequence[int]:
        """Where the call shall print, its errors second."""
        return self._write_ends

    def sent(self) -> None:
        """The other side has got its ends."""
        while self._write_ends:
            os.close(self._write_ends.pop())

    def take_until_readable(self, sock: socket.socket) -> None:
        """Take what is printed, until there is something to receive on the socket."""
        poll = select.poll()
        for fd in (sock.fileno(), *self._streams):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            for fd in ready & self._streams.keys():
                if not self._take(fd):
                    poll.unregister(fd)
            if sock.fileno() in ready:
                return

    def _take(self, fd: int) -> bool:
        """Take in what is there, a pipe full at most. False when there will be no more."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return True
        self._streams[fd].add(data)
        return bool(data)

    def texts(self) -> tuple[str, str]:
        """What was printed, and what was printed as errors."""
        for fd in self._streams:
            self._take(fd)
        out, err = (kept.text() for kept in self._streams.values())
        return out, err

    def close(self) -> None:
        """Take no more. What still prints gets an error, as at the end of any pipe."""
        self.sent()
        for fd in self._streams:
            os.close(fd)
        self._streams.clear()


class _Kept:
    """The start and the end of a stream."""

    def __init__(self, keep: int) -> None:
        self._head_size = keep // 2
        self._tail_size = keep - self._head_size
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        self._total += len(data)
        missing = self._head_size - len(self._head)
        self._head += data[:missing]
        self._tail += data[missing:]
        if len(self._tail) > self._tail_size + _CHUNK:
            del self._tail[: -self._tail_size]

    def text(self) -> str:
        head, tail = bytes(self._head), bytes(self._tail[-self._tail_size :])
        left_out = self._total - len(head) - len(tail)
        if not left_out:
            return (head + tail).decode(errors="replace")
        gap = f"\n[... {left_out} bytes left out ...]\n"
        return head.decode(errors="replace") + gap + tail.decode(errors="replace")


@contextlib.contextmanager
def redirected(fds: Sequence[int]) -> Iterator[None]:
    """Print into these files, in Python, in C and in child processes; for a task process.

    What is still in buffers at the end has to be flushed before.

    Args:
        fds: For what is printed, and for errors; they are closed. Without them nothing is done.
    """
    if not fds:
        yield
        return
    flush()
    saved = [_duplicate(fd) for fd in (1, 2)]
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
            if file is None:
                os.close(number)
            else:
                os.dup2(file, number)
                os.close(file)


def _duplicate(fd: int) -> int | None:
    """The same file at a high number; None if there is none."""
    try:
        return files.out_of_the_way(fd)
    except OSError:
        return None


def flush() -> None:
    """Write out what is printed and still in buffers, those of C included."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except BaseException:  # none, closed by the call, without a reader, or of the call's making
            pass
    _libc.fflush(None)


def buffer_by_lines() -> None:
    """Write each line as it is printed, so that a call that is killed has printed its lines."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    _libc.setvbuf(ctypes.c_void_p.in_dll(_libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))
