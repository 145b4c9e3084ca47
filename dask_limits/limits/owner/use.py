"""What a task process is used for: which calls may follow each other in it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple

from dask_limits.limits.limits import Limits

_MOST_USES: Final = 200  # to remember, before all are forgotten
_GROWTH: Final = 2.0


class Use(NamedTuple):
    """A task process runs calls of one use only."""

    key: Hashable
    is_kept: bool  # for as long as it is fit; otherwise only while a new one would cost too much

    @classmethod
    def of(cls, fn: Callable[..., object], limits: Limits) -> Use:
        """The use of a call of this function under these limits."""
        if limits.isolation == "clean":
            return cls(function_key(fn), is_kept=False)
        return cls(limits.isolation, is_kept=True)


def function_key(fn: Callable[..., object]) -> Hashable:
    """What two callables have in common that are the same function, wherever it was unpickled."""
    try:
        key = _key_of(fn)
        hash(key)
    except Exception:  # of an object that answers for attributes in its own way
        return type(fn).__module__, type(fn).__qualname__
    return key


def _key_of(fn: Callable[..., object]) -> Hashable:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if (key := getattr(fn, "function_key", None)) is not None:  # of a call that is packed
        return key  # type: ignore[no-any-return]
    fn = getattr(fn, "__func__", fn)
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return getattr(fn, "__module__", None), name, getattr(fn, "__code__", None)


class LeastTimes:
    """How long the calls of each use take at least, as they have taken so far.

    Without the import of the user's modules that a first call of a process begins with, which each
    process costs.
    """

    def __init__(self) -> None:
        self._seconds: dict[Use, float] = {}
        self._loading: dict[Use, float] = {}

    def of(self, use: Use) -> float:
        """Seconds that the next call is expected to take at least; 0 if none is known."""
        return self._seconds.get(use, 0.0)

    def loading(self, use: Use) -> float:
        """Seconds that the first call of the last process has taken for such imports."""
        return self._loading.get(use, 0.0)

    def note(self, use: Use, seconds: float) -> None:
        """Note how long a call has taken. After a short one, more and more of them must be long.

        Example:
            >>> times, use = LeastTimes(), Use("fit", is_kept=False)
            >>> for seconds in (60, 1, 60, 60):
            ...     times.note(use, seconds)
            ...     print(times.of(use))
            60
            1
            2.0
            4.0
        """
        if len(self._seconds) > _MOST_USES:
            self._seconds.clear()
            self._loading.clear()
        self._seconds[use] = min(seconds, _GROWTH * self._seconds.get(use, math.inf))

    def note_loading(self, use: Use, seconds: float) -> None:
        """Note what such imports of a process's first call have taken."""
        self._loading[use] = seconds
