"""Large arguments that come again: from the second time on a copy is kept, and lent to calls.

What a call gets is what its argument is when it is pickled. So a buffer is the same as before if it
lies where that did and each byte is the same; to compare them takes a tenth of the time to copy.
One that was written to in between goes anew, as the first time.

Within a call nothing is kept: the copies would be memory of that call.
"""

from __future__ import annotations

import ctypes
import pickle
import resource
import sys
import weakref
import zlib
from dataclasses import dataclass
from typing import Any, Final

from dask_limits.limits.linux.sealed import SealedFile
from dask_limits.limits.owner.account import account_here
from dask_limits.limits.shared import Shared
from dask_limits.limits.task import enclosing

LEAST: Final = 2**20
"""Bytes of the smallest buffer for which this pays."""
_MOST: Final = 32
"""Buffers that are remembered."""
_MOST_SHARE: Final = 1 / 8
"""Share of the memory of this machine, or of the cgroup or batch job, that is kept at most."""
_FILES_SHARE: Final = 1 / 16
"""Share of the files that this process may open that copies have at most: one each."""
_SAMPLES: Final = 64
_SAMPLE_SIZE: Final = 64
_libc: Final = ctypes.CDLL(None)  # releases the GIL
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _AsBytes:
    """Pickled, it is the bytes of a buffer that comes beside the pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (pickle.PickleBuffer(bytearray()),)


def _pickled(thing: object) -> bytes:
    return pickle.dumps(thing, 5, buffer_callback=lambda _: False)


_PICKLED: Final = {False: _pickled(pickle.PickleBuffer(bytearray())), True: _pickled(_AsBytes())}
"""What a kept buffer is where it arrives: itself, or `bytes`."""


@dataclass
class _Known:
    """A buffer that was passed, and its copy from the second time on.

    `owner` drops it when the object is gone that the buffer belongs to, where that can be known.
    """

    sample: int
    owner: weakref.ref[Any] | None
    copy: Shared | None = None

    @property
    def is_gone(self) -> bool:
        """Whether that object is gone."""
        return self.owner is not None and self.owner() is None


class Recurring:
    """The buffers that were passed to calls of late.

    There is no lock, which a signal's handler could find held. Where two threads meet, one copy
    more is made.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, bool], _Known] = {}  # those that came last at the end

    def place_of(self, raw: memoryview) -> tuple[SealedFile, int] | None:
        """The file with a copy of this buffer, and where it begins there; None if there is none."""
        found = self.find(raw)
        return None if found is None else (found.file, found.file.places[1][0])

    def find(self, raw: memoryview, *, as_bytes: bool = False) -> Shared | None:
        """What can be lent in place of a buffer; None if it is to be passed itself, as one that
        comes for the first time is.
        """
        if raw.nbytes < LEAST or enclosing.is_in_call():
            return None
        key = _address(raw), raw.nbytes, as_bytes
        sample, known = _sample(raw), self._known.get(key)
        copy = None if known is None else known.copy  # another thread may drop it
        if copy is not None:
            is_same = _is_same(raw, copy.file.parts[1])
        else:
            is_same = known is not None and known.sample == sample
        self._known.pop(key, None)
        if known is None or not is_same or known.is_gone:
            self._known[key] = _Known(sample, self._dropping(key, raw))
            for oldest in [*self._known][:-_MOST]:
                self._known.pop(oldest, None)
            return None
        self._known[key] = known
        if copy is None and self._make_room(raw.nbytes):
            try:
                copy = known.copy = Shared.of_parts([_PICKLED[as_bytes], raw])
            except OSError:  # there is no memory, or no other file can be opened
                return None
        return copy

    def _dropping(self, key: tuple[int, int, bool], raw: memoryview) -> weakref.ref[Any] | None:
        """A reference to whose memory it is, at whose end the buffer is forgotten."""
        owner: Any = raw.obj
        numpy = sys.modules.get("numpy")
        while numpy and isinstance(owner, numpy.ndarray) and owner.base is not None:
            owner = owner.base  # of an array that is a view
        if type(owner).__module__.startswith("pyarrow"):  # which makes one for each pickle
            return None
        try:
            return weakref.ref(owner, lambda _: self._known.pop(key, None))
        except TypeError:  # as for bytes
            return None

    def _make_room(self, size: int) -> bool:
        """Drop the oldest copies until there is room for another one. False if there never is."""
        memory = account_here().capacity.memory * _MOST_SHARE
        files = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * _FILES_SHARE)
        if size > memory or files < 1:
            return False
        kept = [(one, copy.nbytes) for one in [*self._known.values()] if (copy := one.copy)]
        while kept and (sum(n for _, n in kept) + size > memory or len(kept) >= files):
            kept.pop(0)[0].copy = None
        return True


def _address(raw: memoryview) -> int:
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(raw), ctypes.byref(buffer), 0)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return buffer.at or 0


class _Buffer(ctypes.Structure):
    """A `Py_buffer`; see "Buffer Protocol" in Python's C API."""

    _fields_ = (("at", ctypes.c_void_p), ("rest", ctypes.c_void_p * 15))


def _sample(raw: memoryview) -> int:
    """A checksum of some of its bytes, in 20 us, to tell most of what has changed."""
    checksum = 0
    for at in range(0, raw.nbytes, raw.nbytes // _SAMPLES):
        checksum = zlib.crc32(raw[at : at + _SAMPLE_SIZE], checksum)
    return checksum


def _is_same(one: memoryview, other: memoryview) -> bool:
    """Whether all bytes of two buffers of the same size are the same."""
    return bool(_libc.memcmp(_address(one), _address(other), one.nbytes) == 0)


recurring: Final = Recurring()
"""Those of this process."""
