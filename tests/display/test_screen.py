"""A moment of a run, laid out for terminals of all sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len

from dask_limits.display.run_view import Amount, EndedRow, RunningRow, RunView
from dask_limits.display.screen import ASCII, draw

MIB = 2**20
ROW = RunningRow(
    task="fit_人人人人人人人人人人人人",
    arguments="人" * 50 + ", depth=3",
    age=12.3,
    worker="SLURMCluster-17",
    attempt=2,
    wall_time=Amount(12.3, 60),
    cpu_time=Amount(55, 60),
    memory=Amount(250 * MIB, 300 * MIB),
    num_processes=Amount(3, 8),
)
FAILURE = EndedRow(
    at=0.0,
    task="fit",
    arguments="10, depth=3",
    ending="memory",
    cause="went over its memory limit of 300.0 MiB: it had 301.2 MiB",
    where="/home/ada/models/fit.py:12 in fit",
    worker="SLURMCluster-16",
    attempts=2,
)
VIEW = RunView(
    executor="Dask cluster",
    state="running",
    elapsed=83.0,
    running=(ROW,) * 60,
    n_running=100,
    n_waiting=700,
    counts={"memory": 3, "returned": 190, "raised": 7},
    rate=4.0,
    n_left=800,
    time_left=200.0,
    cluster=("2 workers, 4 cores, 8.0 GiB", *(f"{n} jobs PENDING (Odd {n})" for n in range(2, 9))),
    failures=(FAILURE,) * 20,
    n_reruns=1,
    n_retries=2,
)


def lines_of(view, width, height, **options):
    return ["".join(part.text for part in line) for line in draw(view, width, height, **options)]


@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 12, 23, 49])
@pytest.mark.parametrize(
    "view",
    [
        VIEW,
        replace(VIEW, failures=(), cluster=()),
        replace(VIEW, running=(), n_running=0),
        replace(VIEW, running=(replace(ROW, memory=Amount(), worker=""),), n_running=1),
        RunView("Dask cluster", "starting", 0.0),
    ],
    ids=["all", "no failures", "nothing runs", "one runs", "start"],
)
def test_it_is_never_higher_or_wider_than_the_terminal(view, height):
    for width in (1, 2, 7, 20, 39, 40, 59, 60, 79, 80, 119, 120, 200, 500):
        lines = lines_of(view, width, height)
        assert len(lines) <= height
        assert max(map(cell_len, lines)) <= width


def test_80_columns_have_bars_and_200_have_figures_too():
    narrow, wide = lines_of(VIEW, 80, 23), lines_of(VIEW, 200, 49)
    assert len(narrow) == 23 and len(wide) == 49
    assert narrow[:2] == ["Dask cluster running, 83 s", "190 returned  7 raised  3 memory"]
    assert narrow[2].startswith("100 running  700 waiting  4.0/s  800 left  about 3 min to go")
    assert "2 workers, 4 cores, 8.0 GiB" in "\n".join(narrow)
    (row, *_), (wide_row, *_) = ([li for li in lines if "12 s" in li] for lines in (narrow, wide))
    assert "250.0 MiB" in row and "SLURMClus..." in row and "━" in row and "60 s" not in row
    for part in (
        "12 s of 60 s",
        "55 s of 60 s",
        "250.0 MiB of 300.0 MiB",
        "3 of 8",
        "SLURMCluster-17",
    ):
        assert part in wide_row
    assert wide[-1].endswith("/home/ada/models/fit.py:12 in fit  SLURMCluster-16")
    assert "memory limit of 300.0 MiB: it had 301.2 MiB (attempt 2)" in wide[-1]
    assert narrow[-1].endswith("fit.py:12 in fit  SLURMCluster-16")


def test_what_there_is_no_room_for_is_counted():
    lines = lines_of(VIEW, 80, 23)
    n_rows = sum("12 s" in line for line in lines)
    assert n_rows > 5 and f"and {100 - n_rows} more" in lines
    assert "and 5 more lines" in lines_of(VIEW, 40, 23)


def test_a_bar_turns_yellow_and_red_as_the_limit_comes_near():
    def colour(share):
        row = RunningRow("fit", "", 1.0, wall_time=Amount(share * 60, 60))
        line = draw(RunView("threads", "running", 1.0, (row,), 1), 80, 20)[-1]
        return next(part.style.color.name for part in line if "━" in part.text)

    assert [colour(share) for share in (0.2, 0.69, 0.7, 0.9, 1, 5)] == [
        *("green", "green", "yellow", "red", "red", "red")
    ]


def test_without_unicode_bars_are_drawn_in_ascii():
    view = replace(VIEW, running=(replace(ROW, task="fit", arguments="10"),), n_running=1)
    assert "".join(lines_of(view, 80, 23, bars=ASCII)).isascii()


def test_a_run_that_has_ended_without_a_call_says_so():
    view = RunView("2 threads", "exhausted", 0.1)
    what = "nothing was submitted: submit in a callback of @scheduler.on_start"
    assert what in lines_of(view, 80, 23)
    assert "nothing" not in str(lines_of(RunView("2 threads", "running", 0.1), 80, 23))


def test_a_failure_says_which_call_it_was_in_80_columns_too():
    failure = replace(FAILURE, worker="", attempts=1, where="fit.py:12 in fit")
    view = RunView(
        "2 processes", "running", 83.0, failures=(failure, replace(failure, task="a" * 99))
    )
    short, long = lines_of(view, 80, 23)[-2:]
    assert short[9:] == "fit(10, depth=3)  memory limit of 300.0 MiB: it ha...  fit.py:12 in fit"
    assert "aaa...  memory limit" in long and max(map(cell_len, (short, long))) <= 80
    assert lines_of(view, 59, 23)[-2].startswith("fit(10, depth=3)  memory")


def test_what_came_from_a_journal_is_counted_apart_and_is_part_of_what_is_done():
    view = RunView(
        *("2 threads", "running", 9.0), counts={"returned": 1}, n_left=10, n_from_journal=9
    )
    lines = lines_of(view, 80, 23)
    assert lines[1] == "1 returned  9 from the journal"
    assert lines[-1].endswith(" 50%")
    assert "nothing" not in str(lines_of(replace(view, state="exhausted", counts={}), 80, 23))
