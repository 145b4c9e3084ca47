"""The three operations of prctl(2) that we use."""

from __future__ import annotations

import ctypes
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Make this process the new parent of each descendant that loses its own."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def die_with_parent(signal: int) -> None:
    """Have this signal sent to this process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal))


def set_name(name: str) -> None:
    """Set the name (15 bytes at most) that ps and top show."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _prctl(option: int, argument: ctypes.c_ulong | ctypes.c_char_p) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl option {option}")
