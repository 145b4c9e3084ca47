"""Draws a report. This is imported only to draw one: it needs Matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from dask_limits.report.lanes import Bar, lanes_of
from dask_limits.report.places import WorkerChange, workers_over_time
from dask_limits.report.rows import Row

_COLOURS: Final = {
    "returned": "#7fb3d5",
    "raised": "#e69f00",
    "breach": "#d62728",
    "crashed": "#8e44ad",
    "exited": "#c39bd3",
    "refused": "#7f7f7f",
    "lost": "#000000",
    "failed": "#17a589",
    "cancelled": "#bfc9ca",
}
_MOST_LANES: Final = 100
_MOST_TASKS: Final = 20
_MOST_POINTS: Final = 2000
"""Of one ending of a task; more look the same."""
_GAP: Final = 9
"""Times, of those at which calls are counted, in which one follows another: half a percent."""
_MOST_EDGES: Final = 500
"""Bars with an edge between them; of more, there would be edges alone to see."""
_MOST_BESIDE: Final = 5
"""Entries of a legend in a line."""
_STEPS: Final = 2000
"""Times at which calls are counted, and the least width of a bar as a share of the whole."""


class _ShownFigure(Figure):
    """A figure that shows itself in a notebook, without `pyplot`, which would keep it."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def draw(rows: Iterable[Row], changes: Sequence[WorkerChange]) -> Figure:
    """Draw rows, and how workers came and went."""
    taken = _Taken(rows)
    if not taken.ended:
        figure = _ShownFigure(figsize=(11, 2))
        figure.text(0.5, 0.5, "No call has ended", ha="center")
        return figure
    kinds = [kind for kind, shares in taken.shares.items() if shares]
    heights = (4, 3, 2) if kinds else (4, 2)
    figure = _ShownFigure(figsize=(11, sum(heights)), layout="constrained")
    # One grid for all: so the two with times begin and end below each other.
    grid = figure.add_gridspec(len(heights), max(len(kinds), 1), height_ratios=heights)
    timeline = figure.add_subplot(grid[0, :])
    queue = figure.add_subplot(grid[-1, :], sharex=timeline)
    begin = min([*taken.submitted, *taken.started, *taken.ended])
    end = max(taken.ended)
    _draw_timeline(timeline, taken.bars, begin, end)
    if kinds:
        first = figure.add_subplot(grid[1, 0])
        others = [figure.add_subplot(grid[1, n], sharey=first) for n in range(1, len(kinds))]
        _draw_used([first, *others], {kind: taken.shares[kind] for kind in kinds})
    _draw_queue(queue, taken, changes, begin, end)
    return figure


class _Taken:
    """What is drawn of the rows."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.bars: list[Bar] = []
        self.submitted: list[float] = []
        self.left: list[float] = []  # when they began, or ended without
        self.started: list[float] = []
        self.ended: list[float] = []
        self.stopped: list[float] = []  # when they ended, of those that began
        self.shares: dict[str, dict[tuple[str, str], list[float]]] = {
            "memory": {},
            "wall_time": {},
        }
        for row in rows:
            self._take(row)

    def _take(self, row: Row) -> None:
        self.ended.append(row.ended)
        if row.submitted is not None:
            self.submitted.append(row.submitted)
            self.left.append(row.ended if row.started is None else row.started)
        if row.started is not None:
            self.started.append(row.started)
            self.stopped.append(row.ended)
            self.bars.append(Bar(row.worker, row.started, row.ended, row.ending))
        of_task = row.task, row.ending
        if row.peak_memory and row.memory_limit:
            self._share("memory", of_task, row.peak_memory / row.memory_limit)
        if row.wall_time is not None and row.wall_time_limit:
            self._share("wall_time", of_task, row.wall_time / row.wall_time_limit)

    def _share(self, kind: str, of_task: tuple[str, str], share: float) -> None:
        self.shares[kind].setdefault(of_task, []).append(share)


def _draw_timeline(axes: Axes, bars: Sequence[Bar], begin: float, end: float) -> None:
    """A bar for each call, in a lane of its worker, in the colour of its ending."""
    least = (end - begin) / _STEPS
    lanes = lanes_of(bars, least)
    shown = lanes[:_MOST_LANES]
    corners, colours = [], []
    for n, lane in enumerate(shown):
        for bar in lane.bars:
            left, right = bar.started - begin, max(bar.ended, bar.started + least) - begin
            corners.append([(left, n - 0.4), (left, n + 0.4), (right, n + 0.4), (right, n - 0.4)])
            colours.append(_COLOURS[bar.ending])
    apart: dict[str, Any] = {"edgecolors": "white", "linewidth": 0.5}  # one after the other
    edges = apart if len(corners) < _MOST_EDGES else {"linewidth": 0}
    axes.add_collection(PolyCollection(corners, facecolors=colours, **edges))
    axes.set_xlim(0, max(end - begin, 1e-3))
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    first: dict[str, int] = {}  # lane of each worker
    for n, lane in enumerate(shown):
        first.setdefault(lane.worker, n)
    names = [name or "this machine" for name in first]
    axes.set_yticks(list(first.values()), names, parse_math=False)
    for n in first.values():
        axes.axhline(n - 0.5, color="#dddddd", linewidth=0.5)
    more = f" (the first {_MOST_LANES} of {len(lanes)} lanes)" if len(lanes) > len(shown) else ""
    title = "Calls by worker" if any(first) else "Calls"
    axes.set_title(f"{title}{more}", loc="left")
    axes.set_xlabel("seconds")
    endings = [ending for ending in _COLOURS if any(bar.ending == ending for bar in bars)]
    patches = [Patch(color=_COLOURS[ending], label=ending) for ending in endings]
    _legend(axes, patches)


def _legend(axes: Axes, handles: Sequence[Any]) -> None:
    """What colours mean, beside the title: within the axes it would hide something."""
    beside: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
    axes.legend(handles=handles, ncols=_MOST_BESIDE, frameon=False, **beside)


def _draw_used(
    all_axes: Sequence[Axes], kinds: Mapping[str, Mapping[tuple[str, str], Sequence[float]]]
) -> None:
    """For each task, what its calls have used as a share of their limit."""
    counts: dict[str, int] = {}
    for shares in kinds.values():
        for (task, _), values in shares.items():
            counts[task] = counts.get(task, 0) + len(values)
    tasks = sorted(counts, key=lambda task: -counts[task])[:_MOST_TASKS]
    for axes, (kind, shares) in zip(all_axes, kinds.items(), strict=True):
        axes.set_title(f"Used of the {kind} limit", loc="left")
        for (task, ending), values in shares.items():
            if task in tasks:
                _draw_strip(axes, tasks.index(task), values, _COLOURS[ending])
        axes.axvline(1, color="#d62728", linewidth=1)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    first, *others = all_axes
    first.set_yticks(range(len(tasks)), tasks, parse_math=False)
    first.set_ylim(len(tasks) - 0.5, -0.5)
    for axes in others:
        axes.tick_params(labelleft=False)


def _draw_strip(axes: Axes, at: int, values: Sequence[float], colour: str) -> None:
    values = values[:: 1 + len(values) // _MOST_POINTS]
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(values))
    axes.scatter(values, at + spread, s=14, color=colour, alpha=0.6, linewidth=0, clip_on=False)


def _without_gaps(counts: Any) -> Any:
    """How many there were, without the moments between one call and the next.

    This is what image processing calls closing: the most within a window, then the least.
    """
    for pick in (np.max, np.min):
        padded = np.pad(counts, _GAP // 2, mode="edge")
        counts = pick(np.lib.stride_tricks.sliding_window_view(padded, _GAP), axis=-1)
    return counts


def _draw_queue(
    axes: Axes, taken: _Taken, changes: Sequence[WorkerChange], begin: float, end: float
) -> None:
    """How many calls waited and ran, and how many workers there were, over time."""
    times = np.linspace(begin, end, _STEPS)

    def there(came: Sequence[float], gone: Sequence[float]) -> Any:
        n_came, n_gone = (np.searchsorted(np.sort(one), times, "right") for one in (came, gone))
        return np.maximum(n_came - n_gone, 0)  # clocks of several machines may differ

    lines = []
    if taken.submitted:
        waiting = there(taken.submitted, taken.left)
        lines += axes.plot(times - begin, waiting, color="#7f7f7f", label="waiting calls")
    running = _without_gaps(there(taken.started, taken.stopped))
    lines += axes.plot(times - begin, running, color="#1f77b4", label="running calls")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("calls")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    known = [(-np.inf, 0), *((at, len(there)) for at, there in workers_over_time(changes))]
    has_workers = any(n for _, n in known)
    if has_workers:
        right = axes.twinx()
        since, counts = zip(*known, strict=True)
        n_workers = np.array(counts)[np.searchsorted(since, times, "right") - 1]
        lines += right.plot(times - begin, n_workers, color="#2ca02c", label="workers")
        right.set_ylim(bottom=0)
        right.set_ylabel("workers")
        right.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_title("Queue and workers" if has_workers else "Queue", loc="left")
    axes.set_xlabel("seconds")
    _legend(axes, lines)
