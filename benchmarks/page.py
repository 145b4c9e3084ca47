"""Writes the figures of docs/measured.json into the documentation: `make docs/measured.md`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from benchmarks.all_rows import GROUPS
from benchmarks.report import PEERS, Report, cells
from benchmarks.runner import ROOT, Line

JSON: Final = ROOT / "docs" / "measured.json"
PAGE: Final = ROOT / "docs" / "measured.md"
README: Final = ROOT / "README.md"

HEAD: Final = """\
# Measured

Written by `make docs/measured.md`, on {date}: {cores} cores ({processor}) at a load of {load},
Linux {kernel}, Python {python}; {peers}.

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


def readme(text: str, report: Report) -> str:
    """The README, with what a call costs in the last column of its table."""
    sides = {
        "dask_limits": report["call/floor"].ours,
        "pynisher": report["call/pynisher"].peer,
        "plain Dask": report["dask/map"].peer,
        "pebble": report["call/pebble"].peer,
        "Ray": report["call/ray"].peer,
    }
    for tool, figure in sides.items():
        if figure:
            ms = 1000 / figure.median if tool == "plain Dask" else figure.median / 1000
            row = rf"^(\| {tool} \|.*\| )[^|(]*?((?: \([^|]*\))? \|)$"
            text = re.sub(row, rf"\g<1>{ms:.2g} ms\g<2>", text, flags=re.MULTILINE)
    return text


if __name__ == "__main__":
    report = Report.read(JSON)
    PAGE.write_text(page(report))
    README.write_text(readme(README.read_text(), report))
