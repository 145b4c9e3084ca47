"""The program: chooses rows, measures them, and prints one table."""

from __future__ import annotations

import compileall
import sys
from fnmatch import fnmatch
from pathlib import Path

import click
from rich.console import Console

import dask_limits
from benchmarks.all_rows import ROWS
from benchmarks.report import Report, changes_table, table, this_machine
from benchmarks.row import Row
from benchmarks.runner import measured

FILE = click.Path(dir_okay=False, path_type=Path)


def chosen(patterns: tuple[str, ...], *, quick: bool) -> list[Row]:
    """The rows whose names match any of these, or all; with `quick`, those that have a goal."""
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in ROWS):
            raise click.BadParameter(f"There is no row {pattern!r}: {', '.join(ROWS)}")
    return [
        row
        for name, row in ROWS.items()
        if not patterns or any(fnmatch(name, pattern) for pattern in patterns)
        if row.has_goal or not quick
    ]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("rows", nargs=-1)
@click.option("--quick", is_flag=True, help="What has a goal: smaller, one round.")
@click.option("--rounds", type=click.IntRange(min=1), help="How often each side is measured.")
@click.option("--json", "file", type=FILE, help="Write the figures there.")
@click.option(
    "--compare", type=FILE, help="Show what changed by over 15 % since the run that wrote this."
)
def main(
    rows: tuple[str, ...], quick: bool, rounds: int | None, file: Path | None, compare: Path | None
) -> None:
    """Measure ROWS, by default all, beside other libraries: names, or patterns such as 'dask*'."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    # As installers do; where Python writes no bytecode, each process would compile it.
    compileall.compile_dir(Path(dask_limits.__file__).parent, quiet=2)
    before = Report.read(compare) if compare else None
    report = Report(this_machine(), "quick" if quick else "full", [])
    if float(report.machine["load"]) > 0.5:
        click.echo(f"The machine is busy (load {report.machine['load']}).", err=True)
    for row in chosen(rows, quick=quick):
        click.echo(f"{row.name} ...", err=True)
        report.lines.extend(measured(row, report.mode, rounds))
        if file:
            report.write(file)
    console.print(table(report.lines))
    if before:
        console.print(changes_table(before, report))
    sys.exit(any(line.ours is None for line in report.lines))


if __name__ == "__main__":
    main()
