"""A batch whose program is killed at any moment: what it has told as done does not run again."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from processes import until

N_COMMANDS = 900
N_KILLS = 100


def has_begun(out: Path, process: subprocess.Popen[bytes]) -> bool:
    """Whether it has its journal; killed before, it has nothing to lose."""
    lock = out / "journal.sqlite.lock"
    said = lock.read_text() if lock.exists() else ""
    return process.poll() is not None or f'"pid": {process.pid},' in said


def gets_on(out: Path, process: subprocess.Popen[bytes], known: dict[str, list[str]]) -> bool:
    """Whether more commands have ended than were known."""
    return process.poll() is not None or not told(out).keys() <= known.keys()


def told(out: Path) -> dict[str, list[str]]:
    """The rows of commands that have ended, by their numbers. The last line may be cut."""
    file = out / "results.csv"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    return {row[0]: row for row in list(csv.reader(whole))[1:]}


@pytest.mark.timeout(900)
def test_a_batch_that_is_killed_a_hundred_times_is_one_batch(tmp_path):
    """The commands count themselves how often they have run."""
    ran, out = tmp_path / "ran", tmp_path / "out"
    ran.mkdir()
    commands = tmp_path / "commands"
    line = "echo ran >> {ran}/$DASK_LIMITS_INDEX; sleep 0.0{n}; exit {code}\n"
    commands.write_text(
        "".join(line.format(ran=ran, n=n % 7, code=int(n % 11 == 3)) for n in range(N_COMMANDS))
    )
    program = [sys.executable, "-m", "dask_limits", "batch"]
    first = [*program, str(commands), "--out", str(out), "--workers", "2", "--wall-time", "1m"]
    again = [*program, "--resume", str(out)]
    seed = random.SystemRandom().randrange(10**6)
    moment = random.Random(seed)
    known: dict[str, list[str]] = {}
    times: dict[str, int] = {}
    n_kills = 0
    for n in range(N_KILLS):
        command = again if (out / "batch.json").exists() else first
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(partial(has_begun, out, process))
        if n % 5 == 0:  # on a busy machine it may get no further otherwise
            until(partial(gets_on, out, process, known))
        time.sleep(moment.uniform(0, 0.8))  # its first processes take half of that
        process.send_signal(signal.SIGKILL)
        n_kills += process.wait() == -signal.SIGKILL
        known = told(out) | known
        times = {n: len((ran / n).read_text().split()) for n in known} | times
    last = subprocess.run(again, capture_output=True, text=True, check=False)
    assert last.returncode == 1, last.stderr
    rows = told(out)
    assert rows.keys() == {str(n + 1) for n in range(N_COMMANDS)}
    assert {rows[n][3] for n in rows} == {"0", "1"}
    assert {n: rows[n] for n in known} == known, f"seed {seed}"
    assert {n: len((ran / n).read_text().split()) for n in known} == times, f"seed {seed}"
    assert n_kills > N_KILLS / 2  # on a fast machine it may come to its end before
    assert len(times) > 10  # it got on between kills
