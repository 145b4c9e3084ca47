"""Puts limits on functions: with `limit(fn, ...)`, or `@limit(...)` where they are defined."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import operator
import sys
import types
from collections.abc import Awaitable, Callable
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    overload,
)

import cloudpickle

from dask_limits.limits.call import LimitedCall, run_call
from dask_limits.limits.call_span import traced
from dask_limits.limits.cancel import CancelToken
from dask_limits.limits.ipc import reducers
from dask_limits.limits.limits import Limits, LimitsArguments

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


@overload
def limit(fn: Callable[P, R], /, **limits: Unpack[LimitsArguments]) -> LimitedCall[P, R]: ...


@overload
def limit(
    **limits: Unpack[LimitsArguments],
) -> Callable[[Callable[P, R]], LimitedFunction[P, R]]: ...


def limit(*fn: Callable[..., Any], **limits: Unpack[LimitsArguments]) -> Any:
    """Put limits on one function: `limit(fn, ...)`, or as a decorator, `@limit(...)`.

    Args:
        fn: Any callable. Without it, this returns a decorator of functions, methods and coroutine
            functions. Calls of a decorated coroutine function are awaited; if that is cancelled,
            the call is ended.
        **limits: `memory`, `cpu_time`, `wall_time`, `num_processes`, `grace_period`,
            `capture_output`, `isolation`, `context`, `cores`, `reserve`: see
            [Limits][dask_limits.Limits].

    Returns:
        A callable with the function's own parameters. It returns what the function returns, and
        raises what the function raises or a [Breach][dask_limits.exceptions.Breach]. Its
        `.run(...)` returns an [Outcome][dask_limits.Outcome] and raises nothing.

    Raises:
        ValueError: if a limit is zero, negative or NaN, or has an unknown unit.
        TypeError: if a limit has the wrong type, or `fn` cannot be called.

    Example:
        >>> import time
        >>> nap = limit(time.sleep, wall_time=0.2)
        >>> nap(0.01)
        >>> type(nap.run(60).exception).__name__
        'WallTimeBreach'
        >>> @limit(memory="1 GiB", wall_time="1 m")
        ... def fit(n):
        ...     return sum(range(n))
        >>> fit(10)
        45
    """
    its = Limits(**limits)
    if not fn:
        return functools.partial(_decorate, its)
    if len(fn) > 1:
        raise TypeError(
            f"limit() takes one function and limits by their names, but {fn[1]!r} was given, too"
        )
    return LimitedCall(fn[0], its)


class LimitedFunction(LimitedCall[P, R], Generic[P, R]):
    """A function that has limits where it is defined, also a method.

    It is pickled by its name, if another process can import it by that.
    """

    def __init__(self, fn: Callable[P, R], limits: Limits | None = None) -> None:
        functools.update_wrapper(self, fn, assigned=_ASSIGNED)
        super().__init__(fn, limits)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(
        self: LimitedFunction[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> LimitedFunction[Q, R]: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return type(self)(types.MethodType(self.fn, instance), self.limits)

    def __reduce__(self) -> Any:
        if isinstance(self.fn, types.MethodType):
            owner, name = self.fn.__self__, self.fn.__func__.__name__
            if getattr(getattr(owner, name, None), "fn", None) == self.fn:
                return getattr, (owner, name)
        else:
            with contextlib.suppress(AttributeError, KeyError):
                module, name = sys.modules[self.fn.__module__], self.fn.__qualname__
                if operator.attrgetter(name)(module) is self:
                    return name
        return type(self), (self.fn, self.limits)

    def by_value(self) -> Any:
        """How cloudpickle reduces it: as pickle does, unless its receiver cannot import it."""
        if _is_by_value(self.fn):
            return type(self), (self.fn, self.limits)
        return self.__reduce__()


class LimitedCoroutineFunction(LimitedFunction[P, Awaitable[R]], Generic[P, R]):
    """The same of a coroutine function: its calls are awaited, and the event loop goes on."""

    def __init__(self, fn: Callable[P, Any], limits: Limits | None = None) -> None:
        super().__init__(fn, limits)
        if sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(self)
        else:
            import asyncio

            self._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run one call. If this is cancelled, so is the call."""
        import asyncio  # slow to import, and rarely needed

        token = CancelToken()
        run = traced(run_call, self.fn, self.limits)
        try:
            outcome = await asyncio.to_thread(run, self, args, kwargs, token)
        except asyncio.CancelledError:
            token.cancel()
            raise
        return outcome.result()


_ASSIGNED: Final = {*functools.WRAPPER_ASSIGNMENTS} - {"__name__"}


def _decorate(limits: Limits, fn: Any) -> Any:
    """Put limits on a function, a method, or a static or class method."""
    if isinstance(fn, staticmethod | classmethod):
        return type(fn)(_decorate(limits, fn.__func__))
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(
            f"{fn!r} cannot have limits: a generator runs where its values are asked for. Put them"
            " on a function that returns all values, or on what the generator calls."
        )
    if inspect.iscoroutinefunction(fn):
        return LimitedCoroutineFunction(fn, limits)
    return LimitedFunction(fn, limits)


# -- how decorated functions are pickled -----------------------------------------------------

_LAYERS: Final = ("fn", "__wrapped__", "__func__", "fget", "func")
"""The attributes by which `LimitedCall`, wrappers, class methods, properties and cached properties
have the function that they were made of."""
_MOST_LAYERS: Final = 10


def _find(module: str, qualname: str) -> Any:
    """What has a name in a module, as it is defined there; None if nothing has."""
    found: Any = sys.modules.get(module)
    outer = ""
    for name in qualname.split("."):
        if name.startswith("__") and not name.endswith("__"):
            name = f"_{outer.lstrip('_')}{name}"  # as a class has its private names
        found = inspect.getattr_static(found, name, None)
        outer = name
    return found


def _is_by_value(function: Any) -> bool:
    """Whether the receiver of a function may not be able to import its module."""
    module = function.__module__ or ""
    registered = cloudpickle.list_registry_pickle_by_value()
    return module in reducers.MAIN or any(f"{module}.".startswith(f"{r}.") for r in registered)


def _reduce_function(function: types.FunctionType) -> tuple[Any, ...] | None:
    """A function below a decorated one by the way to it."""
    if _is_by_value(function):
        return None
    found = _find(function.__module__, function.__qualname__)
    layers: list[str] = []
    while found is not function:
        layer = next((name for name in _LAYERS if hasattr(found, name)), None)
        if layer is None or len(layers) == _MOST_LAYERS:
            return None
        found = getattr(found, layer)
        layers.append(layer)
    if "fn" not in layers:
        return None
    return _function_below, (function.__module__, function.__qualname__, layers)


def _function_below(module: str, qualname: str, layers: list[str]) -> Any:
    importlib.import_module(module)
    return functools.reduce(getattr, layers, _find(module, qualname))


reducers.DECORATED.append(_reduce_function)
for _kind in (LimitedFunction, LimitedCoroutineFunction):
    cloudpickle.Pickler.dispatch_table[_kind] = _kind.by_value
