"""Pickles what owners and task processes send each other, with large parts in shared memory.

A small pickle is sent on the socket. A larger one is written to a file in memory
(memfd_create(2)), and only its descriptor is sent; the receiver maps the file. Large buffers, such
as the data of a NumPy array, are written to the file directly and used in place: pickle protocol 5
(PEP 574) keeps them out of the pickle. So they are copied once in all.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, Self, SupportsIndex, TypeAlias

from dask_limits.limits.linux import files

Buffer: TypeAlias = bytes | bytearray | memoryview
NewPickler: TypeAlias = Callable[..., Any]
"""Makes a pickler, as `pickle.Pickler` does."""

_INLINE: Final = 64 * 1024
"""Most bytes of pickle that are sent on the socket; more would not fit in one message."""
_OUT_OF_BAND: Final = 32 * 1024
"""Least bytes of a buffer that is kept out of the pickle. Copying a smaller one is faster."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""A sealed file cannot change. Otherwise a sender could truncate it, and SIGBUS would end the
receiver when it reads (fcntl(2), File Sealing)."""
_BARE: Final = 0  # the first byte of a head: the pickle follows
_IN_FILE: Final = 1  # ... or the positions of the parts in the file
_LENGTH: Final = struct.Struct("=Q")
_BUFFER: Final = struct.Struct("=QQ?")  # where it begins, its length, whether it is read-only
_MAX_BUFFERS: Final = 2048
"""As many as can be listed in one message. Further ones are copied into the pickle."""


class Payload:
    """A pickled object, ready to be sent: the pickle, or where its parts are in a file."""

    def __init__(self, head: bytes, *fds: int) -> None:
        self.head = head
        self.fds = fds

    def close(self) -> None:
        """Close the file. The receiver has its own descriptor."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pack(thing: object, new_pickler: NewPickler) -> Payload:
    """Pickle an object. Raises what the pickler raises, and OSError if there is no room."""
    with _Sink() as sink:
        new_pickler(sink, pickle.HIGHEST_PROTOCOL, buffer_callback=sink.keep_buffer).dump(thing)
        return sink.payload()


def unpack(head: memoryview, fds: list[int]) -> Any:
    """Unpickle what was packed. Large buffers stay in the file; writing to them copies pages."""
    return take(head, fds).load()


class Packed:
    """A pickled object that was received and is not unpickled yet.

    It can itself be pickled, to be passed on: with protocol 5 without a copy (PEP 574).
    """

    def __init__(self, pickled: Buffer, buffers: Sequence[Buffer] = ()) -> None:
        self._pickled = pickled
        self._buffers = buffers

    def __sizeof__(self) -> int:
        parts = (self._pickled, *self._buffers)
        return object.__sizeof__(self) + sum(memoryview(part).nbytes for part in parts)

    def load(self) -> Any:
        """Unpickle the object. Raises what unpickling raises."""
        return pickle.loads(self._pickled, buffers=self._buffers)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        def pass_on(buffer: Buffer) -> Any:
            view = memoryview(buffer)
            if int(protocol) >= 5 and view.nbytes >= _OUT_OF_BAND:
                return pickle.PickleBuffer(buffer)
            return bytes(buffer) if view.readonly else bytearray(buffer)

        return Packed, (pass_on(self._pickled), [*map(pass_on, self._buffers)])


def take(head: memoryview, fds: list[int]) -> Packed:
    """Receive what was packed, and leave it pickled. The files may be closed after this."""
    if head[0] == _BARE:
        return Packed(bytes(head[1:]))
    if not fds:
        raise OSError(errno.EMFILE, "this process has too many open files to receive another")
    if fcntl.fcntl(fds[0], fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("the sender can still change the shared memory")
    view = files.map_privately(fds[0])
    (length,) = _LENGTH.unpack_from(head, 1)
    buffers = []
    for at, size, readonly in _BUFFER.iter_unpack(head[1 + _LENGTH.size :]):
        part = view[at : at + size]
        if len(part) < size:
            raise ValueError(f"the shared memory has less than {at + size} bytes")
        buffers.append(part.toreadonly() if readonly else part)
    return Packed(view[:length].toreadonly(), buffers)


class _Sink:
    """What a pickler writes to: bytes in memory, and a file once they are many."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._fd: int | None = None
        self._buffers: list[memoryview] = []

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._fd is not None:
            _write(self._fd, data)
        else:
            self._parts.append(data)
            if self._size > _INLINE:
                self._open()

    def keep_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether a buffer goes into the pickle; otherwise it is kept for the file."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < _OUT_OF_BAND or len(self._buffers) == _MAX_BUFFERS:
            return True
        self._buffers.append(raw)
        return False

    def payload(self) -> Payload:
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
    """Write all data; one write(2) takes 2 GiB at most."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
