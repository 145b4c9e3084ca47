"""System calls that tell of this process, and that the C library has no functions for."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_NUMBERS: Final = {  # of sched_getattr, get_mempolicy, ioprio_get
    "x86_64": (315, 239, 252),
    "aarch64": (275, 236, 31),
    "riscv64": (275, 236, 31),
    "ppc64le": (356, 260, 274),
    "s390x": (346, 269, 283),
}
_SCHED_ATTR_SIZE: Final = 56  # bytes of struct sched_attr
_IOPRIO_WHO_PROCESS: Final = 1

_libc = ctypes.PyDLL(None)  # keeps the GIL: these calls take less time than to release it


class SystemCalls:
    """Reads what they tell; on other machines, nothing."""

    def __init__(self) -> None:
        self._scheduling = ctypes.create_string_buffer(_SCHED_ATTR_SIZE)
        self._memory_policy = ctypes.c_int()
        self._numbers = _NUMBERS.get(os.uname().machine)

    def read_scheduling(self) -> bytes:
        """Policy, priority, nice, slice and bounds of the scheduler."""
        if self._numbers is not None:
            _libc.syscall(self._numbers[0], 0, self._scheduling, _SCHED_ATTR_SIZE, 0)
        return self._scheduling.raw

    def read_policies(self) -> tuple[int, int] | None:
        """Where memory is taken from, and how urgent input and output are."""
        if self._numbers is None:
            return None
        _, get_mempolicy, ioprio_get = self._numbers
        _libc.syscall(get_mempolicy, ctypes.byref(self._memory_policy), None, 0, None, 0)
        return self._memory_policy.value, _libc.syscall(ioprio_get, _IOPRIO_WHO_PROCESS, 0)
