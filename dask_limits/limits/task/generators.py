"""The generators of random numbers that modules make when they are imported.

All processes forked from one template would draw the same numbers from them. Of those of NumPy it
can be told whether they were seeded on purpose, and so they get a state of their own in each
process. Of those of Python it cannot. The global ones are dealt with in random_state.py.
"""

from __future__ import annotations

import gc
import random
import sys
import weakref
from typing import Any, Final

_NUMPY: Final = "numpy.random.bit_generator"


class NewGenerators:
    """Finds them among the objects that are new at each look.

    What is not new is moved out of the sight of the garbage collector, which makes a look cheap:
    for the 100,000 objects of scikit-learn and pandas, 5 ms for all looks together.

    Attributes:
        to_be_seeded: Those of NumPy that have seeded themselves.
    """

    def __init__(self) -> None:
        self.to_be_seeded: list[Any] = []
        self._python: weakref.WeakSet[random.Random] = weakref.WeakSet()
        self._safe: weakref.WeakSet[Any] = weakref.WeakSet()
        self._seeds: set[int] = set()  # that NumPy has asked the system for
        self._randbits: Any = None
        self._note_seeds()
        gc.freeze()

    def of_python(self) -> frozenset[int]:
        """Which of Python there are by now, by their ids."""
        self._note_seeds()
        new = gc.get_objects()
        gc.freeze()
        numpy = getattr(sys.modules.get(_NUMPY), "BitGenerator", ())
        for kind in set(map(type, new)):
            if issubclass(kind, numpy):
                self.to_be_seeded += filter(self._has_seeded_itself, _of_kind(new, kind))
            elif issubclass(kind, random.Random) and not issubclass(kind, random.SystemRandom):
                self._python.update(_of_kind(new, kind))
            elif kind.__qualname__ == "_RandomNameSequence":  # of tempfile: has one per process
                self._safe.update(_of_kind(new, kind))
        safe = {id(getattr(sequence, "_rng", None)) for sequence in self._safe}
        return frozenset(set(map(id, self._python)) - safe)

    def close(self) -> None:
        """Note no more seeds."""
        if self._randbits is not None:
            sys.modules[_NUMPY].randbits = self._randbits  # type: ignore[attr-defined]

    def _note_seeds(self) -> None:
        module: Any = sys.modules.get(_NUMPY)
        if self._randbits is None and (randbits := getattr(module, "randbits", None)) is not None:

            def noting(number: int) -> int:
                seed: int = randbits(number)
                self._seeds.add(seed)
                return seed

            self._randbits, module.randbits = randbits, noting

    def _has_seeded_itself(self, generator: Any) -> bool:
        sequence = getattr(generator, "_seed_seq", None)
        return getattr(sequence, "entropy", None) in self._seeds


def seed(generator: Any) -> None:
    """Give a generator of NumPy the state of a new one. 10 us, or 90 us for an MT19937."""
    generator.__setstate__(type(generator)().__reduce__()[2])


def _of_kind(objects: list[Any], kind: type) -> list[Any]:
    return [it for it in objects if type(it) is kind]
