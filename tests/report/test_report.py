"""The forms in which a report is handed on."""

from __future__ import annotations

import csv
import subprocess
import sys
from datetime import UTC, datetime
from math import nan
from pathlib import Path

import pandas
import pyarrow.parquet
import pytest

from dask_limits import Limits, Report, Usage
from dask_limits.limits.endings import Ending
from dask_limits.report import Recorder
from dask_limits.report.endings import CANCELLED, RETURNED, End
from dask_limits.report.recorder import _CHUNK
from dask_limits.report.rows import Row

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
LIMITS = Limits(memory="1 GiB", wall_time=60)


def made(n_calls: int = 3) -> Report:
    """A report of some calls, the last two of which did not return."""
    recorder = Recorder()
    usage = Usage(2.0, 1.0, 2**20, started=NOON + 1)
    for n in range(n_calls - 2):
        about = "w1", "", NOON, NOON + 3, 1
        recorder.add_row("fit", f"fit-{n}", RETURNED, usage, LIMITS, *about)
    over = End(Ending.BREACH, "memory", "MemoryBreach", "a.py:3 in fit")
    recorder.add_row("fit", "a", over, usage, LIMITS, "w2", "job7", NOON, NOON + 3, 2)
    recorder.add_row("=fit", "b", CANCELLED, None, Limits(), "", "", NOON, NOON + 9, 1)
    return recorder.report()


def test_a_data_frame_has_the_rows_and_types_of_their_fields() -> None:
    """Times are in UTC, and what is not known is missing."""
    frame = made().to_pandas()
    assert tuple(frame.columns) == Row._fields
    assert list(frame["ending"]) == ["returned", "breach", "cancelled"]
    assert frame["started"][0] == pandas.Timestamp("2026-01-01 12:00:01", tz="UTC")
    assert frame["peak_memory"].dtype == "Int64"
    assert list(frame["peak_memory"].isna()) == [False, False, True]
    assert frame["wall_time"].sum() == 4.0
    assert pandas.isna(frame["started"][2])
    assert frame["attempts"].sum() == 4


def test_a_parquet_file_has_them(tmp_path: Path) -> None:
    """It is written in batches, and read by anybody."""
    made(_CHUNK + 12).to_parquet(tmp_path / "calls.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "calls.parquet")
    assert (table.num_rows, table.column_names) == (_CHUNK + 12, list(Row._fields))
    last = table.slice(_CHUNK + 10).to_pylist()
    assert [row["cause"] for row in last] == ["memory", ""]
    assert last[0]["started"] == datetime.fromtimestamp(NOON + 1, UTC)
    assert [row["memory_limit"] for row in last] == [2**30, None]


def test_a_csv_file_has_them(tmp_path: Path) -> None:
    """It needs no other package."""
    made().to_csv(tmp_path / "calls.csv")
    with (tmp_path / "calls.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == ["fit-0", "a", "b"]
    assert [row["started"] for row in rows] == [*["2026-01-01T12:00:01+00:00"] * 2, ""]
    assert [row["peak_memory"] for row in rows] == ["1048576", "1048576", ""]


def test_it_is_shown_as_a_table_of_the_tasks() -> None:
    """It says how often each ending occurred, what calls used, and how often they were started."""
    lines = repr(made(5)).splitlines()
    assert lines[0] == "5 calls in 9 s"
    head = "task calls attempts endings mean longest CPU memory"
    assert " ".join(lines[1].split()) == head
    assert " ".join(lines[2].split()) == "fit 4 5 3 returned, 2 s 2 s 4 s 1.0 MiB"
    assert lines[3].strip() == "1 breach (memory)"
    assert lines[4].split() == ["=fit", "1", "1", "1", "cancelled"]
    page = made(5)._repr_html_()
    assert "attempts" in page and "3 returned, 1 breach (memory)" in page


def test_without_a_second_attempt_it_has_no_column_of_attempts() -> None:
    """Most runs have none."""
    recorder = Recorder()
    recorder.add_row("fit", "b", CANCELLED, None, Limits(), "", "", NOON, NOON + 9, 0)
    recorder.add_row("fit", "b", RETURNED, None, Limits(), "", "", NOON, NOON + 9, 1)
    assert "attempts" not in repr(recorder.report())
    assert "attempts" not in recorder.report()._repr_html_()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["fit", "train_a_pipeline_with_a_very_long_name"])
@pytest.mark.parametrize("kind", ["memory", "num_processes"])
@pytest.mark.parametrize("attempts", [1, 2])
def test_the_table_is_as_wide_as_the_terminal(
    columns: int, name: str, kind: str, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All endings are in it, in further lines where they do not fit."""
    monkeypatch.setenv("COLUMNS", str(columns))
    recorder = Recorder()
    usage = Usage(1234.5, 1234.5, 700 * 2**20, started=NOON)
    ends = [*[End(Ending.BREACH, kind)] * 12_000, End(Ending.REFUSED, kind)]
    ends += [RETURNED, End(Ending.RAISED, "ValueError")]
    for end in ends:
        recorder.add_row(name, "b", end, usage, LIMITS, "", "", NOON, NOON + 9, attempts)
    text = repr(recorder.report())
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns, text
    for part in (f"12,000 breach ({kind})", f"1 refused ({kind})", "1 returned", "1 raised"):
        assert part in text, text
    assert "12,003" in lines[2] and "700.0 MiB" in lines[2]
    assert ("longest" in lines[1]) >= (columns == 120)


def test_without_calls_it_is_empty_and_says_so(tmp_path: Path) -> None:
    """Each form works without rows."""
    report = Recorder().report()
    assert (len(report), repr(report)) == (0, "No call has ended")
    assert len(report.to_pandas()) == 0
    report.to_csv(tmp_path / "calls.csv")
    report.to_parquet(tmp_path / "calls.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "calls.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("call", "missing"),
    [("to_pandas()", "pandas"), ("to_parquet('x')", "pyarrow"), ("plot()", "matplotlib")],
)
def test_the_error_of_a_missing_package_has_the_command_that_installs_it(
    call: str, missing: str
) -> None:
    """Everything else of a report works without it."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from dask_limits import Scheduler; report = Scheduler.with_sequential().report()\n"
        f"print(report, report.suggest_limits()); report.{call}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("No call has ended")
    how = "run pip install 'dask-limits[report]'"
    assert f"ImportError: {call.split('(')[0]}() of a report needs {missing}: {how}" in done.stderr


def test_a_row_of_unknown_times_is_written(tmp_path: Path) -> None:
    """When an annotated task was submitted is not known."""
    recorder = Recorder()
    usage = Usage(2.0, 1.0, started=NOON)
    recorder.add_row("fit", "k", RETURNED, usage, LIMITS, "", "", nan, NOON + 3, 1)
    report = recorder.report()
    assert repr(report).startswith("1 call in 0 s")
    assert pandas.isna(report.to_pandas()["submitted"][0])
