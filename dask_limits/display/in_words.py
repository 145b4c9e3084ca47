"""The figures of a run in words, for lines and for a terminal."""

from __future__ import annotations

from typing import Final

from dask_limits.display.run_view import EndedRow, RunView
from dask_limits.units import format_bytes


def span(seconds: float) -> str:
    """A span of time in short.

    Example:
        >>> span(0.1234), span(3), span(45.6), span(600), span(3 * 3600), span(5 * 86400)
        ('0.12 s', '3.0 s', '46 s', '10 min', '3.0 h', '5.0 days')
    """
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
    for unit, length, most in ("s", 1, 100), ("min", 60, 6000), ("h", 3600, 172_800):
        if seconds < most:
            return f"{seconds / length:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def many(n: int, what: str) -> str:
    """A number of things.

    Example:
        >>> many(1, "retry"), many(2, "rerun")
        ('1 retry', '2 reruns')
    """
    if n == 1:
        return f"{n} {what}"
    return f"{n} {what[:-1]}ies" if what.endswith("y") else f"{n} {what}s"


NOTHING: Final = "nothing was submitted"
SUBMIT: Final = "submit in a callback of @scheduler.on_start"
"""What to do about it."""
FROM_JOURNAL: Final = "from the journal"
"""Of calls that have ended in an earlier run: they stand beside the endings of this one."""


def nothing(view: RunView) -> str:
    """That a run has ended without a call; empty if that is not so."""
    if not view.is_over or view.n_known:
        return ""
    return f"{NOTHING}: {SUBMIT}" if view.state == "exhausted" else NOTHING


def endings(view: RunView) -> list[tuple[str, int]]:
    """How many calls have ended how: those that returned first, then by their number; last those
    that a journal had.
    """
    counts = sorted(view.counts.items(), key=lambda it: (it[0] != "returned", -it[1], it[0]))
    return [*counts, (FROM_JOURNAL, view.n_from_journal)] if view.n_from_journal else counts


def how_it_stands(view: RunView) -> list[str]:
    """What runs and waits, how fast it goes, and how long it will take, as far as that is known."""
    if view.n_running or view.n_waiting:
        parts = [f"{view.n_running} running", f"{view.n_waiting} waiting"]
    else:
        parts = []
    if view.rate:
        parts.append(_rate(view.rate) + (" on average" if view.is_over else ""))
    if view.n_left and view.state != "starting":  # a journal may have some of them
        parts.append(f"{view.n_left} left")
    if view.time_left:
        parts.append(f"about {span(view.time_left)} to go")
    if view.n_reruns:
        parts.append(many(view.n_reruns, "rerun"))
    if view.n_retries:
        parts.append(many(view.n_retries, "retry"))
    return parts


def _rate(rate: float) -> str:
    """As calls a second, a minute or an hour."""
    if rate >= 1:
        return f"{rate:.1f}/s" if rate < 100 else f"{rate:.0f}/s"
    return f"{rate * 60:.1f}/min" if rate * 60 >= 1 else f"{rate * 3600:.2g}/h"


def how_it_ended(row: EndedRow) -> str:
    """An ending, and why: "memory: went over its memory limit of ..."."""
    again = f" in attempt {row.attempts}" if row.attempts > 1 else ""
    return f"{row.ending}{again}" + (f": {row.cause}" if row.cause else "")


def what_it_used(row: EndedRow) -> str:
    """Its time and its memory, as far as they are known."""
    parts = [] if row.wall_time is None else [span(row.wall_time)]
    return ", ".join([*parts, format_bytes(row.peak_memory)] if row.peak_memory else parts)
