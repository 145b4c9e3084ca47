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


def run(name: str, *arguments: str) -> str:
    """Run a program; return what it prints."""
    program = [sys.executable, EXAMPLES / name, *arguments]
    ended = subprocess.run(
        program, capture_output=True, text=True, check=False, env=os.environ | QUIET
    )
    assert (ended.returncode, ended.stderr) == (0, "")
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
