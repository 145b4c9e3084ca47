"""The trace of OpenTelemetry that calls are part of, on its way to where they run.

Without a trace, nothing here imports OpenTelemetry, nor does more than look whether it is imported.

Source: https://opentelemetry.io/docs/specs/otel/context/api-propagators/
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Carrier = dict[str, str]
"""A context as the propagators that are set up write it: by default, `traceparent` of W3C."""

_NOWHERE: Final = nullcontext()


def carrier() -> Carrier | None:
    """The present context, for another thread or process; None if no span is current."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    carried: Carrier = {}
    try:
        from opentelemetry import propagate, trace

        if trace.get_current_span().get_span_context().is_valid:
            propagate.inject(carried)
    except Exception:  # as in `_Attached`
        return None
    # Only text is sent: a propagator of the user's may put in what cannot be pickled.
    return {name: text for name, text in carried.items() if isinstance(text, str)} or None


def attached(carried: Carrier | None = None) -> AbstractContextManager[object]:
    """Have what runs within this be part of the trace that `carrier` was called in."""
    return _NOWHERE if carried is None else _Attached(carried)


def carrying(fn: Callable[P, R]) -> Callable[P, R]:
    """The same function, which is part of the present trace wherever it is called."""
    if (carried := carrier()) is None:
        return fn

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with attached(carried):
            return fn(*args, **kwargs)

    return call


class _Attached:
    def __init__(self, carried: Carrier) -> None:
        self._carried = carried
        self._token: Any = None

    def __enter__(self) -> None:
        try:
            from opentelemetry import context, propagate

            self._token = context.attach(propagate.extract(self._carried))
        except Exception:  # it is not there, or not set up right: no reason for a call to fail
            pass

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            from opentelemetry import context

            context.detach(self._token)
