"""What an initializer has set among the globals of the user's script, for calls to find it there.

Functions of the script come to a process by value, those of each call with globals of their own.
But in the script an initializer has the same globals as the functions that use what it has made,
and programs for `multiprocessing` and `concurrent.futures` rely on that. The same goes for other
modules that are pickled by value.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from dask_limits.limits.ipc import by_value

_set: Final[defaultdict[str, dict[str, Any]]] = defaultdict(dict)  # by module


@contextlib.contextmanager
def noted(initializer: object) -> Iterator[None]:
    """A context in which the initializer runs, within `by_value.Receiving`."""
    before = [
        (module, names, {name: _Contents(value) for name, value in names.items()})
        for module, names in _scopes_of(initializer)
    ]
    yield
    for module, names, contents in before:
        for name, value in names.items():
            if name[:2] != "__" and (name not in contents or contents[name].differ_from(value)):
                _set[module][name] = value


def give(fn: object) -> None:
    """Set what was noted for a call of this function, which has just been received."""
    if _set:
        for module, names in _scopes_of(fn):
            names.update(_set[module])


def _scopes_of(fn: object) -> list[tuple[str, dict[str, Any]]]:
    """Modules and globals of a function, and of all that were received with it, by value."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    scopes = {
        id(it.__globals__): (it.__module__, it.__globals__)
        for it in (getattr(fn, "__func__", fn), *by_value.received())
        if isinstance(it, types.FunctionType)
        and getattr(sys.modules.get(it.__module__), "__dict__", None) is not it.__globals__
    }
    return list(scopes.values())


class _Contents:
    """A value and what is directly in it, at one time."""

    def __init__(self, value: Any) -> None:
        self._value, self._parts = value, _parts_of(value)

    def differ_from(self, value: Any) -> bool:
        """Whether this is another object, or something else is in it."""
        parts = _parts_of(value)
        return (
            value is not self._value
            or len(parts) != len(self._parts)
            or any(one is not other for one, other in zip(parts, self._parts, strict=True))
        )


def _parts_of(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list | set):
        return list(value)
    if isinstance(value, type | types.ModuleType | types.FunctionType):
        return []  # a definition
    return list(getattr(value, "__dict__", {}).values())
