"""A run as lines, where there is no terminal: in the log of a batch job, or a pipe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Self, TextIO

from dask_limits.display.in_words import (
    FROM_JOURNAL,
    endings,
    how_it_ended,
    how_it_stands,
    nothing,
    span,
    what_it_used,
)
from dask_limits.display.run_view import EndedRow, RunView

_SUMMARY_S: Final = 60.0
_WINDOW_S: Final = 1.0
_MOST: Final = 5
"""So many calls that have returned get a line each in so many seconds; the others are counted. So a
million short calls do not fill a disk, and do not wait for it either."""
_QUIET: Final = ("returned", "cancelled")


class PlainLines:
    """Writes a line for each call that has failed and for some of the others, and summaries.

    Lines are written at once, as people read a log while it grows. What comes back from a journal
    has a summary within a second.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._summary_at = self._window_ends = 0.0  # seconds of time.monotonic()
        self._n_lines = 0  # in the window
        self._left_out: Counter[str] = Counter()  # in the window, by ending

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ended(self, ending: str, row: Callable[[], EndedRow]) -> None:
        """Write a line if the call has failed, or few have ended lately."""
        if ending == FROM_JOURNAL:  # the summary counts it
            self._summary_at = min(self._summary_at, time.monotonic() + _WINDOW_S)
            return
        if ending in _QUIET:
            if time.monotonic() >= self._window_ends:
                self._begin_window()
            self._n_lines += 1
            if self._n_lines > _MOST:
                self._left_out[ending] += 1
                return
        self._write(_line(row()))

    def show(self, moment: Callable[[int], RunView]) -> float:
        """Write what is due: calls that had no line of their own, and a summary each minute."""
        now = time.monotonic()
        if self._left_out and now >= self._window_ends:
            self._begin_window()
        if now >= self._summary_at:
            self._write(summary(moment(0)))
            self._summary_at = now + _SUMMARY_S
        due = [self._summary_at, self._window_ends] if self._left_out else [self._summary_at]
        return min(min(due) - now, _WINDOW_S)

    def end(self, last: RunView) -> None:
        """Write how the run has ended."""
        self._begin_window()
        self._write(summary(last))

    def _begin_window(self) -> None:
        """Write how many calls were left out, and begin anew."""
        if self._left_out:
            counts = ", ".join(f"{n} {ending}" for ending, n in self._left_out.items())
            self._write(f"and {counts}, each too soon after the others for a line of its own")
        self._left_out.clear()
        self._n_lines = 0
        self._window_ends = time.monotonic() + _WINDOW_S

    def _write(self, line: str, at: float | None = None) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        text = f"{stamp} {line}\n".encode(encoding, "backslashreplace").decode(encoding)
        self._file.write(text)
        self._file.flush()


def _line(row: EndedRow) -> str:
    """Such as "fit(10) memory: went over its memory limit ...; fit.py:12 in fit; on worker-1"."""
    about = [what_it_used(row), row.where, f"on {row.worker}" if row.worker else ""]
    parts = [f"{row.task}({row.arguments}) {how_it_ended(row)}", *filter(None, about)]
    return "; ".join(parts)


def summary(view: RunView) -> str:
    """Such as "run: 12 returned, 1 memory; 2 running, 0 waiting; 1.2/s; 2 workers, 4 cores"."""
    ended = ", ".join(f"{n} {ending}" for ending, n in endings(view))
    parts = [ended or nothing(view) or "no call has ended", *how_it_stands(view), *view.cluster]
    return (
        f"run on {view.executor} ({view.state}, {span(round(view.elapsed, 1))}): {'; '.join(parts)}"
    )
