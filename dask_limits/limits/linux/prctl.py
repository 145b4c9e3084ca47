"""The operations of prctl(2) that we use."""

from __future__ import annotations

import ctypes
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_VALUES: Final = {"DUMPABLE": 3, "SECUREBITS": 27, "TIMERSLACK": 30}
"""What prctl(2) returns for a process, and the status of a process does not show."""
_CHECKED_VALUES: Final = {"MCE_KILL": 34, "IO_FLUSHER": 58, "MDWE": 66, "MEMORY_MERGE": 68}
"""The same, where it checks that the arguments that it does not use are 0."""
_STORED: Final = {"PDEATHSIG": 2, "TSC": 25, "CHILD_SUBREAPER": 37}
"""The same for what it stores."""
_NOT_INHERITED: Final = {"DUMPABLE", "PDEATHSIG", "CHILD_SUBREAPER"}
"""What a new program has of its own."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc_with_gil = ctypes.PyDLL(None)  # to release the GIL would take as long as these calls


def become_subreaper() -> None:
    """Make this process the new parent of each descendant that loses its own."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def die_with_parent(signal: int) -> None:
    """Have this signal sent to this process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal))


def set_readable(*, readable: bool) -> None:
    """Set whether processes of the same user may read and change the memory of this one, see its
    open files, and trace it. A new program is readable; children inherit it.

    Source: PR_SET_DUMPABLE in prctl(2); ptrace(2), Ptrace access mode checking.
    """
    _prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(readable))


def set_name(name: str) -> None:
    """Set the name (15 bytes at most) that ps and top show."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


class Attributes:
    """Reads what prctl(2) tells of this thread; only what a new program inherits, if so wanted."""

    def __init__(self, *, inherited: bool = False) -> None:
        def wanted(options: dict[str, int]) -> list[int]:
            left_out = _NOT_INHERITED if inherited else ()
            return [option for name, option in options.items() if name not in left_out]

        self._stored = (ctypes.c_int * len(_STORED))()
        self._calls: list[tuple[Any, ...]] = [(option,) for option in wanted(_VALUES)]
        self._calls += [(option, None, None, None, None) for option in wanted(_CHECKED_VALUES)]
        for n, option in enumerate(wanted(_STORED)):
            self._calls.append((option, ctypes.byref(self._stored, 4 * n)))

    def read(self) -> tuple[int, ...]:
        """All of them, to be compared with another reading; 3 us."""
        prctl = _libc_with_gil.prctl
        results = [prctl(*arguments) for arguments in self._calls]
        return (*results, *self._stored)


def _prctl(option: int, argument: ctypes.c_ulong | ctypes.c_char_p) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl option {option}")
