"""What the calls of each task have used together, and how they have ended."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf, isnan
from typing import Self

from dask_limits.limits.endings import Ending
from dask_limits.report.rows import ROW, Packed
from dask_limits.units import format_bytes, format_seconds

_MOST_LINES = 20  # of a table
_MOST_ENDINGS = 4  # of a line


@dataclass
class Summary:
    """The calls of one task. Times are in seconds, memory in bytes."""

    endings: Counter[str] = field(default_factory=Counter)  # how often each; with its limit
    n_ran: int = 0
    wall_time: float = 0.0
    longest: float = 0.0
    cpu_time: float = 0.0
    peak_memory: int = 0
    first: float = inf  # submitted; in seconds since 1970
    last: float = -inf  # ended

    @property
    def n_calls(self) -> int:
        """How many calls there are."""
        return self.endings.total()

    def add(self, row: Packed, texts: Mapping[int, str]) -> None:
        """Add a call."""
        ending = Ending(row.ending).name.lower()
        if row.ending in (Ending.BREACH, Ending.REFUSED):
            ending += f" ({texts[row.cause]})"
        self.endings[ending] += 1
        self.last = max(self.last, row.ended)
        self.first = min(self.first, row.ended if isnan(row.submitted) else row.submitted)
        if not isnan(row.wall_time):
            self.n_ran += 1
            self.wall_time += row.wall_time
            self.longest = max(self.longest, row.wall_time)
            self.cpu_time += 0 if isnan(row.cpu_time) else row.cpu_time
            self.peak_memory = max(self.peak_memory, row.peak_memory)

    def cells(self) -> tuple[str, ...]:
        """The line of a table, without the name of the task."""
        common = self.endings.most_common(_MOST_ENDINGS)
        endings = ", ".join(f"{n:,} {ending}" for ending, n in common)
        if len(self.endings) > len(common):
            endings += ", ..."
        mean = self.wall_time / max(self.n_ran, 1)
        return (
            f"{self.n_calls:,}",
            endings,
            format_seconds(mean) if self.n_ran else "",
            format_seconds(self.longest) if self.n_ran else "",
            format_seconds(self.cpu_time) if self.n_ran else "",
            format_bytes(self.peak_memory) if self.peak_memory else "",
        )


class Summaries(dict[str, Summary]):
    """The calls of all tasks, by the names of these."""

    def add_chunk(self, chunk: bytes, texts: Mapping[int, str]) -> None:
        """Add packed rows."""
        for fields in ROW.iter_unpack(chunk):
            row = Packed._make(fields)
            task = texts[row.task]
            if task not in self:
                self[task] = Summary()
            self[task].add(row, texts)

    def copy(self) -> Self:
        """The same, which does not change with these."""
        return copy.deepcopy(self)

    @property
    def n_calls(self) -> int:
        """How many calls there are."""
        return sum(summary.n_calls for summary in self.values())

    @property
    def seconds(self) -> float:
        """From the first submission to the last end."""
        first = min((summary.first for summary in self.values()), default=0.0)
        return max((summary.last for summary in self.values()), default=0.0) - first

    def lines(self) -> tuple[list[tuple[str, ...]], str]:
        """The lines of a table, the tasks with the most calls first, and what it leaves out."""
        by_number = sorted(self.items(), key=lambda item: -item[1].n_calls)
        lines = [(task, *summary.cells()) for task, summary in by_number[:_MOST_LINES]]
        left = len(self) - len(lines)
        return lines, f"... and {left} more tasks" if left > 0 else ""

    def table(self) -> str:
        """The table as text."""
        lines, rest = self.lines()
        text = aligned([HEAD, *lines])
        return f"{text}\n{rest}" if rest else text


HEAD = ("task", "calls", "endings", "wall time", "longest", "CPU time", "peak memory")


def aligned(lines: Iterable[tuple[str, ...]]) -> str:
    """The cells of a table below each other."""
    lines = list(lines)
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
