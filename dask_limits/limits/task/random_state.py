"""The global generators of random numbers, of Python and of NumPy.

A new process seeds them. One that a call has seeded would give the next call the same numbers each
time, and NumPy's is in the same state in all processes forked from one template.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections.abc import Callable
from typing import Any, Final

_HEAD: Final = object.__basicsize__
_STATE: Final = random.Random.__mro__[1].__basicsize__ - _HEAD  # of a random.Random, in C
_NUMPY_STATE: Final = 4 * 625
"""Bytes of a Mersenne Twister in NumPy: 624 words and a position."""
_SEED: Final = 64  # bytes; NumPy takes ten times as long to find a seed by itself


class RandomStates:
    """Seeds the generators when it is made, and then those that a call has used.

    Their memory is compared, which takes 0.5 us: to seed one takes 10 us.
    """

    def __init__(self) -> None:
        self._states: dict[str, bytes] = {}
        self.restore()

    def restore(self) -> None:
        """Seed those that were used since."""
        python = random._inst
        self._seed("Python", id(python) + _HEAD, _STATE, python.seed)
        numpy: Any = sys.modules.get("numpy.random.mtrand")
        generator: Any = getattr(getattr(numpy, "_rand", None), "_bit_generator", None)
        if type(generator).__name__ == "MT19937":  # that NumPy begins with
            self._seed("NumPy", generator.ctypes.state_address, _NUMPY_STATE, _seed_numpy)

    def _seed(self, name: str, address: int, size: int, seed: Callable[[], object]) -> None:
        if ctypes.string_at(address, size) != self._states.get(name):
            seed()
            self._states[name] = ctypes.string_at(address, size)


def _seed_numpy() -> None:
    numpy: Any = sys.modules["numpy.random.mtrand"]
    numpy._rand.seed(list(memoryview(os.urandom(_SEED)).cast("I")))
