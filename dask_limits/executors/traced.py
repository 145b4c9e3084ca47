"""Submits calls in spans of OpenTelemetry, where a tracer provider is set up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future as AnyFuture
from typing import Any, Final

from dask_limits.future import Call, DeferredFuture
from dask_limits.limits import LimitedCall, Limits
from dask_limits.limits.call_span import CallSpan, begin

_NO_LIMITS: Final = Limits()


def submit(
    submit: Callable[..., AnyFuture[Any]],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Submit a call, in a span that ends with its future. `submit` is that of our executors."""
    if (span := _begin(fn)) is None:
        return submit(fn, *args, **kwargs)
    try:
        with span.is_submitted():
            future: Any = submit(fn, *args, **kwargs)
    except BaseException as error:
        span.end(error, None)
        raise
    future._trace(span)
    return future


def deferred(call: Call) -> DeferredFuture[Any]:
    """The future of a call that is submitted later, or more than once: in one span, too."""
    future = DeferredFuture[Any]()
    if (span := _begin(call[0])) is not None:
        future._trace(span)
    return future


def _begin(fn: Callable[..., Any]) -> CallSpan | None:
    if isinstance(fn, LimitedCall):
        return begin(fn.fn, fn.limits)
    return begin(fn, _NO_LIMITS)
