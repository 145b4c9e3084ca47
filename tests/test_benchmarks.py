"""The benchmarks: each row runs, in a tiny size; what a run says of its figures is right."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from measuring import program
from required import need

from benchmarks import runner
from benchmarks.all_rows import GROUPS, ROWS
from benchmarks.page import JSON, PAGE, README, page, readme
from benchmarks.report import Report, changes, this_machine
from benchmarks.row import Goal, Peer, Row, at_least, at_most
from benchmarks.runner import Figure, Line, line, measured

ALL_SIDES = """
import sys
from benchmarks.all_rows import ROWS
row = ROWS[sys.argv[1]]
for name, measure in row.sides.items():
    if callable(measure):
        try:
            figure = measure(row.tiny)
        except ModuleNotFoundError as error:
            if name == "ours" or error.name.split(".")[0] in {"benchmarks", "dask_limits"}:
                raise
        else:
            amount = row.unit in {"KiB", "MiB", "copies", "% of a core"}
            may_be_zero = amount or "overshoot" in row.name
            assert figure > 0 or may_be_zero, (name, figure)
            print("measured", name)
"""
"""Measures a row in one process, which is quicker. A peer need not be installed."""
COST = Row("cost", "a cost", "ms", float, full=1)
SPEED = Row("speed", "a speed", "calls/s", float, full=1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ROWS)
def test_a_row_runs(name: str) -> None:
    done = program("-c", ALL_SIDES, name)
    if "slurm" in name:
        need("ci/slurm/start'" not in done.stderr, f"a SLURM: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "measured ours" in done.stdout


def of(median: float) -> Figure:
    return Figure(median, median, median)


@pytest.mark.parametrize(
    ("row", "goal", "ours", "theirs", "ratio", "met"),
    [
        (COST, at_most(2), 3.0, 2.0, 1.5, True),
        (COST, at_most(2), 5.0, 2.0, 2.5, False),
        (COST, at_least(2), 1.0, 2.5, 2.5, True),
        (SPEED, at_least(2), 5.0, 2.0, 2.5, True),
        (SPEED, at_least(3), 5.0, 2.0, 2.5, False),
        (SPEED, at_most(2), 5.0, 2.0, 0.4, True),
        (COST, None, 3.0, 2.0, 1.5, None),
        (SPEED, None, 3.0, 2.0, 1.5, None),
    ],
)
def test_a_goal_bounds_the_speed_from_below_and_the_cost_from_above(
    row: Row, goal: Goal | None, ours: float, theirs: float, ratio: float, met: bool | None
) -> None:
    peer = Peer("peer", "a peer", float, goal)
    found = line(row, 1, peer, goal, of(ours), of(theirs), "")
    assert (found.ratio, found.met) == (ratio, met)


def test_a_goal_without_a_peer_bounds_the_figure() -> None:
    assert line(COST, 1, None, at_most(2), of(1.9), None, "").met
    assert line(COST, 1, None, at_most(2), of(2.1), None, "").met is False


def test_a_side_that_fails_is_said_and_the_others_are_measured() -> None:
    ideal, nobody = Peer("ideal", "the ideal", 1.0), Peer("nobody", "nobody", float, at_most(1))
    row = replace(ROWS["cold"], peers=(ideal, nobody))
    first, second = measured(row, "tiny")
    assert first.ours
    assert first.ratio == first.ours.median
    assert (second.ours, second.peer, second.met) == (first.ours, None, None)
    assert second.missing == "KeyError: 'nobody'"


def test_a_side_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TIMEOUT_S", 0.1)
    found, *_ = measured(ROWS["cold"], "tiny")
    assert (found.ours, found.missing) == (None, "not done after 0.1 s")


def report(**ours: float) -> Report:
    """Of lines with these figures of ours; that of the peer is always 10."""
    peer = Peer("peer", "a peer", float, at_most(2))
    lines = [
        line(replace(COST, name=name), 1, peer, peer.goal, of(x), of(10), "")
        for name, x in ours.items()
    ]
    return Report({"date": "2026-01-01"}, "full", lines)


def test_what_has_changed_by_over_15_percent_is_shown() -> None:
    before = report(same=10, slower=10, faster=10, gone=10)
    now = report(same=11.4, slower=11.6, faster=8.4, new=10)
    assert list(changes(before, now)) == [
        ("slower", "ours", 10, 11.6),
        ("slower/peer", "ratio", 1, 1.16),
        ("faster", "ours", 10, 8.4),
        ("faster/peer", "ratio", 1, pytest.approx(0.84)),
    ]


def test_a_figure_that_is_missing_has_not_changed() -> None:
    before = report(one=10)
    now = Report(before.machine, "full", [replace(before.lines[0], ours=None, ratio=None)])
    assert not list(changes(before, now))
    assert not list(changes(now, before))


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = report(one=10, two=30)
    written.lines.append(replace(written.lines[0], peer=None, ratio=None, met=None, missing="why"))
    written.write(tmp_path / "file")
    assert Report.read(tmp_path / "file") == written


def test_the_program_measures_writes_and_compares(tmp_path: Path) -> None:
    names = [f"cold/{peer.name}" for peer in ROWS["cold"].peers]
    before = report(one=1)
    before.lines[:] = [replace(before.lines[0], name=name, ours=of(0.001)) for name in names]
    before.write(tmp_path / "before")
    files = ("--json", tmp_path / "now", "--compare", tmp_path / "before")
    done = program("-m", "benchmarks", "col*", "--quick", *files)
    assert done.returncode == 0, done.stderr
    assert "Changed by more than 15% since 2026-01-01" in done.stdout
    now = Report.read(tmp_path / "now")
    assert [one.name for one in now.lines] == names
    assert "cold │ ours" in re.sub(r" +", " ", done.stdout)
    assert all(isinstance(one, Line) and one.ours for one in now.lines)


def test_a_name_that_no_row_has_is_refused() -> None:
    done = program("-m", "benchmarks", "nothing*")
    assert done.returncode == 2
    assert "There is no row 'nothing*'" in done.stderr


def full_run() -> Report:
    """With a line for each row and peer; ours always costs 130 us."""
    theirs = {"call/pynisher": 8640.0, "call/pebble": 470.0, "call/ray": 1800.0, "dask/map": 500.0}
    lines = []
    for row in ROWS.values():
        for peer in row.peers:
            figure = of(theirs.get(f"{row.name}/{peer.name}", 1))
            lines.append(line(row, row.full, peer, peer.goal, of(130), figure, ""))
    return Report(this_machine(), "full", lines)


def test_the_page_has_each_figure_in_its_group() -> None:
    made = page(full_run())
    for title, rows in GROUPS.items():
        section = made.partition(f"## {title}\n")[2].partition("\n## ")[0]
        for row in rows:
            assert all(f"| {peer.what} |" in section for peer in row.peers)
    assert "| pynisher, fork | 8,640 us | 66.5 | ≥ 40 |\n" in made
    assert "| client.map of all at once, no limits | 500 calls/s | 0.26 | ≥ 5 (not met) |" in made


def test_the_readme_has_what_a_call_costs() -> None:
    table = """
| tool | limits | a call costs |
| dask_limits | all | 1 ms |
| pynisher | few (whole seconds) | 1 ms (fork) |
| plain Dask | none | 1 ms |
| pebble | time | 1 ms |
| Ray | none | not measured |
| other | none | 1 ms |
"""
    assert (
        readme(table, full_run())
        == """
| tool | limits | a call costs |
| dask_limits | all | 0.13 ms |
| pynisher | few (whole seconds) | 8.6 ms (fork) |
| plain Dask | none | 2 ms |
| pebble | time | 0.47 ms |
| Ray | none | 1.8 ms |
| other | none | 1 ms |
"""
    )


def test_the_documentation_has_the_figures_that_are_kept_beside_it() -> None:
    published = Report.read(JSON)
    assert PAGE.read_text() == page(published), "run `python -m benchmarks.page`"
    assert README.read_text() == readme(README.read_text(), published)
