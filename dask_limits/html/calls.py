"""What a cell shows of a call, or of a run: its limits, its usage, how it has ended.

These are shown by their attributes alone, so this stands below the classes that have them.
"""

from __future__ import annotations

import inspect
import re
import signal
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from math import isnan
from reprlib import Repr
from typing import Any, Final, NamedTuple

from dask_limits.html.elements import (
    Html,
    badge,
    bar,
    block,
    code,
    element,
    folded,
    heading,
    joined,
    note,
    table,
    view,
)
from dask_limits.units import format_bytes, format_seconds


class _Kind(NamedTuple):
    """What can be limited, and how it is said."""

    limit: str  # the attribute of limits
    used: str  # that of a usage
    label: str
    form: Callable[[Any], str]


_KINDS: Final = (
    _Kind("memory", "peak_memory", "memory", format_bytes),
    _Kind("cpu_time", "cpu_time", "CPU time", format_seconds),
    _Kind("wall_time", "wall_time", "wall time", format_seconds),
    _Kind("num_processes", "num_processes", "processes", str),
)
_OTHERS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "cores": ("cores", str),
    "reserve": ("reserves", lambda value: "yes" if value else "no"),
    "grace_period": ("grace period", format_seconds),
    "capture_output": ("captures output", format_bytes),
    "isolation": ("isolation", str),
    "context": ("context", str),
}
"""What else is among limits."""
_KINDS_OF_END: Final = {"exhausted": "good", "exception": "bad"}
_VALUE_LENGTH: Final = 300
"""Characters that are shown of the value of a call."""
_FRAME: Final = re.compile(r'File "(.*)", line (\d+),? in (.*)')


def limits_view(limits: Any) -> Html:
    """Return what a cell shows of `Limits`."""
    rows = list(limit_rows(limits))
    return view(heading("Limits"), table(rows) or note("no limit"))


def limit_rows(limits: Any) -> Iterator[tuple[str, str]]:
    """Yield what is limited, or set, and the value as people write it."""
    values = limits.as_dict()
    for kind in _KINDS:
        if (value := values.get(kind.limit)) is not None:
            yield kind.label, kind.form(value)
    for name, (label, form) in _OTHERS.items():
        if name in values:
            yield label, form(values[name])


def limited_view(name: str, fn: Callable[..., object], limits: Any) -> Html:
    """Return what a cell shows of a function that has limits."""
    try:
        parameters = str(inspect.signature(fn))
    except Exception:  # some in C have none, and a user's class may do anything
        parameters = "(...)"
    rows = list(limit_rows(limits))
    called = element("div", code(f"{name}{parameters}"))
    return view(heading("Function with limits"), called, table(rows) or note("no limit"))


def exit_view(code_of_end: str, why: str, error: BaseException | None) -> Html:
    """Return what a cell shows of an `ExitState`."""
    kind = _KINDS_OF_END.get(code_of_end, "plain")
    parts = () if error is None else _error_parts(error, None)
    end = element("div", badge(code_of_end, kind), why)
    return view(heading("End of the run"), end, *parts)


def usage_view(usage: Any) -> Html:
    """Return what a cell shows of a `Usage`."""
    return view(heading("Usage"), *usage_parts(usage, None))


def usage_parts(usage: Any, limits: Any) -> Iterator[Html]:
    """Yield a table of a usage, with bars where there is a limit, and what was captured."""
    rows: list[tuple[str, object]] = [(kind.label, _amount(kind, usage, limits)) for kind in _KINDS]
    if usage.exit_code is not None:
        rows.append(("exit code", _exit_code(usage.exit_code)))
    if usage.started is not None:
        rows.append(("started", _moment(usage.started)))
    yield table(rows)
    for name in ("stdout", "stderr"):
        if text := getattr(usage, name):
            yield folded(name, block(text))


def _amount(kind: _Kind, usage: Any, limits: Any) -> object:
    used, limit = getattr(usage, kind.used), getattr(limits, kind.limit, None)
    text = "not known" if isnan(used) else kind.form(used)
    if not limit:
        return text
    return bar(f"{text} of {kind.form(limit)}", 0.0 if isnan(used) else used / limit)


def _exit_code(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(-number).name})"
    except ValueError:
        return str(number)


def _moment(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def outcome_view(outcome: Any) -> Html:
    """Return what a cell shows of an `Outcome`."""
    error = outcome.exception
    if error is None:
        value = element("div", badge("returned", "good"), code(_short(outcome.value)))
        return view(heading("Outcome"), value, *usage_parts(outcome.usage, None))
    return view(heading("Outcome"), *_error_parts(error, outcome.usage))


def error_view(error: Any) -> Html:
    """Return what a cell shows of a `CallError`."""
    title = f"Call of {error.call}()" if error.call else "Call"
    return view(heading(title), *_error_parts(error, None))


def _error_parts(error: Any, usage: Any) -> Iterator[Html]:
    """Yield what an error says, where it was, what was used of the limits, and the stacks."""
    yield element("div", badge(type(error).__name__, "bad"), _message(error), class_="dl-message")
    yield from map(note, _notes(error))
    trace = _traceback(error)
    if frames := _FRAME.findall(trace):
        yield note("in ", code("{}:{} in {}".format(*frames[-1])))
    is_ours = _is_ours(error)
    usage = (error.usage if is_ours else None) or usage
    limits = error.limits if is_ours else None
    if usage is not None:
        yield joined(*usage_parts(usage, limits))
    elif limits is not None:
        yield table(limit_rows(limits))
    if trace:
        yield folded("traceback", block(trace))
    if is_ours and error.stacks:
        yield folded("stacks when it was ended", block(error.stacks))


def _is_ours(error: BaseException) -> bool:
    """Whether it is a `CallError`: others may have attributes of the same names."""
    ours = "dask_limits.exceptions", "CallError"
    return any((cls.__module__, cls.__name__) == ours for cls in type(error).__mro__)


def _notes(error: BaseException) -> list[str]:
    try:
        return [str(text) for text in getattr(error, "__notes__", ())]
    except Exception:  # a user's class may do anything
        return []


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's class may do anything
        return ""


def _traceback(error: BaseException) -> str:
    """The traceback in the process of the call, as text; empty if there is none."""
    cause: Any = error.__cause__
    if type(cause).__name__ == "RemoteTraceback":
        return str(cause.text).strip()
    # Ours was raised here, where it says nothing.
    return "" if _is_ours(error) else "".join(traceback.format_tb(error.__traceback__)).strip()


def _short(value: object) -> str:
    short = Repr()
    short.maxstring = short.maxlong = short.maxother = _VALUE_LENGTH
    try:
        return short.repr(value)
    except Exception:  # a user's class may do anything
        return f"<{type(value).__name__}>"
