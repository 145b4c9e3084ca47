"""Objects that calls share: pickled once, into a file in memory that all processes map.

Pickle protocol 5 (PEP 574) keeps large buffers, such as the data of arrays, out of the pickle. They
are used where they are, so an object whose bytes are in its buffers is there at once, and takes no
memory in each process.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, SupportsIndex
from weakref import WeakSet

from dask_limits.limits.linux import files, uninterrupted
from dask_limits.limits.linux.sealed import Part, SealedFile, check
from dask_limits.units import format_bytes


class NotHereError(Exception):
    """A shared object cannot be reached from this process by its address."""


@dataclass(frozen=True)
class Address:
    """Where processes of the same user and machine find a shared object, while its handle lives."""

    machine: str
    pid: int
    fd: int
    inode: int
    places: tuple[tuple[int, int], ...]

    def open(self) -> Shared:
        """A handle for it in this process.

        Raises:
            NotHereError: if it is on another machine, or in a process that this may not look into,
                or is gone.
        """
        if self.machine != machine():
            raise NotHereError("it is on another machine")
        fds: list[int] = []
        try:
            name = f"/proc/{self.pid}/fd/{self.fd}"
            uninterrupted.put(fds, os.open, name, os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(fds[0]).st_ino != self.inode or not check(fds[0]):
                raise NotHereError("it is gone")
            return Shared(SealedFile(fds, [*self.places]))
        except (OSError, ValueError) as why:
            files.close(fds)
            raise NotHereError(str(why)) from why
        except BaseException:
            files.close(fds)
            raise

    def get(self) -> Any:
        """The object, in this process. Raises `NotHereError`, too."""
        return self.open().get()


class Shared:
    """A handle of an object that calls share. `share` makes one.

    In each call that it is passed to, anywhere among the arguments, there is the object instead.

    Attributes:
        sent: What its pickle has by value, and answers may refer to, by id.
    """

    def __init__(self, file: SealedFile, sent: Mapping[int, Any] | None = None) -> None:
        self.file = file
        self.sent = dict(sent or {})
        self._token = ""
        _handles.add(self)

    @classmethod
    def of_parts(cls, parts: Sequence[Part], sent: Mapping[int, Any] | None = None) -> Shared:
        """Share a pickle, and the buffers that were kept out of it. They are copied."""
        return cls(SealedFile.of(parts), sent)

    @property
    def nbytes(self) -> int:
        """Bytes that the object takes, once."""
        return self.file.nbytes

    def get(self) -> Any:
        """The object: a new one each time, on the same memory, which can only be read.

        Its arrays stay usable when this handle is gone.
        """
        return _load(*self.file.parts)

    @property
    def address(self) -> Address:
        """Where other processes of this machine find it."""
        file = self.file
        return Address(machine(), os.getpid(), file.fd, file.inode, tuple(file.places))

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        # What pickles this for another process of ours passes the file on, see `payload`. With any
        # other pickler the data travels.
        if int(protocol) >= 5:
            return _load, tuple(map(pickle.PickleBuffer, self.file.parts))
        return _load, tuple(map(bytes, self.file.parts))

    def __copy__(self) -> Shared:
        return self

    def __deepcopy__(self, _: object) -> Shared:
        return self

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"A handle of share() has no attribute {name!r}. Calls that it is passed to get the"
            " object; here, get() returns it."
        )

    def __dask_tokenize__(self) -> str:
        """A hash of what it holds, made once: a journal knows calls by their arguments."""
        if not self._token:
            from hashlib import blake2b  # which no task process needs

            digest = blake2b(digest_size=16)
            for part in self.file.parts:
                digest.update(part)
            self._token = digest.hexdigest()
        return self._token

    def __sizeof__(self) -> int:
        """Bytes that it holds, for Dask's memory management."""
        return object.__sizeof__(self) + self.nbytes

    def __repr__(self) -> str:
        return f"Shared({format_bytes(self.nbytes)})"


def opened(things: Sequence[Any]) -> list[Any]:
    """The same with handles for addresses, one for each object.

    Raises:
        NotHereError: if one cannot be reached from here.
    """
    handles: dict[Address, Shared] = {}
    for one in things:
        if isinstance(one, Address) and one not in handles:
            handles[one] = one.open()
    return [handles[one] if isinstance(one, Address) else one for one in things]


def _load(pickled: Part, *buffers: Part) -> Any:
    """The object of a handle. Its memory is shared, so that it can only be read."""
    return pickle.loads(pickled, buffers=[memoryview(one).toreadonly() for one in buffers])


_handles: Final[WeakSet[Shared]] = WeakSet()
_CONTAINERS: Final = (list, tuple, dict)


def arrived(arguments: Any) -> Any:
    """Arguments with objects for handles, as a call finds them that gets them without a pickle.

    Handles are found among the arguments, and in lists, tuples and dictionaries there. What has
    none is the same as before.
    """
    return _arrived(arguments, set()) if _handles else arguments


def _arrived(thing: Any, inside: set[int]) -> Any:
    kind = type(thing)
    if kind is Shared:
        return thing.get()
    if kind not in _CONTAINERS or id(thing) in inside:
        return thing
    inside.add(id(thing))  # one that holds itself would have no end
    before = list(thing.values()) if kind is dict else thing
    after = [_arrived(one, inside) for one in before]
    inside.remove(id(thing))
    if all(new is old for new, old in zip(after, before, strict=True)):
        return thing
    return kind(zip(thing, after, strict=True)) if kind is dict else kind(after)


def machine() -> str:
    """What processes have in common that can reach each other's open files in /proc."""
    boot = files.read("/proc/sys/kernel/random/boot_id").decode().strip()
    return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
