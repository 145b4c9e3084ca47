"""Objects on their way between an owner and a task process: pickled, with large parts in memory
that the two share.

A small pickle travels on the socket. A larger one lies in a file in memory (memfd_create(2)), of
which only the descriptor travels: the sender writes it once, and the receiver maps it where it
lies. Large buffers, such as the data of a NumPy array, are written there from where they are, and
are used there: pickle protocol 5 (PEP 574) keeps them out of the pickle, so that they are copied
once on the whole way.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, Self, SupportsIndex, TypeAlias

from dask_limits.limits.linux.memory import map_privately

Buffer: TypeAlias = bytes | bytearray | memoryview

_INLINE: Final = 64 * 1024
"""Bytes of pickle that travel on the socket; more would not fit in a record of it."""
_OUT_OF_BAND: Final = 32 * 1024
"""Bytes of a buffer that is worth a place of its own. A smaller one is copied more quickly."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""What is sealed cannot change any more: without this a sender could cut the file short, and the
receiver would be ended by SIGBUS when it looks (fcntl(2), File Sealing)."""
_BARE: Final = 0  # the first byte of a head: all of the pickle follows
_IN_FILE: Final = 1  # ... or what lies where in the file
_LENGTH: Final = struct.Struct("=Q")
_BUFFER: Final = struct.Struct("=QQ?")  # where it begins, its length, whether it is read-only
_MAX_BUFFERS: Final = 2048
"""As many as can be listed in one record. More than that are copied into the pickle."""


class NewPickler(Protocol):
    """Makes a pickler for a file: `pickle.Pickler` and its like."""

    def __call__(  # noqa: D102
        self, file: Any, protocol: int, *, buffer_callback: Callable[[pickle.PickleBuffer], Any]
    ) -> Any: ...


class Payload:
    """A pickled object, ready to be sent.

    Attributes:
        head: What to send: the pickle, or where the parts are in the file.
        fds: The file to send along, if there is one.
    """

    def __init__(self, head: bytes, *fds: int) -> None:
        self.head = head
        self.fds = fds

    def close(self) -> None:
        """Close the file. One that was received stays open on the other side."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pack(thing: object, new_pickler: NewPickler) -> Payload:
    """Pickle an object.

    Args:
        thing: What is to be sent.
        new_pickler: Makes the pickler that does it.

    Raises:
        Exception: whatever the pickler raises.
        OSError: when there is no room for it, or no file to be had.
    """
    with _Sink() as sink:
        new_pickler(sink, pickle.HIGHEST_PROTOCOL, buffer_callback=sink.keep_buffer).dump(thing)
        return sink.payload()


def unpack(head: memoryview, fds: list[int]) -> Any:
    """What was packed. Its large buffers stay where they were written; writing copies them.

    Args:
        head: The head of the payload.
        fds: The files that came with it. They may be closed after this.

    Raises:
        Exception: as for `take` and `Packed.load`.
    """
    return take(head, fds).load()


class Packed:
    """A pickled object that has arrived and is not unpickled yet.

    It can be pickled itself, and passed on: by protocol 5 without a copy (PEP 574).

    Args:
        pickled: The pickle.
        buffers: The buffers that are not in it.
    """

    def __init__(self, pickled: Buffer, buffers: Sequence[Buffer] = ()) -> None:
        self._pickled = pickled
        self._buffers = buffers

    def __sizeof__(self) -> int:
        parts = (self._pickled, *self._buffers)
        return object.__sizeof__(self) + sum(memoryview(part).nbytes for part in parts)

    def load(self) -> Any:
        """The object.

        Raises:
            Exception: whatever unpickling raises.
        """
        return pickle.loads(self._pickled, buffers=self._buffers)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        pass_on = _out_of_band if int(protocol) >= 5 else _copy
        return Packed, (pass_on(self._pickled), [*map(pass_on, self._buffers)])


def _out_of_band(buffer: Buffer) -> Any:
    if memoryview(buffer).nbytes < _OUT_OF_BAND:
        return _copy(buffer)
    return pickle.PickleBuffer(buffer)


def _copy(buffer: Buffer) -> bytes | bytearray:
    return bytes(buffer) if memoryview(buffer).readonly else bytearray(buffer)


def take(head: memoryview, fds: list[int]) -> Packed:
    """Take over what was packed. Large parts of it stay where they were written.

    Args:
        head: The head of the payload.
        fds: The files that came with it. They may be closed after this.

    Raises:
        OSError: when the file got lost because this process has too many open.
        ValueError: for a file that is not sealed, or that does not hold what the head says.
    """
    if head[0] == _BARE:
        return Packed(bytes(head[1:]))
    if not fds:
        raise OSError(errno.EMFILE, "this process has too many open files to receive another")
    if fcntl.fcntl(fds[0], fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("the sender can still change the shared memory")
    view = map_privately(fds[0])
    (length,) = _LENGTH.unpack_from(head, 1)
    buffers = []
    for at, size, readonly in _BUFFER.iter_unpack(head[1 + _LENGTH.size :]):
        part = view[at : at + size]
        if len(part) < size:
            raise ValueError(f"the shared memory has less than {at + size} bytes")
        buffers.append(part.toreadonly() if readonly else part)
    return Packed(view[:length].toreadonly(), buffers)


class _Sink:
    """The file that a pickler writes to: bytes at first, a file in memory when there are many."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._fd: int | None = None
        self._buffers: list[memoryview] = []

    def write(self, data: bytes) -> None:
        """Take a part of the pickle."""
        self._size += len(data)
        if self._fd is not None:
            _write(self._fd, data)
            return
        self._parts.append(data)
        if self._size > _INLINE:
            self._open()

    def keep_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Say whether a buffer shall go into the pickle; otherwise it is kept for the end."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < _OUT_OF_BAND or len(self._buffers) == _MAX_BUFFERS:
            return True
        self._buffers.append(raw)
        return False

    def payload(self) -> Payload:
        """What has been written, ready to be sent."""
        if self._buffers and self._fd is None:
            self._open()
        if self._fd is None:
            return Payload(b"".join((bytes((_BARE,)), *self._parts)))
        head, fd = [bytes((_IN_FILE,)), _LENGTH.pack(self._size)], self._fd
        for raw in self._buffers:
            at = -(-os.lseek(fd, 0, os.SEEK_CUR) // mmap.PAGESIZE) * mmap.PAGESIZE
            os.lseek(fd, at, os.SEEK_SET)
            _write(fd, raw)
            head.append(_BUFFER.pack(at, raw.nbytes, raw.readonly))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        self._fd = None  # it is the payload's now
        return Payload(b"".join(head), fd)

    def _open(self) -> None:
        self._fd = os.memfd_create("dask-limits-payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        for part in self._parts:
            _write(self._fd, part)
        self._parts.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)


def _write(fd: int, data: bytes | memoryview) -> None:
    """Write all of it; one write(2) takes 2 GiB at most."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
