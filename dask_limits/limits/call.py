from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from dask_limits.instead import command_of
from dask_limits.limits.call_span import traced
from dask_limits.limits.cancel import CancelToken
from dask_limits.limits.in_place import name_of, run_in_place
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Outcome

P = ParamSpec("P")
R = TypeVar("R")


class LimitedCall(Generic[P, R]):
    """A function and the limits that each call of it runs under: a plain, picklable callable.

    Calling it runs the function in a task process of the current process, and returns or raises
    what the function does. Without any limit it calls the function directly. The function can be
    any callable; one of `__main__`, a lambda or a closure too.

    Example:
        >>> LimitedCall(abs, Limits(wall_time=5))(-3)
        3
    """

    def __init__(self, fn: Callable[P, R], limits: Limits | None = None) -> None:
        if not callable(fn):
            raise TypeError(
                f"{fn!r} cannot be called: it is of type {type(fn).__name__}{command_of(fn)}"
            )
        self.fn = fn
        self.limits = limits or Limits()
        self.tells = False

    @staticmethod
    def telling(fn: Callable[P, R]) -> LimitedCall[P, R]:
        """One whose executor passes on what it reports by `progress(value)`. For schedulers."""
        its: Any = (fn.fn, fn.limits) if isinstance(fn, LimitedCall) else (fn,)
        call = LimitedCall[P, R](*its)
        call.tells = True
        return call

    @property
    def name(self) -> str:
        """The name of the function in messages and on dashboards."""
        return name_of(self.fn)

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one call, and return what it returns or raise what it raises."""
        return self.run(*args, **kwargs).result()

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Outcome[R]:
        """Run one call, and return its [Outcome][dask_limits.Outcome] instead of raising."""
        return traced(run_call, self.fn, self.limits)(self, args, kwargs)

    def __repr__(self) -> str:
        return f"LimitedCall({self.name}, {self.limits})"

    def _repr_html_(self) -> str:
        from dask_limits.html.calls import limited_view  # no task process needs it

        return limited_view(self.name, self.fn, self.limits)


def run_call(
    call: LimitedCall[..., R],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    cancel: CancelToken | None = None,
    on_progress: Callable[[Callable[[], Any]], object] | None = None,
) -> Outcome[R]:
    """Run a call: in a task process if it has limits, where `cancel` can end it; or directly.

    `on_progress` is called with what loads the latest value that it reports.
    """
    if call.limits:
        from dask_limits.limits.owner.guardian import default_guardian

        return default_guardian().run(
            call.fn, args, kwargs, call.limits, cancel=cancel, on_progress=on_progress
        )
    if on_progress is None:
        return run_in_place(call.fn, args, kwargs)
    from dask_limits.limits.ipc import progress_values  # with cloudpickle, 10 ms

    with progress_values.telling_pickled(progress_values.unpickled(on_progress, {})):
        return run_in_place(call.fn, args, kwargs)
