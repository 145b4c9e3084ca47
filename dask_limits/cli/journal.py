from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dask_limits.cli.options import BadInput
from dask_limits.cli.output import discard_output

if TYPE_CHECKING:
    from dask_limits import Report

_FILE = click.Path(path_type=Path)
_IN_RESULTS: Final = ("journal.sqlite", "journal/run.sqlite")
"""Where `batch` and `search` have theirs."""


@click.group("journal")
def journal_command() -> None:
    """Look at the journal of a run, also while it is being written."""


@journal_command.command("show")
@click.argument("file", type=_FILE)
@click.option("--failed", is_flag=True, help="Show a line for each call that did not return.")
def show_command(file: Path, failed: bool) -> None:
    """Show how the calls in the journal FILE have ended, a line for each task.

    FILE may be the directory of results of `batch` or `search`.

    Exit codes: 0; 2 if the file cannot be read.
    """
    report = _report(file)
    try:
        click.echo(report)
        if failed:
            for row in report:
                if row.ending != "returned":
                    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.ended))
                    click.echo(f"{at}  {row.task}({row.arguments}): {row.ending}: {row.cause}")
    except BrokenPipeError:  # such as of `head`
        discard_output()


@journal_command.command("export")
@click.argument("file", type=_FILE)
@click.argument("table", type=_FILE)
def export_command(file: Path, table: Path) -> None:
    """Write a table with a row for each call in the journal FILE.

    The name of TABLE says what it is: .csv or .parquet. What is there is overwritten.

    Exit codes: 0; 2 if the file cannot be read, or the table not be written.
    """
    report = _report(file)
    try:
        match table.suffix:
            case ".csv":
                report.to_csv(table)
            case ".parquet":
                report.to_parquet(table)
            case _:
                raise BadInput(f"{table} must be named .csv or .parquet.")
    except OSError as error:
        raise BadInput(f"{table} cannot be written: {error.strerror}.") from None
    except ImportError as error:
        raise BadInput(str(error)) from None
    click.echo(f"{len(report):,} calls: {table}")


def _report(file: Path) -> Report:
    from dask_limits import Journal
    from dask_limits.exceptions import JournalError

    inside = [path for name in _IN_RESULTS if (path := file / name).exists()]
    try:
        return Journal((inside or [file])[0]).report()
    except JournalError as error:
        raise BadInput(str(error)) from None
