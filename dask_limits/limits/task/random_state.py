"""The global generators of random numbers, of Python and of NumPy.

A new process seeds them. One that a call has seeded would give the next call the same numbers each
time, and NumPy's is in the same state in all processes forked from one template.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from dask_limits.limits.task import generators

_HEAD: Final = object.__basicsize__
_STATE: Final = random.Random.__mro__[1].__basicsize__ - _HEAD  # of a random.Random, in C
_WORDS: Final = 624  # of 32 bits, that a Mersenne Twister makes at once
_NUMPY_STATE: Final = 4 * (_WORDS + 1)
"""Bytes of a Mersenne Twister in NumPy: its words and a position."""
_SEED: Final = 64  # bytes; NumPy takes ten times as long to find a seed by itself
_MOST_DRAWN: Final = 20
"""How many times its words may be drawn from a generator before that counts as seeding it, which
costs a new process for each call that draws. To look takes 20 us for each."""


class RandomStates:
    """Seeds the generators when it is made, and then those that a call has used.

    Their memory is compared, which takes 0.5 us: to seed one takes 10 us.
    """

    def __init__(self) -> None:
        self._states: dict[str, bytes] = {}
        self._kept: set[str] = set()
        self.restore()

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """A context in which the user prepares this process. A generator seeded there stays so."""
        seeds = Seeds()
        yield
        are_seeded = dict(zip(("Python", "NumPy"), seeds.read(), strict=True))
        self._kept |= {name for name, is_seeded in are_seeded.items() if is_seeded}
        for name, address, size, _ in _generators():
            if name in self._kept:
                self._states[name] = ctypes.string_at(address, size)
        self.restore()

    def restore(self) -> bool:
        """Seed those that were used since. False if one of them was seeded by the user."""
        is_sure = True
        for name, address, size, seed in _generators():
            if ctypes.string_at(address, size) == self._states.get(name):
                continue
            if name in self._kept:
                is_sure = False
            else:
                seed()
            self._states[name] = ctypes.string_at(address, size)
        return is_sure


def _generators() -> Iterator[tuple[str, int, int, Callable[[], object]]]:
    """The name of each, the address and size of its state, and what seeds it."""
    python = random._inst
    yield "Python", id(python) + _HEAD, _STATE, python.seed
    if (generator := of_numpy()) is not None:
        yield "NumPy", generator.ctypes.state_address, _NUMPY_STATE, _seed_numpy


def of_numpy() -> Any:
    """The generator in NumPy's global one; None if it is not of the kind that NumPy begins with."""
    numpy: Any = sys.modules.get("numpy.random.mtrand")
    generator: Any = getattr(getattr(numpy, "_rand", None), "_bit_generator", None)
    return generator if type(generator).__name__ == "MT19937" else None


def _seed_numpy() -> None:
    numpy: Any = sys.modules["numpy.random.mtrand"]
    numpy._rand.seed(list(memoryview(os.urandom(_SEED)).cast("I")))


class Seeds:
    """Tells which generators were seeded since this was made, and not only drawn from."""

    def __init__(self) -> None:
        self._python = False
        self._before = random.getstate()
        self._memory = self._read_memory()
        if (generator := of_numpy()) is not None:
            generators.seed(generator)

    def read(self) -> tuple[bool, bool]:
        """Whether that of Python was, and that of NumPy. 1 us if nothing was drawn."""
        if self._read_memory() != self._memory:
            self._python = self._python or self._more_than_drawn()
            self._before, self._memory = random.getstate(), self._read_memory()
        # NumPy forgets what it has seeded itself with.
        generator = of_numpy()
        return self._python, generator is not None and generator._seed_seq is None

    def _read_memory(self) -> bytes:
        _, address, size, _ = next(_generators())
        return ctypes.string_at(address, size)

    def _more_than_drawn(self) -> bool:
        words, other = random.getstate()[1][:-1], random.Random()
        other.setstate(self._before)
        for _ in range(_MOST_DRAWN):
            if other.getstate()[1][:-1] == words:
                return False
            other.getrandbits(32 * _WORDS)
        return True
