"""What a task process is used for: which calls may follow each other in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import NamedTuple

from dask_limits.limits.limits import Limits


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
