"""A moment of a run as lines of a terminal: so many at most, and so wide at most.

They are laid out here and not by a table of rich: that takes ten times as long, and this is done
while calls wait for their next step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style

from dask_limits.display.in_words import FROM_JOURNAL, endings, how_it_stands, many, nothing, span
from dask_limits.display.run_view import Amount, EndedRow, RunningRow, RunView
from dask_limits.in_short import cut
from dask_limits.units import format_bytes

Line = list[Segment]

# The sixteen colours of terminals, which themes make readable on light and dark.
_PLAIN: Final = Style()
_BOLD, _DIM = Style(bold=True), Style(dim=True)
_GOOD, _NEAR, _BAD = Style(color="green"), Style(color="yellow"), Style(color="red")
_ACCENT: Final = Style(color="cyan")
_COLOURS: Final = {"returned": _GOOD, "cancelled": _DIM, FROM_JOURNAL: _DIM} | dict.fromkeys(
    ("raised", "crashed", "exited", "lost", "failed"), _BAD
)
"""By ending; the others are breaches and refusals."""
_NEAR_FROM, _BAD_FROM = 0.7, 0.9
"""The shares of a limit from which on its bar changes its colour."""
_MOST_CLUSTER: Final = 4
_WIDE: Final = 140
"""Columns from which on figures stand beside the bars, and names are longer."""
_NARROW: Final = 60
"""Columns below which there are only those of task, age, time and memory."""
_BAR, _SHORT_BAR = 10, 6
_GAP: Final = Segment("  ")


class Bars(NamedTuple):
    """What bars are drawn with."""

    full: str = "━"
    empty: str = "─"


LINES: Final = Bars()
ASCII: Final = Bars("#", "-")


def draw(view: RunView, width: int, height: int, bars: Bars = LINES) -> list[Line]:
    """The lines that show a moment of a run."""
    top = [_title(view, width), *_totals(view, width, bars), *_cluster(view.cluster, width)][
        :height
    ]
    room = height - len(top)
    n_failures = min(len(view.failures) + 1, room // 3) if view.failures else 0
    running = _running(view, width, room - n_failures, bars)
    room -= len(running)
    return top + running + _failures(view.failures, width, room)


def _title(view: RunView, width: int) -> Line:
    state = f" {view.state}, {span(round(view.elapsed, 1))}"
    return _cropped([Segment(view.executor, _BOLD), Segment(state, _ACCENT)], width)


def _totals(view: RunView, width: int, bars: Bars) -> list[Line]:
    """How many calls have ended how, how many run and wait, and how long it will take."""
    ended = [Segment(f"{n} {ending}", _COLOURS.get(ending, _NEAR)) for ending, n in endings(view)]
    none = [Segment(nothing(view), _NEAR)] if nothing(view) else []
    lines = _packed([*ended, *none], width) + _packed(map(Segment, how_it_stands(view)), width)
    if view.n_left is not None and view.state == "running" and (n := view.n_known + view.n_left):
        share = view.n_known / n
        percent = f" {share:.0%}"
        bar = _bar(share, width - len(percent) - 1, bars, _GOOD)
        lines.append(_cropped([*bar, Segment(percent)], width))
    return lines


def _cluster(lines: Sequence[str], width: int) -> list[Line]:
    """The workers and the jobs: as many lines as there are, or side by side."""
    packed = _packed(map(Segment, lines), width)
    if len(packed) <= _MOST_CLUSTER:
        return packed
    n = len(packed) - _MOST_CLUSTER + 1
    rest = Segment(f"and {many(n, 'more line')}", _DIM)
    return [*packed[: _MOST_CLUSTER - 1], _cropped([rest], width)]


# -- running calls -------------------------------------------------------------------------------


@dataclass
class _Column:
    """A column of the table: its heading, its width, and what is in its cells."""

    heading: str
    width: int
    cell: Callable[[RunningRow, int], Line]
    is_right: bool = False


def _running(view: RunView, width: int, room: int, bars: Bars) -> list[Line]:
    """A line for each running call, and how many there are besides."""
    rows: Sequence[RunningRow] = view.running
    if view.n_running > room - 1:  # below the headings
        rows = rows[: max(room - 2, 0)]
    if not rows:
        return []
    columns = _columns(rows, width, bars)
    lines = [_row([(Segment(c.heading, _DIM),) for c in columns], columns)]
    lines += [_row([c.cell(row, c.width) for c in columns], columns) for row in rows]
    if sum(c.width + len(_GAP.text) for c in columns) - len(_GAP.text) > width:
        lines = [_cropped(line, width) for line in lines]
    if n := view.n_running - len(rows):
        lines.append(_cropped([Segment(f"and {n} more", _DIM)], width))
    return lines


def _columns(rows: Sequence[RunningRow], width: int, bars: Bars) -> list[_Column]:
    """The columns for which there is something to show, and room."""
    is_wide, is_narrow = width >= _WIDE, width < _NARROW
    columns = [
        _Column("task", _widest((r.task for r in rows), 30 if is_wide else 14), _plain("task")),
        _Column("age", 7, lambda row, _: [Segment(_span(row.age))], is_right=True),
    ]

    def amount(heading: str, name: str, form: Callable[[float], str], most: int) -> None:
        amounts: list[Amount] = [getattr(row, name) for row in rows]
        if any(it.limit for it in amounts):
            width = _BAR + 1 + most if is_wide else _SHORT_BAR
            columns.append(_Column(heading, width, _amount(name, form if is_wide else None, bars)))

    amount("time", "wall_time", _span, len("12 min of 12 min"))
    if not is_narrow:
        amount("CPU", "cpu_time", _span, len("12 min of 12 min"))
    if any(row.memory.used for row in rows):
        memory = lambda row, _: [Segment(_bytes(row.memory.used))]  # noqa: E731
        if not is_wide or not any(row.memory.limit for row in rows):
            columns.append(_Column("memory", 9, memory, is_right=True))
    if not is_narrow:
        amount("memory" if is_wide else "", "memory", _bytes, len("123.4 MiB of 123.4 MiB"))
    if is_wide and any((row.num_processes.used or 0) > 1 for row in rows):
        columns.append(_Column("processes", 9, _processes, is_right=True))
    if any(row.attempt > 1 for row in rows):
        columns.append(_Column("try", 3, lambda row, _: [Segment(str(row.attempt))], is_right=True))
    if not is_narrow and any(row.worker for row in rows):
        longest = _widest((row.worker for row in rows), 30 if is_wide else 12)
        columns.append(_Column("worker", longest, _plain("worker")))
    left = width - sum(c.width + len(_GAP.text) for c in columns)
    if left >= 8:
        columns.insert(1, _Column("arguments", left, _plain("arguments", _DIM)))
    return columns


def _widest(texts: Iterable[str], most: int) -> int:
    return max(min(max(map(cell_len, texts)), most), len("worker"))


def _plain(name: str, style: Style = _PLAIN) -> Callable[[RunningRow, int], Line]:
    return lambda row, _: [Segment(getattr(row, name), style)]


def _amount(
    name: str, form: Callable[[float], str] | None, bars: Bars
) -> Callable[[RunningRow, int], Line]:
    """A bar of what is used of a limit; in a wide column with the figures."""

    def cell(row: RunningRow, width: int) -> Line:
        it: Amount = getattr(row, name)
        if form is None:
            return _bar(it.share, width, bars) if it.limit else []
        if not it.limit:
            return [] if it.used is None else [Segment(form(it.used))]
        figures = f" {form(it.used or 0)} of {form(it.limit)}"
        return [*_bar(it.share, _BAR, bars), Segment(figures)]

    return cell


def _processes(row: RunningRow, _: int) -> Line:
    used, limit = row.num_processes
    return [Segment(f"{used or '':.0f}" + (f" of {limit:.0f}" if limit else ""))]


def _span(seconds: float) -> str:
    """A time that goes on: its hundredths are over before they are read."""
    return span(round(seconds, 1)) if seconds >= 0.1 else "0 s"


def _bytes(amount: float | None) -> str:
    return "" if amount is None else format_bytes(round(amount))


def _bar(share: float, width: int, bars: Bars, style: Style | None = None) -> Line:
    """A bar of so many columns, coloured by how near to the end it is."""
    n = round(share * width) if share == 1 else min(round(share * width), width - 1)
    if style is None:
        style = _GOOD if share < _NEAR_FROM else _NEAR if share < _BAD_FROM else _BAD
    return [Segment(bars.full * n, style), Segment(bars.empty * (width - n), _DIM)]


# -- failures ------------------------------------------------------------------------------------


def _failures(failures: Sequence[EndedRow], width: int, room: int) -> list[Line]:
    """The last failures, a line each."""
    if not failures or room < 2:
        return []
    last = failures[-(room - 1) :]
    return [
        _cropped([Segment("last failures", _DIM)], width),
        *(_failure(row, width) for row in last),
    ]


def _failure(row: EndedRow, width: int) -> Line:
    """When, which call, why, where."""
    is_wide, is_narrow = width >= _WIDE, width < _NARROW
    at = time.strftime("%H:%M:%S ", time.localtime(row.at))
    call = cut(f"{row.task}({row.arguments})", width // 3)
    head = [Segment("" if is_narrow else at, _DIM), Segment(call), _GAP]
    where = row.where if is_wide else row.where.rpartition("/")[2]
    place = "" if is_narrow else "".join(f"  {it}" for it in (where, row.worker) if it)
    room = max(width - sum(cell_len(it.text) for it in head), 0)
    cause = row.cause.removeprefix("went over its ") or row.ending
    if row.attempts > 1:
        cause = f"{cause} (attempt {row.attempts})"
    cause = cut(cause, max(room - cell_len(place), room // 3))
    style = _COLOURS.get(row.ending, _NEAR)
    return _cropped([*head, Segment(cause, style), Segment(place, _DIM)], width)


# -- lines ---------------------------------------------------------------------------------------


def _packed(parts: Iterable[Segment], width: int) -> list[Line]:
    """Parts side by side, in as many lines as they need."""
    lines: list[Line] = []
    room = 0
    for part in parts:
        length = cell_len(part.text)
        if lines and length + len(_GAP.text) <= room:
            lines[-1] += [_GAP, part]
            room -= length + len(_GAP.text)
        else:
            lines.append([part])
            room = width - length
    return [_cropped(line, width) for line in lines]


def _row(cells: Sequence[Sequence[Segment]], columns: Sequence[_Column]) -> Line:
    line: Line = []
    for cell, column in zip(cells, columns, strict=True):
        line += _fitted(cell, column.width, column.is_right)
        line.append(_GAP)
    return line[:-1]


def _fitted(cell: Sequence[Segment], width: int, is_right: bool) -> Line:
    """A cell of exactly this width."""
    length = sum(cell_len(part.text) for part in cell)
    if length > width:
        return _cropped(cell, width)
    space = Segment(" " * (width - length))
    return [space, *cell] if is_right else [*cell, space]


def _cropped(line: Sequence[Segment], width: int) -> Line:
    """A line that is cut where it is wider than this."""
    kept: Line = []
    for text, style, _ in line:
        length = cell_len(text)
        if length > width:
            kept.append(Segment(set_cell_size(cut(text, width), width), style))
            break
        kept.append(Segment(text, style))
        width -= length
    return kept
