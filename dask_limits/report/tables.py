"""The rows of a report in the forms in which others take them."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dask_limits.report.rows import Row

if TYPE_CHECKING:
    import pandas

_SECONDS: Final = {"wall_time", "cpu_time", "wall_time_limit", "cpu_time_limit"}
_TIMES: Final = {"submitted", "started", "ended"}
_WHOLE: Final = {
    *("peak_memory", "num_processes", "memory_limit", "num_processes_limit", "cores", "attempts"),
}
_BATCH: Final = 10_000
"""Rows that are there as Python objects at a time: some 10 MB."""


def to_csv(rows: Iterable[Row], path: str | PathLike[str]) -> None:
    """Write a file of comma-separated values, with a line of names."""
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        times = [Row._fields.index(name) for name in sorted(_TIMES)]
        for row in rows:
            cells: list[Any] = list(row)
            for n in times:
                cells[n] = "" if cells[n] is None else _moment(cells[n]).isoformat()
            writer.writerow(cells)


def to_parquet(rows: Iterable[Row], path: str | PathLike[str]) -> None:
    """Write a file of Parquet, a batch of rows at a time."""
    pyarrow = needed("pyarrow", "to_parquet()")
    parquet = importlib.import_module("pyarrow.parquet")
    kinds: dict[str, Any] = dict.fromkeys(Row._fields, pyarrow.string())
    kinds |= dict.fromkeys(_SECONDS, pyarrow.float64()) | dict.fromkeys(_WHOLE, pyarrow.int64())
    kinds |= dict.fromkeys(_TIMES, pyarrow.timestamp("us", tz="UTC"))
    with parquet.ParquetWriter(path, pyarrow.schema(kinds)) as writer:
        for columns in _batches(rows):
            for name in _TIMES:
                columns[name] = [None if t is None else round(t * 1e6) for t in columns[name]]
            arrays = [pyarrow.array(columns[name], kind) for name, kind in kinds.items()]
            writer.write_batch(pyarrow.record_batch(arrays, names=list(kinds)))


def to_pandas(rows: Iterable[Row]) -> pandas.DataFrame:
    """Make a data frame, a batch of rows at a time."""
    pandas = needed("pandas", "to_pandas()")
    frames = []
    for columns in _batches(rows):
        series: dict[str, Any] = {}
        for name, values in columns.items():
            if name in _TIMES:
                micro = [None if t is None else round(t * 1e6) for t in values]
                series[name] = pandas.to_datetime(
                    pandas.array(micro, dtype="Int64"), unit="us", utc=True
                )
            elif name in _WHOLE:
                series[name] = pandas.array(values, dtype="Int64")
            elif name in _SECONDS:
                series[name] = pandas.Series(values, dtype="float64")
            else:
                series[name] = values
        frames.append(pandas.DataFrame(series))
    return pandas.concat(frames, ignore_index=True)  # type: ignore[no-any-return]


def needed(module: str, by: str) -> Any:
    """A module of the extra `report`.

    Raises:
        ImportError: if it is not there. The message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f"{by} of a report needs {name}: run pip install 'dask-limits[report]' ({error})"
        ) from error


def _batches(rows: Iterable[Row]) -> Iterator[dict[str, list[Any]]]:
    """The columns of so many rows after the other; once without rows if there are none."""
    rows = iter(rows)
    batch = list(islice(rows, _BATCH))
    while True:
        columns = map(list, zip(*batch, strict=True)) if batch else ([] for _ in Row._fields)
        yield dict(zip(Row._fields, columns, strict=True))
        if not (batch := list(islice(rows, _BATCH))):
            return


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
