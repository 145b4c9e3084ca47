"""The environment that C code and new programs see: `os.environ` is a copy of it."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator, Mapping
from typing import Final

_environ: Final = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ")  # see environ(7)
_WORD: Final = ctypes.sizeof(ctypes.c_void_p)


class LibcEnvironment:
    """Restores that environment where it was changed by `os.putenv` or by C code.

    Variables that only C code knew when this was made belong to it: some libraries set one for
    themselves.
    """

    def __init__(self, known: Mapping[bytes, bytes]) -> None:
        self._foreign = {k: value for k, value in _variables() if k not in known}
        self._remember()

    def restore(self, wanted: Mapping[bytes, bytes]) -> None:
        """Make it the same as `wanted`."""
        # The C library copies what it is given, so a variable that has changed is elsewhere.
        if _environ.value == self._array and self._read_pointers() == self._pointers:
            return
        now, wanted = dict(_variables()), {**self._foreign, **wanted}
        for name in now.keys() - wanted.keys():
            os.unsetenv(name)
        for name, value in wanted.items():
            if now.get(name) != value:
                os.putenv(name, value)
        time.tzset()
        self._remember()

    def _remember(self) -> None:
        self._array = _environ.value
        self._length = _WORD * (sum(1 for _ in _strings()) + 1)
        self._pointers = self._read_pointers()

    def _read_pointers(self) -> bytes:
        return ctypes.string_at(self._array, self._length) if self._array else b""


def _variables() -> Iterator[tuple[bytes, bytes]]:
    for string in _strings():
        name, _, value = string.partition(b"=")
        yield name, value


def _strings() -> Iterator[bytes]:
    if _environ.value:
        strings = ctypes.cast(_environ, ctypes.POINTER(ctypes.c_char_p))
        number = 0
        while (string := strings[number]) is not None:
            yield string
            number += 1
