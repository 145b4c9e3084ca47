"""A run as HTML: what runs with its usage beside its limits, what has ended, what has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from dask_limits.display.in_words import (
    FROM_JOURNAL,
    endings,
    how_it_ended,
    how_it_stands,
    many,
    nothing,
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
_KINDS: Final[dict[str, str]] = {"returned": "good", "cancelled": "plain", FROM_JOURNAL: "plain"}
"""How an ending is marked; all others are bad."""


def run_html(view: RunView) -> Html:
    """All that a cell shows of a moment of a run."""
    title = heading(f"Run on {view.executor} ", badge(view.state, "plain"), span(view.elapsed))
    counts = [badge(f"{n:,} {ending}", _KINDS.get(ending, "bad")) for ending, n in endings(view)]
    lines = [nothing(view), ", ".join(how_it_stands(view)), *view.cluster]
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
    n = view.n_known + view.n_left
    return progress(f"{view.n_known:,} of {many(n, 'call')}", view.n_known / n)


def _running(view: RunView) -> Html:
    kinds = [kind for kind in _AMOUNTS if any(map(kind.is_worth_a_column, view.running))]
    rows = [(_what(row), *(_amount(kind, row) for kind in kinds)) for row in view.running]
    left = view.n_running - len(rows)
    more = note(f"... and {left:,} more") if rows and left > 0 else ""
    return joined(table(rows, ("running", *(kind.label for kind in kinds))), more)


def _what(row: RunningRow) -> Html:
    about = [f"on {row.worker}"] if row.worker else []
    about += [f"attempt {row.attempt}"] if row.attempt > 1 else []
    return joined(code(f"{row.task}({row.arguments})"), note(", ".join(about)) if about else "")


class _Kind(NamedTuple):
    """What a running call uses, in a column."""

    label: str
    of: Callable[[RunningRow], Amount]
    form: Callable[[float], str]
    if_limited: bool  # only then: a cell of a notebook may be narrow

    def is_worth_a_column(self, row: RunningRow) -> bool:
        amount = self.of(row)
        return amount.limit is not None or (not self.if_limited and amount.used is not None)


_AMOUNTS: Final = (
    _Kind("wall time", lambda row: row.wall_time, span, False),
    _Kind("memory", lambda row: row.memory, lambda n: format_bytes(round(n)), False),
    _Kind("CPU time", lambda row: row.cpu_time, span, True),
    _Kind("processes", lambda row: row.num_processes, lambda n: str(round(n)), True),
)


def _amount(kind: _Kind, row: RunningRow) -> object:
    amount = kind.of(row)
    used = "" if amount.used is None else kind.form(amount.used)
    if amount.limit is None:
        return used
    return bar(f"{used or '?'} of {kind.form(amount.limit)}", amount.share)


def _failures(failures: tuple[EndedRow, ...]) -> Html:
    rows = [
        (code(f"{row.task}({row.arguments})"), joined(how_it_ended(row), note(_details(row))))
        for row in reversed(failures[-_MOST_FAILURES:])
    ]
    return table(rows, ("last failures", "why"))


def _details(row: EndedRow) -> str:
    about = [row.where, what_it_used(row), f"on {row.worker}" if row.worker else ""]
    return ", ".join(filter(None, about))
