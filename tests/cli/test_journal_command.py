"""`dask-limits journal`: what is in the file of a run."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from dask_limits import Scheduler
from dask_limits.cli import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.sqlite"
    scheduler = Scheduler.with_threads(2)
    scheduler.on_start(lambda: [scheduler.submit(int, text) for text in "12x"] and None)
    scheduler.run(journal=path, on_exception="continue")
    return path


def journal(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["journal", *map(str, arguments)])


def test_show_has_a_line_for_each_task(file):
    done = journal("show", file)
    assert done.exit_code == 0
    assert "3 calls" in done.output
    assert "2 returned, 1 raised" in done.output


def test_show_finds_the_journal_of_a_batch(file):
    file.rename(file.parent / "journal.sqlite")
    assert "3 calls" in journal("show", file.parent).output


def test_show_failed_has_a_line_for_each_call_that_failed(file):
    (line,) = journal("show", "--failed", file).output.splitlines()[3:]
    assert "int('x'): raised: ValueError: invalid literal" in line


def test_export_writes_a_row_for_each_call(file, tmp_path):
    assert journal("export", file, tmp_path / "calls.csv").output.startswith("3 calls: ")
    with (tmp_path / "calls.csv").open() as lines:
        assert sorted(row["ending"] for row in csv.DictReader(lines)) == [
            *("raised", "returned", "returned")
        ]
    journal("export", file, tmp_path / "calls.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "calls.parquet").num_rows == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "no.sqlite"), "cannot be read: No such file"),
        (("export", "{file}", "calls.txt"), "must be named .csv or .parquet"),
        (("export", "{file}", "no/calls.csv"), "cannot be written: No such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments, words, file):
    done = journal(*(argument.format(file=file) for argument in arguments))
    assert done.exit_code == 2
    assert words in done.output
    assert "Traceback" not in done.output
