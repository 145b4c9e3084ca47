"""Puts limits on functions: with `limit(fn, ...)`, or `@limit(...)` where they are defined."""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import types
from collections.abc import Awaitable, Callable
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, overload

from dask_limits.limits.call import LimitedCall, run_call
from dask_limits.limits.cancel import CancelToken
from dask_limits.limits.ipc import reducers
from dask_limits.limits.limits import Limits, LimitsArguments

P = ParamSpec("P")
R = TypeVar("R")


@overload
def limit(fn: Callable[P, R], /, **limits: Unpack[LimitsArguments]) -> LimitedCall[P, R]: ...


@overload
def limit(
    **limits: Unpack[LimitsArguments],
) -> Callable[[Callable[P, R]], LimitedCall[P, R]]: ...


def limit(*fn: Callable[..., Any], **limits: Unpack[LimitsArguments]) -> Any:
    """Put limits on one function: `limit(fn, ...)`, or as a decorator, `@limit(...)`.

    Args:
        fn: Any callable. Without it, this returns a decorator of functions, methods and coroutine
            functions. Calls of a decorated coroutine function are awaited; if that is cancelled,
            the call is ended.
        **limits: `memory`, `cpu_time`, `wall_time`, `num_processes`, `grace_period`,
            `capture_output`, `isolation`, `context`, `cores`: see [Limits][dask_limits.Limits].

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
        super().__init__(fn, limits)
        functools.update_wrapper(
            self, fn, assigned=("__module__", "__qualname__", "__doc__"), updated=()
        )

    def __get__(self, instance: object, owner: type | None = None) -> LimitedCall[..., R]:
        if instance is None:
            return self
        return type(self)(types.MethodType(self.fn, instance), self.limits)

    def __reduce__(self) -> Any:
        if isinstance(self.fn, types.MethodType):
            owner, name = self.fn.__self__, self.fn.__func__.__name__
            if getattr(getattr(type(owner), name, None), "fn", None) is self.fn.__func__:
                return getattr, (owner, name)
        if _by_its_name(self.fn) is self:
            return self.fn.__qualname__
        return type(self), (self.fn, self.limits)


class LimitedCoroutineFunction(LimitedFunction[P, Awaitable[R]], Generic[P, R]):
    """The same of a coroutine function: its calls are awaited, and the event loop goes on."""

    def __init__(self, fn: Callable[P, Any], limits: Limits | None = None) -> None:
        super().__init__(fn, limits)
        if sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(self)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run one call. If this is cancelled, so is the call."""
        import asyncio  # slow to import, and rarely needed

        token = CancelToken()
        try:
            outcome = await asyncio.to_thread(run_call, self, args, kwargs, token)
        except asyncio.CancelledError:
            token.cancel()
            raise
        return outcome.result()


def _decorate(limits: Limits, fn: Any) -> Any:
    """Put limits on a function, a method, or a static or class method."""
    if isinstance(fn, staticmethod | classmethod):
        return type(fn)(_decorate(limits, fn.__func__))
    if inspect.iscoroutinefunction(fn):
        return LimitedCoroutineFunction(fn, limits)
    return LimitedFunction(fn, limits)


def _by_its_name(function: Any) -> Any:
    """What has the name of a function in its module, if that is no script; None if nothing."""
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", None)
    if module is None or module in reducers.MAIN:
        return None
    try:
        return operator.attrgetter(name)(sys.modules[module])
    except (AttributeError, KeyError):
        return None


def _reduce_function(function: types.FunctionType) -> tuple[Any, ...] | None:
    """A decorated function by the name of what it was decorated to."""
    found = _by_its_name(function)
    if isinstance(found, LimitedFunction) and found.fn is function:
        return getattr, (found, "fn")
    return None


reducers.DECORATED.append(_reduce_function)
