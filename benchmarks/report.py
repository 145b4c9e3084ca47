"""What a run has measured: as a table, as JSON, and what has changed since another run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.row import Mode
from benchmarks.runner import Figure, Line

PEERS: Final = ("amltk", "distributed", "joblib", "loky", "parsl", "pebble", "pynisher", "ray")
CHANGED: Final = 0.15
"""A figure that differs by more than this is shown as changed; most vary by less by run."""
COLUMNS: Final = ("", "beside", "ours", "theirs", "ratio", "goal", "met")
CAPTION: Final = (
    "Each figure is the median of its rounds, with the least and the most. A ratio is ours to"
    " theirs: where the goal is ≥, of the speed, else of the figures."
)


@dataclass(frozen=True)
class Report:
    """The lines of a run, and where it took place."""

    machine: dict[str, str]
    mode: Mode
    lines: list[Line]

    def write(self, file: Path) -> None:
        """As JSON, each line of the table in a line of its own."""
        lines = ",\n".join(json.dumps(asdict(line), ensure_ascii=False) for line in self.lines)
        head = f'{{"machine": {json.dumps(self.machine)},\n"mode": "{self.mode}",\n"lines": [\n'
        file.write_text(f"{head}{lines}\n]}}\n")

    @classmethod
    def read(cls, file: Path) -> Report:
        found = json.loads(file.read_text())
        lines = [Line(**figures(line)) for line in found["lines"]]
        return cls(found["machine"], found["mode"], lines)

    def __getitem__(self, name: str) -> Line:
        """The line of this name."""
        return next(line for line in self.lines if line.name == name)


def figures(line: dict[str, Any]) -> dict[str, Any]:
    return line | {
        side: line[side] and Figure(**{key: float(x) for key, x in line[side].items()})
        for side in ("ours", "peer")
    }


def this_machine() -> dict[str, str]:
    models = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": date.today().isoformat(),
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
    } | {name: version for name in PEERS if (version := installed(name))}


def installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def number(x: float | None) -> str:
    """With three digits."""
    if x is None:
        return ""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def cell(figure: Figure | None, unit: str) -> str:
    if figure is None:
        return ""
    spread = f" ({number(figure.least)} to {number(figure.most)})"
    return f"{number(figure.median)} {unit}" + (spread if figure.least != figure.most else "")


def cells(line: Line) -> tuple[str, ...]:
    """What stands in the columns."""
    return (
        line.what,
        line.beside,
        cell(line.ours, line.unit) or line.missing,
        cell(line.peer, line.unit) or (line.missing if line.beside and line.ours else ""),
        number(line.ratio),
        line.goal + (f" {line.unit}" if line.goal and not line.beside else ""),
        {None: "", True: "yes", False: "no"}[line.met],
    )


def table(lines: Iterable[Line]) -> Table:
    made = Table(*COLUMNS, caption=CAPTION)
    before = ""
    for line in lines:
        what, *others = cells(line)
        made.add_row("" if what == before else what, *others)
        before = what
    return made


def changes(before: Report, now: Report) -> Iterator[tuple[str, str, float, float]]:
    """What differs by more than 15 %: the line, which figure of it, before and now."""
    known = named_figures(before)
    for (name, which), is_now in named_figures(now).items():
        was = known.get((name, which))
        if was and is_now is not None and abs(is_now / was - 1) > CHANGED:
            yield name, which, was, is_now


def named_figures(report: Report) -> dict[tuple[str, str], float | None]:
    """All figures by line; ours, which are the same beside each peer, by row."""
    found = {}
    for line in report.lines:
        found[line.name.partition("/")[0], "ours"] = median(line.ours)
        found[line.name, "theirs"] = median(line.peer)
        found[line.name, "ratio"] = line.ratio
    return found


def median(figure: Figure | None) -> float | None:
    return figure.median if figure else None


def changes_table(before: Report, now: Report) -> Table:
    title = f"Changed by more than {CHANGED:.0%} since {before.machine['date']}"
    if before.mode != now.mode:
        title += f" (a {now.mode} run beside a {before.mode} one)"
    made = Table("line", "figure", "before", "now", "change", title=title)
    for name, which, was, is_now in changes(before, now):
        made.add_row(name, which, number(was), number(is_now), f"{is_now / was - 1:+.0%}")
    return made
