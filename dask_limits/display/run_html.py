"""A run as HTML: what runs with its usage beside its limits, what has ended, what has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dask_limits.display.in_words import (
    endings,
    how_it_ended,
    how_it_stands,
    many,
    span,
    what_it_used,
)
from dask_limits.display.run_view import Amount, EndedRow, RunningRow, RunView
from dask_limits.html.elements import (
    Html,
    badge,
    bar,
    code,
    element,
    heading,
    joined,
    note,
    progress,
    table,
)
from dask_limits.units import format_bytes

_MOST_FAILURES: Final = 5
_KINDS: Final[dict[str, str]] = {"returned": "good", "cancelled": "plain"}
"""How an ending is marked; all others are bad."""


def run_html(view: RunView) -> Html:
    """All that a cell shows of a moment of a run."""
    title = heading(f"Run on {view.executor} ", badge(view.state, "plain"), span(view.elapsed))
    counts = [badge(f"{n:,} {ending}", _KINDS.get(ending, "bad")) for ending, n in endings(view)]
    lines = [", ".join(how_it_stands(view)), *view.cluster]
    return joined(
        title,
        element("div", *counts),
        _progress(view),
        *(element("div", line) for line in lines if line),
        _running(view),
        _failures(view.failures),
    )


def _progress(view: RunView) -> Html:
    if not view.n_left:
        return Html()
    n = view.n_ended + view.n_left
    return progress(f"{view.n_ended:,} of {many(n, 'call')}", view.n_ended / n)


def _running(view: RunView) -> Html:
    rows = [_running_row(row) for row in view.running]
    left = view.n_running - len(rows)
    names = ("running", "wall time", "CPU time", "memory", "processes")
    more = note(f"... and {left:,} more") if rows and left > 0 else ""
    return joined(table(rows, names), more)


def _running_row(row: RunningRow) -> tuple[object, ...]:
    again = f", attempt {row.attempt}" if row.attempt > 1 else ""
    where = note(f"on {row.worker}{again}" if row.worker else again.removeprefix(", "))
    return (
        joined(code(f"{row.task}({row.arguments})"), where if row.worker or again else ""),
        _amount(row.wall_time, span),
        _amount(row.cpu_time, span),
        _amount(row.memory, lambda n: format_bytes(round(n))),
        _amount(row.num_processes, lambda n: str(round(n))),
    )


def _amount(amount: Amount, form: Callable[[Any], str]) -> object:
    used = "" if amount.used is None else form(amount.used)
    if amount.limit is None:
        return used
    return bar(f"{used or '?'} of {form(amount.limit)}", amount.share)


def _failures(failures: tuple[EndedRow, ...]) -> Html:
    rows = [
        (
            code(f"{row.task}({row.arguments})"),
            joined(how_it_ended(row), note(code(row.where)) if row.where else ""),
            what_it_used(row),
        )
        for row in reversed(failures[-_MOST_FAILURES:])
    ]
    return table(rows, ("last failures", "why", "used"))
