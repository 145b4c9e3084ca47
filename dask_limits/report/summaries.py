"""What the calls of each task have used together, and how they have ended."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan
from shutil import get_terminal_size
from typing import Self

from dask_limits.in_short import cut
from dask_limits.limits.endings import Ending
from dask_limits.report.rows import ROW, Packed
from dask_limits.units import format_bytes, format_seconds

_MOST_LINES = 20  # of a table
_MOST_ENDINGS = 4  # of a line
_WIDTH = 80  # of a table, as text
_NAME = 24  # characters of the name of a task in it
_GAP = "  "
_LEFT_OUT = ("CPU", "longest", "mean", "attempts")
"""The columns that are left out, in this order, where there is no room for the endings."""


@dataclass
class Summary:
    """The calls of one task. Times are in seconds, memory in bytes."""

    endings: Counter[str] = field(default_factory=Counter)  # how often each; with its limit
    n_attempts: int = 0
    runs_again: bool = False  # whether a call has had more than one
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
        self.n_attempts += row.attempts
        self.runs_again = self.runs_again or row.attempts > 1
        self.last = max(self.last, row.ended)
        self.first = min(self.first, row.ended if isnan(row.submitted) else row.submitted)
        if not isnan(row.wall_time):
            self.n_ran += 1
            self.wall_time += row.wall_time
            self.longest = max(self.longest, row.wall_time)
            self.cpu_time += 0 if isnan(row.cpu_time) else row.cpu_time
            self.peak_memory = max(self.peak_memory, row.peak_memory)

    def ended(self) -> list[str]:
        """How many calls have ended how: the most common endings."""
        common = [f"{n:,} {ending}" for ending, n in self.endings.most_common(_MOST_ENDINGS)]
        return common if len(self.endings) <= len(common) else [*common, "..."]

    def cells(self) -> dict[str, str]:
        """The line of a table, without the name of the task, by the heads of its columns."""
        mean = self.wall_time / max(self.n_ran, 1)
        return {
            "calls": f"{self.n_calls:,}",
            "attempts": f"{self.n_attempts:,}",
            "endings": ", ".join(self.ended()),
            "mean": format_seconds(mean) if self.n_ran else "",
            "longest": format_seconds(self.longest) if self.n_ran else "",
            "CPU": format_seconds(self.cpu_time) if self.n_ran else "",
            "memory": format_bytes(self.peak_memory) if self.peak_memory else "",
        }


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

    def lines(self) -> tuple[list[dict[str, str]], str]:
        """The lines of a table, the tasks with the most calls first, and what it leaves out.

        Of each there are the cells by the heads of their columns. There is none of attempts where
        each call had one.
        """
        lines = [{"task": name, **summary.cells()} for name, summary in self._shown()]
        if not any(summary.runs_again for summary in self.values()):
            for line in lines:
                del line["attempts"]
        left = len(self) - len(lines)
        return lines, f"... and {left} more tasks" if left > 0 else ""

    def table(self) -> str:
        """The table as text, as wide as the terminal, and 80 columns where there is none.

        Endings that do not fit go on in the next line; columns that have no room are left out.
        """
        width = max(get_terminal_size((_WIDTH, 24)).columns, _WIDTH)
        lines, rest = self.lines()
        parts = [summary.ended() for _, summary in self._shown()]
        for line in lines:
            line["task"] = cut(line["task"], _NAME)
        least = max(len(part) for ended in parts for part in ended) + 1  # with a comma
        room = _room(lines, width)
        for name in _LEFT_OUT:
            if room >= least:
                break
            for line in lines:
                line.pop(name, None)
            room = _room(lines, width)
        table = [tuple(lines[0])]
        for line, ended in zip(lines, parts, strict=True):
            first, *others = _wrapped(ended, max(room, least))
            line["endings"] = first
            table.append(tuple(line.values()))
            table += [tuple(it if name == "endings" else "" for name in line) for it in others]
        return "\n".join([aligned(table), rest] if rest else [aligned(table)])

    def _shown(self) -> list[tuple[str, Summary]]:
        return sorted(self.items(), key=lambda item: -item[1].n_calls)[:_MOST_LINES]


def _room(lines: Sequence[Mapping[str, str]], width: int) -> int:
    """How wide the column of endings can be."""
    others = [name for name in lines[0] if name != "endings"]
    widths = (max(len(name), *(len(line[name]) for line in lines)) for name in others)
    return width - sum(widths) - len(_GAP) * len(others)


def _wrapped(parts: Iterable[str], width: int) -> list[str]:
    """Parts with commas between them, in as many lines as they need."""
    lines: list[str] = []
    for part in parts:
        if lines and len(f"{lines[-1]}, {part},") <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return [*(f"{line}," for line in lines[:-1]), *lines[-1:]]


def aligned(lines: Iterable[tuple[str, ...]]) -> str:
    """The cells of a table below each other."""
    lines = list(lines)
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join(_GAP.join(cells).rstrip() for cells in padded)
