from __future__ import annotations

import functools
import time
import types
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, Unpack

from dask_limits.exceptions import ExitError
from dask_limits.limits.cancel import CancelToken
from dask_limits.limits.limits import Limits, LimitsArguments
from dask_limits.limits.outcome import Outcome, Usage

P = ParamSpec("P")
R = TypeVar("R")


class LimitedCall(Generic[P, R]):
    """A function and the limits that each call of it runs under: a plain, picklable callable.

    Called, it runs the function in a task process of the process that it finds itself in, and
    returns or raises. Without any limit it calls the function in place.

    Args:
        fn: Any callable; functions of `__main__`, lambdas and closures too.
        limits: What each call may use.

    Example:
        >>> LimitedCall(abs, Limits(wall_time=5))(-3)
        3
    """

    def __init__(self, fn: Callable[P, R], limits: Limits | None = None) -> None:
        if not callable(fn):
            raise TypeError(f"{fn!r} is a {type(fn).__name__}, and cannot be called")
        self.fn = fn
        self.limits = limits or Limits()

    @property
    def name(self) -> str:
        """What the function is called in messages and on dashboards."""
        return name_of(self.fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one call to its end, and return what it returns or raise what it raises."""
        return self.run(*args, **kwargs).result()

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Outcome[R]:
        """Run one call to its end, whichever way it ends.

        Returns:
            Its value or its exception, and its usage. Nothing of the call is raised.
        """
        return run_call(self, args, kwargs)

    def __repr__(self) -> str:
        return f"LimitedCall({self.name}, {self.limits})"


def limit(
    fn: Callable[P, R],
    **limits: Unpack[LimitsArguments],
) -> LimitedCall[P, R]:
    """Put limits on one function.

    Args:
        fn: Any callable.
        **limits: `memory`, `cpu_time`, `wall_time`, `num_processes`, `grace_period`,
            `capture_output`, `isolation`, `context`: see [Limits][dask_limits.Limits].

    Returns:
        A callable with the function's own parameters, that returns what it returns and raises
        what it raises, or a [Breach][dask_limits.exceptions.Breach]; its `.run(...)` gives an
        [Outcome][dask_limits.Outcome] and raises nothing.

    Raises:
        ValueError: for a limit of zero, a negative one, NaN, or an unknown unit.
        TypeError: for a limit of the wrong type, or a `fn` that cannot be called.

    Example:
        >>> import time
        >>> nap = limit(time.sleep, wall_time=0.2)
        >>> nap(0.01)
        >>> type(nap.run(60).exception).__name__
        'WallTimeBreach'
    """
    return LimitedCall(fn, Limits(**limits))


def run_call(
    call: LimitedCall[..., R],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    cancel: CancelToken | None = None,
) -> Outcome[R]:
    """Run a call where it finds itself: in a task process if it has limits, else in place.

    Args:
        call: The function and its limits.
        args: Positional arguments.
        kwargs: Keyword arguments.
        cancel: Ends the call early, from any thread; nothing can end a call that runs in place.

    Returns:
        The call's outcome, whichever way it ended.
    """
    if not call.limits:
        return run_in_place(call.fn, args, kwargs)
    from dask_limits.limits.owner.guardian import default_guardian

    return default_guardian().run(call, args, kwargs, cancel=cancel)


def run_in_place(fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome[R]:
    """Call a function in this thread, and measure it. Ctrl-C passes; `sys.exit` ends the call."""
    wall, cpu = time.perf_counter(), time.thread_time()
    value: R | None = None
    exception: BaseException | None = None
    try:
        value = to_its_end(fn(*args, **kwargs))
    except KeyboardInterrupt:
        raise
    except SystemExit as exit_:
        exception = ExitError.of(name_of(fn), exit_status(exit_))
    except BaseException as error:
        exception = error
    usage = Usage(wall_time=time.perf_counter() - wall, cpu_time=time.thread_time() - cpu)
    return Outcome(value=value, exception=exception, usage=usage)


def to_its_end(value: Any) -> Any:
    """A value that a call has returned; if it is a coroutine, what that returns in the end."""
    if type(value) is not types.CoroutineType:
        return value
    import asyncio  # 30 ms in each new task process, for the few that need it

    if asyncio._get_running_loop() is None:  # without an error, which would be the user's context
        return asyncio.run(value)
    # A loop already runs in this thread, and waits for this very call: it cannot run another.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, value).result()


def exit_status(exit_: SystemExit) -> int:
    """What the interpreter makes of it: `sys.exit()` is 0, `sys.exit("text")` is 1."""
    if exit_.code is None:
        return 0
    return exit_.code & 0xFF if isinstance(exit_.code, int) else 1


def name_of(fn: Callable[..., object]) -> str:
    """What a callable is called, whatever kind of callable it is."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, LimitedCall):
        return name_of(fn.fn)
    return str(getattr(fn, "__name__", None) or type(fn).__name__)
