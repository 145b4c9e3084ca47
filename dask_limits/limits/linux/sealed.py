"""Files in memory that nobody can change any more. All processes that map one use the same pages.

A process that holds such a file can neither write to it nor resize it (memfd_create(2), File
Sealing), whatever it tries, so it can be lent to any. The file has no name. Its memory is free when
the last process has closed and unmapped it, or has ended, in whatever way.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import weakref
from collections.abc import Iterable
from typing import Final, Self, TypeAlias

from dask_limits.limits.linux import files, uninterrupted

Part: TypeAlias = bytes | bytearray | memoryview | pickle.PickleBuffer

SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""A sealed file cannot change. Otherwise a sender could truncate it, and SIGBUS would end the
receiver when it reads (fcntl(2), File Sealing)."""


class SealedFile:
    """A sealed file with some parts, mapped for reading.

    Attributes:
        inode: By which the kernel knows it among files in memory.
        parts: Views of its parts, which can be used as long as they are kept, without this object.
        places: Where each part begins, and its size, in bytes.
    """

    def __init__(self, fds: list[int], places: list[tuple[int, int]]) -> None:
        """Take over a list with the number of an open file, which whoever empties it closes.

        The file is open for reading alone, and the places are within it.
        """
        self._fds = fds
        contents = files.map_privately(fds[0], writable=False)
        self.parts = [contents[at : at + size] for at, size in places]
        self.places = places
        self.inode = os.fstat(fds[0]).st_ino
        for part in self.parts:
            _files[id(part)] = self

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Self:
        """Write parts to a new file, and seal it. An `OSError` if there is no room.

        The first part must not be empty.
        """
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        new: list[int] = []
        fds: list[int] = []
        places: list[tuple[int, int]] = []
        try:
            uninterrupted.put(new, os.memfd_create, "dask-limits-shared", flags)
            at = 0
            for part in parts:
                size = memoryview(part).nbytes
                os.lseek(new[0], at, os.SEEK_SET)
                files.write_all(new[0], part)
                places.append((at, size))
                at += files.in_pages(size)
            fcntl.fcntl(new[0], fcntl.F_ADD_SEALS, SEALS)
            # For reading alone, so that who receives it cannot even add a seal.
            name = f"/proc/self/fd/{new[0]}"
            uninterrupted.put(fds, os.open, name, os.O_RDONLY | os.O_CLOEXEC)
            return cls(fds, places)
        except BaseException:
            files.close(fds)
            raise
        finally:
            files.close(new)

    @property
    def fd(self) -> int:
        """Its number, which is closed with this object."""
        return self._fds[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(size for _, size in self.places)

    def __del__(self) -> None:
        files.close(self._fds)


_files: Final[weakref.WeakValueDictionary[int, SealedFile]] = weakref.WeakValueDictionary()
"""By the `id` of each view of a part: as long as there is the file, there is the view."""


def place_of(raw: memoryview) -> tuple[SealedFile, int] | None:
    """The file of which this is a part, and where it begins there; None if it is none."""
    file = _files.get(id(raw.obj))
    if file is None:
        return None
    (at,) = (at for part, (at, _) in zip(file.parts, file.places, strict=True) if part is raw.obj)
    return file, at


def shared_among(fds: Iterable[int]) -> dict[int, int]:
    """Those of some received files that others have too: their sizes in bytes, by inode."""
    found = map(os.fstat, filter(_is_read_only, fds))
    return {file.st_ino: file.st_size for file in found}


def check(fd: int) -> bool:
    """Whether a received file is one that others have too, and is mapped for reading alone.

    Raises:
        ValueError: if it can still be changed.
    """
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
        raise ValueError("the sender can still change the shared memory")
    return _is_read_only(fd)


def _is_read_only(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
