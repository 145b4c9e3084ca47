"""Calls a user's function in the current thread. Nothing else in the package calls one."""

from __future__ import annotations

import functools
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from dask_limits.limits.outcome import Outcome, Usage
from dask_limits.limits.shared import arrived
from dask_limits.limits.tracebacks import users_traceback
from dask_limits.printable import printable, type_name

R = TypeVar("R")


def call(
    fn: Callable[..., R],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    run_coroutine: Callable[[Any], Any] | None = None,
) -> R:
    """Call a function; run a coroutine function until it is done."""
    value = fn(*arrived(args), **arrived(kwargs))
    if type(value) is types.CoroutineType:
        value = (run_coroutine or _run_coroutine)(value)
    return value


def run_in_place(
    fn: Callable[..., R],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    run_coroutine: Callable[[Any], Any] | None = None,
) -> Outcome[R]:
    """Call a function in this thread and measure it. Ctrl-C passes; `sys.exit` ends the call."""
    wall, cpu = time.perf_counter(), time.thread_time()
    value: R | None = None
    exception: BaseException | None = None
    try:
        value = call(fn, args, kwargs, run_coroutine)
    except KeyboardInterrupt:
        raise
    except SystemExit as exit_:
        from dask_limits.exceptions import ExitError  # which imports pynisher, 40 ms

        exception = ExitError.of(name_of(fn), exit_status(exit_))
    except BaseException as error:
        exception = error.with_traceback(users_traceback(error.__traceback__))
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    usage = Usage(wall_time=wall, cpu_time=cpu, started=time.time() - wall)
    return Outcome(value=value, exception=exception, usage=usage)


def _run_coroutine(coroutine: Any) -> Any:
    # 30 ms in each new task process, for the few that need it
    from dask_limits.limits.coroutines import CoroutineRunner

    with CoroutineRunner() as runner:
        return runner.run(coroutine)


def exit_status(exit_: SystemExit) -> int:
    """The exit status as the interpreter sets it: `sys.exit()` is 0, `sys.exit("text")` is 1."""
    code = 0 if exit_.code is None else exit_.code
    return int(code) & 0xFF if isinstance(code, int) else 1


def name_of(fn: Callable[..., object]) -> str:
    """The name of a callable of any kind, safe to print: whoever made it has chosen its name."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        name = str(getattr(fn, "__name__", None) or type_name(fn))
    except Exception:  # an object may answer for attributes in its own way
        name = type_name(fn)
    return printable(name)
