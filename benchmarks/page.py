"""Writes docs/measured.md from docs/measured.json: `make docs/measured.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from benchmarks.all_rows import GROUPS
from benchmarks.report import PEERS, Report, cells
from benchmarks.runner import ROOT, Line

JSON: Final = ROOT / "docs" / "measured.json"
PAGE: Final = ROOT / "docs" / "measured.md"

HEAD: Final = """\
# Measured

Written by `make docs/measured.md`, on {date}: {cores} cores ({processor}), Linux {kernel},
Python {python}; {peers}.

Each side is measured in a process of its own, in rounds that alternate. A figure is the median of
its rounds, with the least and the most. A ratio is ours to theirs: where the goal is ≥, of the
speed, else of the figures. What is limited has limits of wall time and memory.
"""
COLUMNS: Final = ("", "ours", "beside", "theirs", "ratio", "goal")


def page(report: Report) -> str:
    peers = ", ".join(f"{name} {report.machine[name]}" for name in PEERS if name in report.machine)
    parts = [HEAD.format(peers=peers, **report.machine)]
    for title, rows in GROUPS.items():
        names = {row.name for row in rows}
        lines = [one for one in report.lines if one.name.partition("/")[0] in names]
        parts.append("\n".join(section(title, lines)) + "\n")
    return "\n".join(parts)


def section(title: str, lines: Iterable[Line]) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"| {' | '.join(COLUMNS)} |"
    yield "| --- " * len(COLUMNS) + "|"
    before = ""
    for line in lines:
        what, beside, ours, theirs, ratio, goal, met = cells(line)
        shown = ("", "") if what == before else (what, ours)
        goal += " (not met)" if met == "no" else ""
        yield f"| {' | '.join((*shown, beside, theirs, ratio, goal))} |"
        before = what


def of_the_readme(report: Report) -> dict[str, str]:
    """What a call costs with each, as the README's table has it."""
    lines = {
        "dask_limits": report["call/floor"].ours,
        "pynisher": report["call/pynisher"].peer,
        "plain Dask": report["dask/map"].peer,
        "pebble": report["call/pebble"].peer,
        "Ray": report["call/ray"].peer,
    }
    return {
        tool: f"{1000 / figure.median if tool == 'plain Dask' else figure.median / 1000:.2g} ms"
        for tool, figure in lines.items()
        if figure
    }


if __name__ == "__main__":
    PAGE.write_text(page(Report.read(JSON)))
