"""How to pickle what a user's script has at hand, and neither pickle nor cloudpickle handles."""

from __future__ import annotations

import enum
import functools
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

import cloudpickle

Reduction = tuple[Any, ...]
MAIN: Final = ("__main__", "__mp_main__")
"""The names of a user's script; the second in a process that multiprocessing has spawned."""


DECORATED: Final[list[Callable[[types.FunctionType], Reduction | None]]] = []
"""How to pickle functions in whose places other objects are, which have them: None if as others."""


def of(kind: type) -> Callable[[Any], Reduction] | None:
    """How to pickle objects of this type; None if as the standard pickler does."""
    if kind.__name__ == "Trial" and kind.__module__.startswith("optuna."):
        return _refuse_trial
    return _REDUCERS.get(kind) or _CLOUDPICKLES.get(kind)


# -- locks and the like ----------------------------------------------------------------------


def _event(is_set: bool) -> threading.Event:
    event = threading.Event()
    if is_set:
        event.set()
    return event


OF_THIS_PROCESS: Final[dict[type, Callable[[Any], Reduction]]] = {
    type(threading.Lock()): lambda _: (threading.Lock, ()),
    type(threading.RLock()): lambda _: (threading.RLock, ()),
    threading.local: lambda _: (threading.local, ()),
    threading.Event: lambda event: (_event, (event.is_set(),)),
    threading.Condition: lambda condition: (threading.Condition, (condition._lock,)),
    threading.Semaphore: lambda semaphore: (threading.Semaphore, (semaphore._value,)),
}


def replaceable(variables: dict[str, Any], cells: Iterable[types.CellType]) -> list[int]:
    """The `id` of each lock among the global variables and cells of a function.

    They guard what a process has for itself. A new process that imports the function's module makes
    its own, so the receiver does. A lock that is an argument guards something else.
    """
    found = [value for value in variables.values() if type(value) in OF_THIS_PROCESS]
    for cell in cells:
        try:
            if type(cell.cell_contents) in OF_THIS_PROCESS:
                found.append(cell.cell_contents)
        except ValueError:
            pass  # it is empty
    found += [value._lock for value in found if type(value) is threading.Condition]  # type: ignore[attr-defined]
    return [*map(id, found)]


# -- other objects ---------------------------------------------------------------------------


def _reduce_method(method: types.MethodType) -> Reduction:
    """By its name, if it has one: a copy of its function would not be the one of its class."""
    owner, function = method.__self__, method.__func__
    name = getattr(function, "__name__", "")
    if name in getattr(owner, "__dict__", ()) and not isinstance(owner, type):
        return types.MethodType, (function, owner)
    known = getattr(owner if isinstance(owner, type) else type(owner), name, None)
    if getattr(known, "__func__", known) is function:
        return getattr, (owner, name)
    return types.MethodType, (function, owner)


def _refuse_trial(_: object) -> Reduction:
    """What the copy in another process suggests, its study does not hear of."""
    raise TypeError(
        "a trial of Optuna works only in the process of its study. Instead of"
        " study.optimize(limit(objective, ...), ...), call"
        " dask_limits.optuna.optimize(study, objective, ...), with the limits as arguments"
    )


def _reduce_cached_property(cached: functools.cached_property[Any]) -> Reduction:
    state = {name: value for name, value in vars(cached).items() if name != "lock"}  # before 3.12
    return functools.cached_property, (cached.func,), state


_REDUCERS: Final[dict[type, Callable[[Any], Reduction]]] = {
    types.MethodType: _reduce_method,
    functools.cached_property: _reduce_cached_property,
    weakref.WeakKeyDictionary: lambda weak: (weakref.WeakKeyDictionary, (dict(weak),)),
    weakref.WeakValueDictionary: lambda weak: (weakref.WeakValueDictionary, (dict(weak),)),
}
_CLOUDPICKLES: dict[type, Callable[[Any], Reduction]]
_CLOUDPICKLES = cloudpickle.Pickler.dispatch_table.maps[0]
"""What cloudpickle adds to the standard pickler. It looks in a ChainMap, which costs 1 us for each
object of any other type."""


# -- definitions: what the standard pickler pickles by its name in its module ------------------


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _define_cached(cached: Any) -> Reduction:
    state = {name: value for name, value in vars(cached).items() if name != "__wrapped__"}
    return _cached, (cached.__wrapped__, cached.cache_parameters()), state


def _define_new_type(new: Any) -> Reduction:
    state = {"__module__": new.__module__, "__qualname__": new.__qualname__}
    return typing.NewType, (new.__name__, new.__supertype__), state


def _param_spec(name: str, options: dict[str, Any]) -> Any:
    return typing.ParamSpec(name, **options)


def _define_param_spec(spec: Any) -> Reduction:
    options = {
        "bound": spec.__bound__,
        "covariant": spec.__covariant__,
        "contravariant": spec.__contravariant__,
    }
    return _param_spec, (spec.__name__, options), None


def _type_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    return typing.TypeAliasType(name, value, type_params=parameters)  # type: ignore[attr-defined]


def _define_type_alias(alias: Any) -> Reduction:
    return _type_alias, (alias.__name__, alias.__value__, alias.__type_params__), None


DEFINITIONS: Final[dict[type, Callable[[Any], Reduction]]] = {
    type(functools.lru_cache(len)): _define_cached,
    typing.NewType: _define_new_type,
    typing.ParamSpec: _define_param_spec,
    typing.TypeVarTuple: lambda types: (typing.TypeVarTuple, (types.__name__,), None),
}
"""How to make each such object but functions and classes, which are cloudpickle's: function,
arguments and state."""
if sys.version_info >= (3, 12):
    DEFINITIONS[typing.TypeAliasType] = _define_type_alias


def with_slots(cls: type, make_args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments by which cloudpickle makes a class, with the slots of this one.

    It sets `__slots__` later, when it makes no slots any more, so that an object of the copy and
    one of the class could not be made of each other's state.
    """
    slots = cls.__dict__.get("__slots__")
    if slots is None or isinstance(cls, enum.EnumType) or issubclass(cls, tuple):
        return make_args
    kind, name, bases, attributes, *others = make_args
    return kind, name, bases, {**attributes, "__slots__": slots}, *others


def name_in_module(obj: Any) -> str:
    """The name that an object has in its module; empty if it has none there."""
    name: str = getattr(obj, "__qualname__", None) or obj.__name__
    found: Any = sys.modules.get(obj.__module__)
    for part in name.split("."):
        found = getattr(found, part, None)
    return name if found is obj else ""


def is_importable(obj: Any) -> bool:
    """Whether the receiver can import an object that is defined in a module."""
    module = obj.__module__
    if module in MAIN or not name_in_module(obj):
        return False
    by_value = cloudpickle.list_registry_pickle_by_value()
    return not any(f"{module}.".startswith(f"{name}.") for name in by_value)
