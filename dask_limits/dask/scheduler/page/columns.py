"""What the page "Limits" shows, as columns of its tables and its plot: numbers and plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from dask_limits.dask import ended
from dask_limits.dask.ended import ByFunction, Slots
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
MOST_CALLS: Final = 200
"""How many running calls are shown. Ten times as many would take 10 ms of the scheduler's loop each
second, for each who looks."""
_MOST_WORKERS: Final = 500
_LEAST_SLOTS: Final = 6
_MOST_SLOTS: Final = 60
_FORMATS: Final[dict[str, Callable[[Any], str]]] = {
    "memory": lambda amount: format_bytes(int(amount)),
    "wall_time": format_seconds,
    "cpu_time": format_seconds,
    "num_processes": lambda amount: f"{amount:g}",
}


def of_running(rows: list[Row]) -> Columns:
    """A row for each running call, by worker; of very many, those that are nearest to a limit."""
    shares = [_nearest(row[4], row[5]) for row in rows]
    numbers = sorted(range(len(rows)), key=lambda n: -shares[n])[:MOST_CALLS]
    numbers.sort(key=lambda n: rows[n][3])  # by worker
    calls = [rows[n] for n in numbers]
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


def _nearest(limits: Mapping[str, Any], used: Sequence[float]) -> float:
    """The largest part of one of its limits that a call has used; 0 without limits."""
    parts = (used[at] / limits[name] for name, at in _USED.items() if limits.get(name))
    return max(parts, default=0.0)


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
    there = sorted(workers, key=lambda worker: worker.name)[:_MOST_WORKERS]
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


def of_functions(functions: ByFunction) -> Columns:
    """A row for each function, those with the most calls first."""
    rows = sorted(functions.items(), key=lambda item: -item[1].endings.total())
    columns: Columns = {
        "function": [name for name, _ in rows],
        "calls": [figures.endings.total() for _, figures in rows],
        "endings": [in_words(figures.endings) for _, figures in rows],
    }
    for name in ended.AMOUNTS:
        spreads, text_of = [figures.spreads[name] for _, figures in rows], _FORMATS[name]
        for column, part in (("median", 0.5), ("most", 0.95)):
            values = [spread.quantile(part) for spread in spreads]
            columns[f"{name}_{column}"] = values
            columns[f"{name}_{column}_text"] = [text_of(value) for value in values]
        largest = [one.largest if one.nearest is None else one.nearest[0] for one in spreads]
        limits = [None if one.nearest is None else one.nearest[1] for one in spreads]
        columns |= _bars(name, largest, limits, text_of)
    return columns


def in_words(endings: Mapping[str, int]) -> str:
    """How many calls have ended in which way, in the order of `ENDINGS`.

    Example:
        >>> in_words({"memory": 2, "returned": 1000})
        '1,000 returned, 2 memory'
    """
    order = [*ENDINGS, *(endings.keys() - ENDINGS.keys())]
    return ", ".join(f"{endings[name]:,} {name}" for name in order if endings.get(name))
