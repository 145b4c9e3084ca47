"""The values that calls report by `progress(value)`, on their way to the owner.

The process of a call writes each into memory that it shares with its owner, which looks at the
latest one several times a second. So a value costs the call no system call, and wakes nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pickle
import struct
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

from dask_limits.limits.interrupted import is_by_signal
from dask_limits.limits.ipc import by_value
from dask_limits.limits.ipc.payload import Packed
from dask_limits.limits.linux import files, uninterrupted
from dask_limits.limits.progress import telling
from dask_limits.limits.tracebacks import say

Tell: TypeAlias = Callable[[bytes], object]
"""Takes a value that is pickled."""
Load: TypeAlias = Callable[[], Any]
"""Unpickles one."""

MOST_BYTES: Final = 64 * 1024
"""Of a value that is pickled. Each call has so much shared memory, and Dask sends it often."""
_PLAIN: Final = {type(None), bool, int, float, str, bytes}
_CONTAINERS: Final = {list, tuple}
_HEAD: Final = struct.Struct("=QII")
"""When it was written, in nanoseconds; bytes of the value, and their checksum."""
_SIZE: Final = _HEAD.size + MOST_BYTES
_SHORT: Final = 256  # bytes that are read at least
_TRIES: Final = 10


def dumps(value: Any) -> bytes:
    """Pickle a value.

    Raises:
        TypeError: if it cannot be pickled.
        ValueError: if it is too large.
    """
    kind = type(value)
    try:
        if kind in _PLAIN or _has_plain_items(value, kind):
            data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        else:
            file = io.BytesIO()
            by_value.AnswerPickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
            data = file.getvalue()
    except Exception as why:
        if _interrupts(why):
            raise
        raise TypeError(
            f"progress() cannot tell this {kind.__name__}: it cannot be pickled ({say(why)})"
        ) from why
    if len(data) > MOST_BYTES:
        raise ValueError(
            f"progress() cannot tell this {kind.__name__}: pickled, it has {len(data)} bytes, and"
            f" {MOST_BYTES} are the most. Tell some figures of it, or return it."
        )
    return data


def _interrupts(error: Exception) -> bool:
    """Whether this is a warning of the call's end, or comes from a guard of its thread."""
    guards = sys.modules.get("dask_limits.guards")
    by_guard = guards is not None and isinstance(error, guards.GuardException)
    return by_guard or is_by_signal(error)


def _has_plain_items(value: Any, kind: type) -> bool:
    """Whether the standard pickler pickles it, as it does most of what is told: 4 us less."""
    if kind is dict:
        return {*map(type, value), *map(type, value.values())} <= _PLAIN
    return kind in _CONTAINERS and {*map(type, value)} <= _PLAIN


def loads(data: bytes, sent: dict[int, Any]) -> Any:
    """Unpickle a value of a call that has `sent` this.

    Raises:
        CallPicklingError: if that fails, whatever it raises.
    """
    try:
        return by_value.load_answer(Packed(data), sent)
    except BaseException as why:
        if is_by_signal(why):
            raise
        from dask_limits.exceptions import CallPicklingError  # pynisher is not for task processes

        text = f"What a call has reported by progress() cannot be unpickled here: {say(why)}"
        raise CallPicklingError(text, part="progress") from why


def unpickled(tell: Callable[[Load], object] | None, sent: dict[int, Any]) -> Tell | None:
    """What takes the values of a call that has `sent` this, for who is told how to load each."""
    return None if tell is None else lambda data: tell(partial(loads, data, sent))


def telling_pickled(tell: Tell | None) -> contextlib.AbstractContextManager[None]:
    """A context in which the values of a call that this thread runs go there, pickled."""
    return telling(None if tell is None else lambda value: tell(dumps(value)))


class LatestValue:
    """The latest value of one call, in a file in memory that was made by `make`.

    Several processes of a call may write at once; a checksum tells what is mixed up.
    """

    def __init__(self, fd: int) -> None:
        self._memory = files.map_shared(fd, _SIZE)
        self._seen_at = 0
        self._length = _SHORT  # bytes of the last record that was seen

    def put(self, value: Any) -> None:
        """Write a value. As `dumps`, this may raise a TypeError or a ValueError."""
        data = dumps(value)
        record = _HEAD.pack(time.monotonic_ns(), len(data), zlib.crc32(data)) + data
        here = self._memory[: len(record)]
        for _ in range(_TRIES):
            here[:] = record
            if bytes(here) == record:  # no other process has come between
                return

    def take(self) -> bytes | None:
        """The latest value, pickled; None if there is no new one. What is there may be anything."""
        for _ in range(_TRIES):
            record = bytes(self._memory[: self._length])  # at once: it may be written all the time
            written_at, size, checksum = _HEAD.unpack_from(record)
            if written_at == self._seen_at or not 0 < size <= MOST_BYTES:
                break
            data = record[_HEAD.size : _HEAD.size + size]
            if zlib.crc32(data) == checksum:
                self._seen_at = written_at
                return data
            self._length = max(_HEAD.size + size, _SHORT)
        return None


def make(fds: list[int]) -> None:
    """Make the file of a call, and append it to a list, where it is found whatever interrupts."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    uninterrupted.put(fds, os.memfd_create, "dask-limits-progress", flags)
    os.ftruncate(fds[-1], _SIZE)
    # A call that cuts it short would end its owner by SIGBUS.
    fcntl.fcntl(fds[-1], fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
