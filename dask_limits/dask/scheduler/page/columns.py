"""What the page "Limits" shows, as columns of its tables and its plot: numbers and plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from heapq import nlargest
from operator import itemgetter
from typing import Any, Final, TypeAlias

from dask_limits.dask import ended
from dask_limits.dask.ended import ByFunction, Figures, Slots
from dask_limits.dask.running import Row
from dask_limits.dask.scheduler.cluster import TrackedWorker
from dask_limits.units import format_bytes, format_seconds

Columns: TypeAlias = dict[str, list[Any]]

ENDINGS: Final = {
    "returned": "#88ccee",
    "raised": "#ddcc77",
    "cancelled": "#bbbbbb",
    "wall_time": "#ee8866",
    "cpu_time": "#cc6677",
    "memory": "#aa3377",
    "num_processes": "#882255",
    "crashed": "#332288",
    "exited": "#6699cc",
    "refused": "#999933",
    "lost": "#000000",
    "failed": "#555555",
}
"""The ways in which a call can end, and the colour of each."""
MOST: Final = 50
"""How many running calls, and workers, are shown: those that are nearest to a limit. To look at a
thousand calls on 200 workers then takes some 2 ms of the scheduler's loop, each second that someone
looks; showing 200 calls and all workers took 8 ms."""
_LEAST_SLOTS: Final = 6
_MOST_SLOTS: Final = 60
_FORMATS: Final[dict[str, Callable[[Any], str]]] = {
    "memory": lambda amount: format_bytes(int(amount)),
    "wall_time": format_seconds,
    "cpu_time": format_seconds,
    "num_processes": lambda amount: f"{amount:g}",
}


def matching(rows: list[Row], text: str) -> list[Row]:
    """The running calls in whose function, worker or key there is this text, in any case."""
    text = text.lower()
    return [row for row in rows if text in f"{row[2]}\n{row[3]}\n{row[0]}".lower()]


def of_running(rows: list[Row]) -> Columns:
    """A row for each running call, by worker; of very many, those that are nearest to a limit."""
    calls = rows if len(rows) <= MOST else nlargest(MOST, rows, key=_nearest)
    calls = sorted(calls, key=itemgetter(3))  # by worker
    columns: Columns = {
        "worker": [worker for _, _, _, worker, _, _ in calls],
        "function": [function for _, _, function, _, _, _ in calls],
        "key": [str(key) for key, *_ in calls],
    }
    for name, at in _USED.items():
        used = [float(call[5][at]) for call in calls]
        columns |= _bars(name, used, [call[4].get(name) for call in calls], _FORMATS[name])
    return columns


_USED: Final = {name: at for at, name in enumerate(ended.AMOUNTS)}
"""Where in a row of a running call it stands what it has used, by the limit on it."""


def _nearest(row: Row) -> float:
    """The largest part of one of its limits that a call has used; 0 without limits."""
    most, used = 0.0, row[5]
    for name, limit in row[4].items():  # of a thousand calls, so there is no generator here
        if (at := _USED.get(name)) is not None and (part := used[at] / limit) > most:
            most = part
    return most


def _bars(
    name: str,
    amounts: list[float],
    limits: Iterable[float | None],
    text_of: Callable[[Any], str],
) -> Columns:
    """The columns of amounts, their parts of limits, and what to write upon these bars.

    Without a limit the part is -1.
    """
    shares, texts = [], []
    for amount, limit in zip(amounts, limits, strict=True):
        has_limit = limit is not None and 0 < limit < math.inf
        shares.append(amount / limit if limit and has_limit else -1.0)
        texts.append(f"{text_of(amount)} of {text_of(limit)}" if has_limit else text_of(amount))
    return {name: amounts, f"{name}_share": shares, f"{name}_text": texts}


def of_workers(workers: Iterable[TrackedWorker], n_running: Mapping[str, int]) -> Columns:
    """A row for each worker: what is reserved there, and how much there is."""
    there = [*workers]
    if len(there) > MOST:
        there = nlargest(MOST, there, key=lambda one: one.placed.memory / one.resources.memory)
    there.sort(key=lambda worker: worker.name)
    columns: Columns = {
        "worker": [one.name for one in there],
        "address": [one.address for one in there],
        "job": [one.job.job for one in there],
        "running": [n_running.get(one.name, 0) for one in there],
        "state": [_state_of(one) for one in there],
    }
    memory = [float(one.placed.memory) for one in there]
    room = [one.resources.memory for one in there]
    columns |= _bars("memory", memory, room, _FORMATS["memory"])
    cores = [float(one.placed.cores) for one in there]
    return columns | _bars("cores", cores, [one.resources.cores for one in there], "{:g}".format)


def _state_of(worker: TrackedWorker) -> str:
    if worker.leaves_because:
        return f"takes no more calls: {worker.leaves_because}"
    return "" if worker.placed.is_open else "paused"


def of_slots(slots: Slots, now: float) -> Columns:
    """How many calls ended in each span of time, by ending. Times are minutes, up to 0 for now.

    Spans are longer if the first call has ended some time ago.
    """
    last = ended.slot_of(now)
    since = last - min((slot for slot, _ in slots), default=last) + 1
    width = max(1, math.ceil(since / _MOST_SLOTS))
    n_spans = max(math.ceil(since / width), _LEAST_SLOTS)
    minutes = width * ended.SLOT_S / 60
    columns: Columns = {name: [0] * n_spans for name in ENDINGS}
    for (slot, ending), n_calls in slots.items():
        span = (last - slot) // width
        if ending in columns and 0 <= span < n_spans:  # else its worker's clock is wrong
            columns[ending][span] += n_calls
    columns["middle"] = [-(span + 0.5) * minutes for span in range(n_spans)]
    columns["width"] = [0.9 * minutes] * n_spans
    return columns


class FunctionColumns:
    """The table of functions. What is shown of one is made anew only if calls of it have ended."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[int, dict[str, Any]]] = {}  # with how many ended calls

    def of(
        self, functions: ByFunction, waiting: Mapping[str, int], running: Mapping[str, int]
    ) -> Columns:
        """A row for each function, those with the most calls first."""
        rows = [
            {
                **self._row(name, functions.get(name)),
                "waiting": waiting.get(name, 0),
                "running": running.get(name, 0),
            }
            for name in {**functions, **waiting, **running}
        ]
        for row in rows:
            total = row["waiting"] + row["running"] + row["ended"]
            row["ended_share"] = row["ended"] / total if total else -1.0
            row["ended_text"] = f"{row['ended']:,} of {total:,}"
        rows.sort(key=lambda row: -row["ended"] - row["running"] - row["waiting"])
        return {name: [row[name] for row in rows[:MOST]] for name in rows[0]} if rows else {}

    def _row(self, name: str, figures: Figures | None) -> dict[str, Any]:
        n_ended = 0 if figures is None else figures.endings.total()
        n_then, row = self._made.get(name, (-1, {}))
        if n_then != n_ended:
            row = _of_function(name, Figures() if figures is None else figures)
            self._made[name] = n_ended, row
        return row


_SHOWN: Final = ("memory", "wall_time", "cpu_time")


def _of_function(name: str, figures: Figures) -> dict[str, Any]:
    row: dict[str, Any] = {
        "function": name,
        "ended": figures.endings.total(),
        "endings": in_words(figures.endings),
    }
    for amount in _SHOWN:
        spread, text_of = figures.spreads[amount], _FORMATS[amount]
        for column, value in zip(("median", "most"), spread.quantiles(0.5, 0.95), strict=True):
            row[f"{amount}_{column}"] = value
            row[f"{amount}_{column}_text"] = text_of(value) if row["ended"] else ""
        used, limit = spread.nearest or (spread.largest, None)
        bars = _bars(amount, [used], [limit], text_of)
        row |= {column: values[0] for column, values in bars.items()}
        if not row["ended"]:
            row[f"{amount}_text"] = ""
    return row


def in_words(endings: Mapping[str, int]) -> str:
    """How many calls have ended in which way, in the order of `ENDINGS`.

    Example:
        >>> in_words({"memory": 2, "returned": 1000})
        '1,000 returned, 2 memory'
    """
    order = [*ENDINGS, *(endings.keys() - ENDINGS.keys())]
    return ", ".join(f"{endings[name]:,} {name}" for name in order if endings.get(name))
