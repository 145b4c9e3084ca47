"""Pickles what owners and task processes send each other, with large parts in shared memory.

A small pickle is sent on the socket. A larger one is written to a file in memory
(memfd_create(2)), and only its descriptor is sent; the receiver maps the file. Large buffers, such
as the data of a NumPy array, are written to files directly and used in place: pickle protocol 5
(PEP 574) keeps them out of the pickle. So they are copied once in all.

Memory of a file is in use as long as any part of it is mapped. So a large buffer has a file of its
own, and goes when it is released, whatever else came with it. Smaller ones share files: open files
and mappings (vm.max_map_count) are scarce.

What is shared lies in a sealed file already, which is passed on as it is.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self, SupportsIndex, TypeAlias

from dask_limits.limits.linux import files, sealed, uninterrupted
from dask_limits.limits.linux.sealed import SEALS, SealedFile

Buffer: TypeAlias = bytes | bytearray | memoryview
Readable: TypeAlias = Buffer | pickle.PickleBuffer
NewPickler: TypeAlias = Callable[..., Any]
"""Makes a pickler, as `pickle.Pickler` does."""
Lend: TypeAlias = Callable[[memoryview], "tuple[SealedFile, int] | None"]
"""Finds a sealed file with a copy of a buffer, and where it begins there."""
LeaveOut: TypeAlias = Callable[[memoryview], "int | None"]
"""Decides whether to leave out a buffer: then it is known by this number."""

_INLINE: Final = 64 * 1024
"""Most bytes of pickle that are sent on the socket; more would not fit in one message."""
_OUT_OF_BAND: Final = 32 * 1024
"""Least bytes of a buffer that is kept out of the pickle. Copying a smaller one is faster."""
_HEAD: Final = struct.Struct("=bQ")
"""The start of a head: in which file the rest of it is, -1 for none, and the number of buffers. The
rest is the pickle, and a `_BUFFER` for each."""
_BUFFER: Final = struct.Struct("=BQQ?")  # its file, where it begins, its length, if it is read-only
_LARGE: Final = 128 * 1024
"""Least bytes of a buffer that has a file of its own: 10 us, a third of the time to copy it."""
_MOST_FILES: Final = 16
"""Of many buffers, only those have a file of their own that are this part of all; others share
files of that size."""
MOST_SHARED: Final = 12
"""Files with what is shared that are passed on with a payload; of more, the data is copied. With
two more for output, a message has room for them."""


class Payload:
    """A pickled object, ready to be sent: its head, and the files with what is not in the head.

    Attributes:
        shared: The inodes of those files that it has in common with others.
    """

    def __init__(self, head: bytes = b"", fds: list[int] | None = None) -> None:
        self.head = head
        self.fds = [] if fds is None else fds
        self.shared: list[int] = []

    def close(self) -> None:
        """Close the files. The receiver has its own descriptors."""
        files.close(self.fds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pack(
    thing: object,
    new_pickler: NewPickler,
    into: Payload | None = None,
    lend: Lend | None = None,
) -> Payload:
    """Pickle an object. Raises what the pickler raises, and OSError if there is no room.

    The files are those of the payload `into`, if there is one, from their start on: this matters
    where a signal may interrupt this. A buffer of which `lend` has a copy is not copied.
    """
    packed = Payload() if into is None else into
    try:
        sink = _Sink(packed, lend)
        new_pickler(sink, pickle.HIGHEST_PROTOCOL, buffer_callback=sink.keep_buffer).dump(thing)
        packed.head = sink.finish()
    except BaseException:
        packed.close()
        raise
    return packed


def unpack(head: memoryview, fds: list[int]) -> Any:
    """Unpickle what was packed. Large buffers stay in files; writing to them copies pages."""
    return take(head, fds).load()


def pack_texts(*texts: str) -> Payload:
    """Pack texts, for who must not unpickle what comes: unpickling can run any code."""
    return pack("\0".join(text.replace("\0", "\\0") for text in texts), _TextWriter)


class _TextWriter:
    """Writes a text instead of pickling it."""

    def __init__(self, sink: _Sink, *_: object, **__: object) -> None:
        self._sink = sink

    def dump(self, text: str) -> None:
        self._sink.write(text.encode(errors="surrogatepass"))


class Packed:
    """A pickled object that is not unpickled yet, such as one that was received.

    It can itself be pickled, to be passed on: with protocol 5 without a copy (PEP 574). A buffer
    that could be written to can be in the end, also if it could not on its way.
    """

    def __init__(
        self,
        pickled: Buffer,
        buffers: Sequence[Buffer | int] = (),
        readonly: Sequence[bool] | None = None,
    ) -> None:
        self.pickled = pickled
        self._buffers = buffers
        if readonly is None:
            readonly = [memoryview(one).readonly for one in self._held]
        self._readonly = list(readonly)

    @property
    def _held(self) -> Iterator[Buffer]:
        return (one for one in self._buffers if not isinstance(one, int))

    @classmethod
    def of(cls, thing: object, new_pickler: NewPickler, leave_out: LeaveOut) -> Self:
        """Pickle an object as it is now: large buffers are copied. Raises what the pickler does.

        Not so those that can be left out; what is to be in their places is told when it is loaded.
        """
        buffers: list[Buffer | int] = []
        readonly: list[bool] = []

        def keep_buffer(buffer: pickle.PickleBuffer) -> bool:
            if (raw := large(buffer)) is None:
                return True
            place = leave_out(raw)
            if place is None:
                buffers.append(bytes(raw) if raw.readonly else bytearray(raw))
            else:
                buffers.append(place)
            readonly.append(raw.readonly)
            return False

        file = io.BytesIO()
        new_pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=keep_buffer).dump(thing)
        return cls(file.getvalue(), buffers, readonly)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(memoryview(part).nbytes for part in (self.pickled, *self._held))

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.nbytes

    def load(self) -> Any:
        """Unpickle the object. Raises what unpickling raises."""
        return pickle.loads(self.pickled, buffers=self.buffers())

    def buffers(self, put_in: Sequence[Any] = ()) -> list[Buffer]:
        """What was kept out of the pickle, to unpickle it with; of what was left out, a copy."""
        return [
            _as_it_was(one, readonly)
            if not isinstance(one, int)
            else _copied(put_in[one], readonly)
            for one, readonly in zip(self._buffers, self._readonly, strict=True)
        ]

    def texts(self) -> list[str]:
        """The texts that were packed as such."""
        return bytes(self.pickled).decode(errors="surrogatepass").split("\0")

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        def pass_on(buffer: Buffer | int) -> Any:
            if isinstance(buffer, int):
                return buffer
            view = memoryview(buffer)
            if int(protocol) >= 5 and view.nbytes >= _OUT_OF_BAND:
                return pickle.PickleBuffer(buffer)
            return bytes(buffer) if view.readonly else bytearray(buffer)

        buffers = [*map(pass_on, self._buffers)]
        return Packed, (pass_on(self.pickled), buffers, self._readonly)


def _copied(buffer: Buffer, readonly: bool) -> Buffer:
    """A copy, which counts for its call as what has come with the call does."""
    return bytes(buffer) if readonly else bytearray(buffer)


def _as_it_was(buffer: Buffer, readonly: bool) -> Buffer:
    """A buffer, for what was pickled: it can be written to, unless it could not be before."""
    view = memoryview(buffer)
    if readonly:
        return view.toreadonly()
    return bytearray(view) if view.readonly else view


def large(buffer: pickle.PickleBuffer) -> memoryview | None:
    """The bytes of a buffer that is kept out of the pickle; None if it is in the pickle."""
    try:
        raw = buffer.raw()
    except BufferError:  # not contiguous
        return None
    return raw if raw.nbytes >= _OUT_OF_BAND else None


def take(head: memoryview, fds: list[int]) -> Packed:
    """Receive what was packed, and leave it pickled. The files may be closed after this."""
    rest, number = _HEAD.unpack_from(head)
    content = memoryview(bytes(head[_HEAD.size :])) if rest < 0 else _mapped(fds, rest)
    end = len(content) - number * _BUFFER.size
    if end < 0:
        raise ValueError(f"{len(content)} bytes are too few to list {number} buffers")
    mapped: dict[int, memoryview] = {}  # each as long as a part of it is used
    buffers = []
    for file, at, size, readonly in _BUFFER.iter_unpack(content[end:]):
        if file not in mapped:
            mapped[file] = _mapped(fds, file)
        part = mapped[file][at : at + size]
        if len(part) < size:
            raise ValueError(f"the shared memory has less than {at + size} bytes")
        buffers.append(part.toreadonly() if readonly else part)
    return Packed(content[:end].toreadonly(), buffers)


def _mapped(fds: list[int], file: int) -> memoryview:
    """The contents of a file that has come with a head."""
    if file >= len(fds):
        raise OSError(errno.EMFILE, "this process has too many open files to receive another")
    is_shared = sealed.check(fds[file])
    return files.map_privately(fds[file], writable=not is_shared)


class _Sink:
    """What a pickler writes to: bytes in memory, and a file once they are many."""

    def __init__(self, packed: Payload, lend: Lend | None) -> None:
        self._fds = packed.fds
        self._shared = packed.shared
        self._lend = lend
        self._places: dict[int, int] = {}  # those of shared files among all, by inode
        self._parts: list[Readable] = []
        self._size = 0
        self._file = -1  # its place among the files
        self._buffers: list[memoryview] = []

    def write(self, data: Readable) -> None:
        """Write a part of the pickle, which may be a large object as it is."""
        if self._file >= 0:
            files.write_all(self._fds[self._file], data)
            return
        self._parts.append(data)
        self._size += memoryview(data).nbytes
        if self._size > _INLINE:
            self._file = self._add_file()
            for part in self._parts:
                files.write_all(self._fds[self._file], part)
            self._parts.clear()

    def keep_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether a buffer goes into the pickle; otherwise it is kept for a file."""
        if (raw := large(buffer)) is None:
            return True
        self._buffers.append(raw)
        return False

    def finish(self) -> bytes:
        """Write the buffers, and return the head."""
        if self._buffers:
            self.write(self._write_buffers())
        for place, fd in enumerate(self._fds):
            if place not in self._places.values():
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        return b"".join((_HEAD.pack(self._file, len(self._buffers)), *self._parts))

    def _write_buffers(self) -> bytes:
        """Write the buffers to files; return the table that says where each is."""
        table: list[bytes] = []
        own: list[tuple[int, memoryview]] = []  # which are copied, and their places in the table
        for n, raw in enumerate(self._buffers):
            if (place := self._pass_on(raw)) is None:
                own.append((n, raw))
                place = 0, 0
            table.append(_BUFFER.pack(*place, raw.nbytes, raw.readonly))
        share = max(_LARGE, -(-sum(files.in_pages(raw.nbytes) for _, raw in own) // _MOST_FILES))
        shared, end = 0, share  # the file that smaller ones share, and how far it is filled
        for n, raw in own:
            if raw.nbytes >= share:
                file, at = self._add_file(), 0
            else:
                if end >= share:
                    shared, end = self._add_file(), 0
                file, at = shared, end
                end += files.in_pages(raw.nbytes)
            os.lseek(self._fds[file], at, os.SEEK_SET)
            files.write_all(self._fds[file], raw)
            table[n] = _BUFFER.pack(file, at, raw.nbytes, raw.readonly)
        return b"".join(table)

    def _pass_on(self, raw: memoryview) -> tuple[int, int] | None:
        """The file that this lies in, and where, if it is shared; or the file with its copy."""
        is_full = len(self._places) == MOST_SHARED
        is_shared = (found := sealed.place_of(raw)) is not None
        if found is None and self._lend is not None and not is_full:
            found = self._lend(raw)
        if found is None:
            return None
        file, at = found
        place = self._places.get(file.inode)
        if place is None:
            if is_full:
                return None
            place = self._places[file.inode] = self._add_sealed(file, is_shared)
        elif (
            not is_shared
        ):  # two views of one array: in the call they are two arrays, as copies are
            return None
        return place, at

    def _add_sealed(self, file: SealedFile, is_shared: bool) -> int:
        """Add a file that is there already; return its place among the files.

        What is shared can only be read. Of a copy, the receiver's pages are its own once it has
        written to them, and count for its call.
        """
        if is_shared:
            uninterrupted.put(self._fds, fcntl.fcntl, file.fd, fcntl.F_DUPFD_CLOEXEC, 3)
            self._shared.append(file.inode)
        else:
            name = f"/proc/self/fd/{file.fd}"
            uninterrupted.put(self._fds, os.open, name, os.O_RDWR | os.O_CLOEXEC)
        return len(self._fds) - 1

    def _add_file(self) -> int:
        """Make another file; return its place among the files."""
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        uninterrupted.put(self._fds, os.memfd_create, "dask-limits-payload", flags)
        return len(self._fds) - 1
