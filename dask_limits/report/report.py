from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING

from dask_limits.report import tables
from dask_limits.report.places import WorkerChange, places_at_most
from dask_limits.report.rows import ROW, Row, unpacked
from dask_limits.report.suggestions import Suggestions, suggest
from dask_limits.report.summaries import Summaries
from dask_limits.units import format_seconds

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class Report:
    """The calls that have ended, a row each: what each has used, how it has ended, and where.

    `scheduler.report()`, `executor.report()` of a [LimitedExecutor][dask_limits.LimitedExecutor],
    and `usages(client).report()` return one. Iterating over it yields the rows, in the order in
    which the calls ended; `len()` is their number, and `repr()` a table of the tasks. The last
    million calls have rows. What was before is in the table alone.

    Of at most 20,000 different texts, arguments of calls that returned take half, and those of
    others three quarters. Once that is full, the `arguments` of further calls are "...".

    Attributes:
        n_older: How many calls have no row any more.

    Example:
        >>> from dask_limits import LimitedExecutor
        >>> with LimitedExecutor(1, memory="1 GiB", wall_time=60) as executor:
        ...     sizes = list(executor.map(lambda n: len(bytearray(n)), [10**6, 2 * 10**6]))
        >>> report = executor.report()
        >>> len(report), [row.ending for row in report]
        (2, ['returned', 'returned'])
        >>> print(report.suggest_limits()[0].line)
        limit(fn, memory="16 MiB", wall_time="1 s")
    """

    def __init__(
        self,
        chunks: tuple[bytes, ...],
        texts: Mapping[int, str],
        older: Summaries,
        changes: tuple[WorkerChange, ...],
        slots: int,
    ) -> None:
        self.n_older = older.n_calls
        self._chunks = chunks
        self._texts = texts
        self._older = older
        self._changes = changes
        self._slots = slots

    def __len__(self) -> int:
        return sum(map(len, self._chunks)) // ROW.size

    def __iter__(self) -> Iterator[Row]:
        for chunk in self._chunks:
            for fields in ROW.iter_unpack(chunk):
                yield unpacked(fields, self._texts)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with a row for each call.

        The columns are the fields of the rows, times are in UTC, and what is not known is NA.

        Raises:
            ImportError: without pandas.
        """
        return tables.to_pandas(self)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write a CSV file with a line for each call, after a line with the names of the fields.

        Args:
            path: The file. What is there is overwritten.

        Raises:
            OSError: if it cannot be written.
        """
        tables.to_csv(self, path)

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write a Parquet file with a row for each call.

        Args:
            path: The file. What is there is overwritten.

        Raises:
            ImportError: without pyarrow.
            OSError: if it cannot be written.
        """
        tables.to_parquet(self, path)

    def plot(self) -> Figure:
        """Draw a timeline by worker, what was used of limits, and queue and workers over time.

        `report.plot().savefig("run.png")` writes it to a file; as the last line of a cell of a
        notebook it shows itself.

        Returns:
            A figure of Matplotlib, which `pyplot` does not know.

        Raises:
            ImportError: without Matplotlib.
        """
        tables.needed("matplotlib", "plot()")
        from dask_limits.report import drawing

        return drawing.draw(self, self._changes)

    def suggest_limits(self, quantile: float = 0.99, headroom: float = 1.2) -> Suggestions:
        """Suggest limits for each task, by what its calls have used.

        It goes by the calls that returned, and by those that went over a limit, which need more
        than they were given. Where too many did, what they need is not known; then twice the limit
        is suggested, and a note says so.

        Args:
            quantile: The share of the calls that are to keep all the limits, more than 0 and at
                most 1.
            headroom: The factor between what they have used and the limit, 1 or more. The result
                is rounded up to two figures, and at least 1 s and 16 MiB.

        Returns:
            A tuple of suggestions, the tasks with the most calls first. As text it is a table,
            with how many calls would fit beside each other, and the line to paste.

        Raises:
            ValueError: for a number out of its range.
            TypeError: for what is no number.
        """
        places = places_at_most(self._changes, self._slots)
        return suggest(self, places, quantile, headroom)

    def __repr__(self) -> str:
        tasks = self._summaries()
        return f"{self._title(tasks)}\n{tasks.table()}" if tasks else self._title(tasks)

    def _repr_html_(self) -> str:
        from dask_limits.html.elements import heading, note, table, view

        tasks = self._summaries()
        lines, rest = tasks.lines()
        cells = [tuple(line.values()) for line in lines]
        head = tuple(lines[0]) if lines else ()
        return view(heading(self._title(tasks)), table(cells, head), note(rest))

    def _summaries(self) -> Summaries:
        tasks = self._older.copy()
        for chunk in self._chunks:
            tasks.add_chunk(chunk, self._texts)
        return tasks

    def _title(self, tasks: Summaries) -> str:
        if not tasks:
            return "No call has ended"
        n = tasks.n_calls
        title = f"{n:,} {'call' if n == 1 else 'calls'} in {format_seconds(tasks.seconds)}"
        if self.n_older:
            title += f"; the first {self.n_older:,} have no rows any more"
        return title
