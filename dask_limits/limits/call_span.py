"""The spans of a call, for OpenTelemetry, in the process that submits it.

Where no tracer provider is set up, nothing here imports OpenTelemetry, nor does more than look
whether it is imported: a program that has set one up has done so. Its API alone is used.

Source: https://opentelemetry.io/docs/specs/otel/trace/api/, and its semantic conventions.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final, ParamSpec, TypeVar

from dask_limits.limits.in_place import name_of
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Outcome, Usage
from dask_limits.printable import repr_of

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("dask_limits.calls")

_LIMITS: Final = {
    "dask_limits.limit.memory_bytes": "memory",
    "dask_limits.limit.wall_time_s": "wall_time",
    "dask_limits.limit.cpu_time_s": "cpu_time",
    "dask_limits.limit.processes": "num_processes",
    "dask_limits.cores": "cores",
}
_USAGE: Final = {
    "dask_limits.usage.wall_time_s": "wall_time",
    "dask_limits.usage.cpu_time_s": "cpu_time",
    "dask_limits.usage.peak_memory_bytes": "peak_memory",
    "dask_limits.usage.processes": "num_processes",
}
_SUBMITTED: Final = "dask_limits.submitted"
"""A key of contexts. They are not those that functions run in, which have come by a carrier."""
_NOT_FAILED: Final = ("returned", "cancelled")

_tracer: tuple[Any, Any] = None, None
"""The last provider that was set up, and our tracer of it; None if it stands for none."""


def _harmless(do: Callable[P, None]) -> Callable[P, None]:
    """Have no call fail because of what is set up for its trace, which may be a user's own."""

    @functools.wraps(do)
    def try_to(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            do(*args, **kwargs)
        except Exception as error:
            _warn(error)

    return try_to


def _warn(error: Exception) -> None:
    logger.warning("Cannot trace a call: %s", repr_of(error), exc_info=error)


class CallSpan:
    """The span of a call from its submit to its end, with a child for each time that it runs.

    The child is made of the usage when the function has ended. So it is there also if the process
    of the call was killed, and whatever is set up in that.
    """

    def __init__(self, tracer: Any, fn: Callable[..., object], limits: Limits) -> None:
        self._tracer = tracer
        self._name = name_of(fn)
        self._about: dict[str, Any] = {"code.function.name": _full_name(fn)}
        values = ((name, getattr(limits, limit)) for name, limit in _LIMITS.items())
        about = self._about | {name: value for name, value in values if value is not None}
        self._began_ns = time.time_ns()
        self._span = tracer.start_span(
            f"dask_limits.call {self._name}", attributes=about, start_time=self._began_ns
        )

    def is_current(self) -> AbstractContextManager[object]:
        """Have the calls that are made within this carry its context."""
        from opentelemetry import trace

        current: AbstractContextManager[object] = trace.use_span(
            self._span, record_exception=False, set_status_on_exception=False
        )
        return current

    @contextmanager
    def is_submitted(self) -> Iterator[None]:
        """The same, where executors pass a call on to each other: no other span is made for it."""
        from opentelemetry import context

        with self.is_current():
            token = context.attach(context.set_value(_SUBMITTED, True))
            try:
                yield
            finally:
                context.detach(token)

    @_harmless
    def runs_again(self, error: BaseException, attempt: int) -> None:
        """The call is to run again after this error; `attempt` is that of the next run."""
        if self._span.is_recording():
            from dask_limits.limits.call_log import in_a_line

            about = {"error.type": _type_name(error), "exception.message": in_a_line(error)}
            self._span.add_event("dask_limits.rerun", {"dask_limits.attempts": attempt, **about})

    @_harmless
    def ran(
        self,
        error: BaseException | None,
        usage: Usage | None,
        started_at: float | None = None,
        place: Mapping[str, str] | None = None,
    ) -> None:
        """The call, or an attempt of it, has ended like that, if it has run at all.

        `started_at` is in seconds since 1970, for one without usage. `place` are attributes.
        """
        if usage is not None:
            started_at = usage.started
        if started_at is None or not self._span.is_recording():
            return
        from opentelemetry import trace

        # Each by the clock of another machine, maybe.
        start_ns, end_ns = max(round(started_at * 1e9), self._began_ns), time.time_ns()
        if usage is not None:
            end_ns = min(start_ns + round(usage.wall_time * 1e9), end_ns)
        span = self._tracer.start_span(
            f"dask_limits.run {self._name}",
            trace.set_span_in_context(self._span),
            attributes={**self._about, **(place or {})},
            start_time=start_ns,
        )
        _set_end(span, error, usage)
        span.end(max(start_ns, end_ns))

    @_harmless
    def end(
        self,
        error: BaseException | None,
        usage: Usage | None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        """The call has ended like that; `more` are attributes."""
        if self._span.is_recording():
            self._span.set_attributes(more or {})
            if _set_end(self._span, error, usage):
                with suppress(Exception):  # a user's class may do anything when it is printed
                    self._span.record_exception(error)
        self._span.end()

    def around(self, run: Callable[..., Outcome[R]], *args: Any) -> Outcome[R]:
        """Run the call in this thread."""
        try:
            with self.is_current():
                outcome = run(*args)
        except BaseException as error:  # Ctrl-C
            self.end(error, None)
            raise
        self.ran(outcome.exception, outcome.usage)
        self.end(outcome.exception, outcome.usage)
        return outcome


def begin(fn: Callable[..., object], limits: Limits) -> CallSpan | None:
    """Begin the span of a call, below the current span.

    None if no tracer provider is set up, or if the call has a span.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    try:
        if (tracer := _tracer_here()) is None:
            return None
        from opentelemetry import context

        return None if context.get_value(_SUBMITTED) else CallSpan(tracer, fn, limits)
    except Exception as error:
        _warn(error)
        return None


def traced(
    run: Callable[..., Outcome[R]], fn: Callable[..., object], limits: Limits
) -> Callable[..., Outcome[R]]:
    """What runs a call of this function, in a span if a tracer provider is set up."""
    return run if (span := begin(fn, limits)) is None else functools.partial(span.around, run)


def _tracer_here() -> Any:
    global _tracer
    try:
        from opentelemetry import trace
    except ImportError:  # what is imported is not the whole package
        return None
    provider = trace.get_tracer_provider()
    if provider is not _tracer[0]:
        is_none = isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
        _tracer = provider, None if is_none else provider.get_tracer("dask_limits")
    return _tracer[1]


def _set_end(span: Any, error: BaseException | None, usage: Usage | None) -> bool:
    """Set how a call has ended, and what it has used. Return whether it has failed."""
    from opentelemetry import trace

    # Here, as most programs trace nothing: they import pynisher, 40 ms.
    from dask_limits.limits.call_log import in_a_line
    from dask_limits.limits.endings import word_of

    ending = word_of(error)
    about: dict[str, Any] = {"dask_limits.ending": ending}
    if usage is not None:
        about |= {name: getattr(usage, amount) for name, amount in _USAGE.items()}
    if error is not None and ending not in _NOT_FAILED:
        about["error.type"] = _type_name(error)
        span.set_status(trace.Status(trace.StatusCode.ERROR, in_a_line(error)))
    span.set_attributes(about)
    return "error.type" in about


def _full_name(fn: Callable[..., object]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    named: Any = fn if hasattr(fn, "__qualname__") else type(fn)
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if module else str(named.__qualname__)


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind)
