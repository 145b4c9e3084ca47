"""The programs of examples/ run as people run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import QUIET

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, ends_with: int = 0) -> str:
    """Run a program; return what it prints."""
    program = [sys.executable, EXAMPLES / name, *arguments]
    ended = subprocess.run(
        program, capture_output=True, text=True, check=False, env=os.environ | QUIET
    )
    assert (ended.returncode, ended.stderr) == (ends_with, "")
    return ended.stdout


@pytest.mark.parametrize("where", ["processes", "dask"])
def test_successive_halving_ends_most_trials_early_and_finds_a_good_rate(where: str) -> None:
    printed = run("successive_halving.py", "--trials", "12", "--where", where)
    n_ended, rate, loss = re.search(
        r"^(\d+) of 12 .* early\n.* rate is (\S+), with a loss of (\S+)$", printed.strip()
    ).groups()  # type: ignore[union-attr]
    assert 4 <= int(n_ended) < 12
    assert float(rate) > 0.1
    assert float(loss) < 0.1


def test_commands_run_under_limits_and_those_that_ended_well_run_once(tmp_path: Path) -> None:
    commands, log, runs = tmp_path / "commands", tmp_path / "log", tmp_path / "runs"
    commands.write_text(f"echo one >> {runs}\nsleep 600\necho two >> {runs}\n")
    arguments = [str(commands), "--jobs", "2", "--wall-time", "4s", "--log", str(log)]
    printed = run("run_commands.py", *arguments, ends_with=1)
    assert printed == "run: 3, done before: 0, failed: 1\n"
    printed = run("run_commands.py", *arguments, ends_with=1)
    assert printed == "run: 1, done before: 2, failed: 1\n"
    assert sorted(runs.read_text().split()) == ["one", "two"]
    how = [line.split("\t")[0] for line in log.read_text().splitlines()]
    assert sorted(how) == ["WallTimeBreach", "WallTimeBreach", "done", "done"]


def test_limits_grow_until_calls_fit_and_the_largest_is_told() -> None:
    *calls, last = run("find_limits.py", "5", "60", "--first", "16MiB").splitlines()
    attempts = {line.partition(" ")[0]: int(line.rpartition(" ")[2]) for line in calls}
    assert attempts["work(5)"] == 1
    assert attempts["work(60)"] in (3, 4)  # 16, 32, 64 MiB, and as many again if that is just over
    mib = float(re.match(r"memory='(\S+) MiB' would be enough", last)[1])  # type: ignore[index]
    assert 75 <= mib < 110
