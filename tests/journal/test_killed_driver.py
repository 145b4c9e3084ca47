"""A driver that is killed at any moment: nothing that was told is lost, and nothing of it runs
again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from processes import until

from dask_limits import Journal

SEARCH = '''
"""A search that learns: which trial is next depends on all that has ended, in its order."""
import json, os, sys, time
from pathlib import Path
from dask_limits import PynisherPlugin, Scheduler

folder = Path(sys.argv[1])

def trial(x):
    if x % 11 == 3:
        raise ValueError(x)
    if x % 11 == 7:
        os._exit(1)
    time.sleep(x % 5 / 50)
    return x * x % 101

scheduler = Scheduler.with_processes(2)
task = scheduler.task(trial, plugins=PynisherPlugin(walltime_limit=20, memory_limit="1 GiB"))
seen = []
told = os.open(folder / "told", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@scheduler.on_start
def begin():
    for x in range(3):
        task.submit(x)

@task.on_done
def next_trial(future):
    value = 0 if future.exception() else future.result()
    n = len(seen)
    seen.append(value)
    if not future.from_journal:
        os.write(told, json.dumps([n, value]).encode() + b"\\n")
    if task.n_submitted < 1000:
        task.submit(hash(tuple(seen)) % 1000)

scheduler.run(journal=folder / "search.sqlite", on_exception="continue")
(folder / "results").write_text(json.dumps(seen))
'''


def has_begun(journal: Path, process: subprocess.Popen[bytes]) -> bool:
    """Whether the driver has its journal; killed before, it has nothing to lose."""
    lock = Path(f"{journal}.lock")
    return process.poll() is not None or f'"pid": {process.pid},' in read(lock)


def gets_on(told: Path, process: subprocess.Popen[bytes], length: int) -> bool:
    """Whether it has told more than was told before."""
    return process.poll() is not None or len(read(told)) >= length + 3 * len("[100, 100]")


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


@pytest.mark.timeout(900)
def test_a_search_that_is_killed_a_hundred_times_is_one_search(tmp_path):
    """Each end is told as new once at most, and always with the same value in the same place."""
    program = tmp_path / "search.py"
    program.write_text(SEARCH)
    seed = random.SystemRandom().randrange(10**6)
    moment = random.Random(seed)
    command = [sys.executable, str(program), str(tmp_path)]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    journal = tmp_path / "search.sqlite"
    n_kills = 0
    for n in range(100):
        process = subprocess.Popen(command, env=env)
        until(partial(has_begun, journal, process))
        if n % 5 == 0:  # on a busy machine it may get no further otherwise
            until(partial(gets_on, tmp_path / "told", process, len(read(tmp_path / "told"))))
        time.sleep(moment.uniform(0, 0.8))  # its first processes take half of that
        process.send_signal(signal.SIGKILL)
        n_kills += process.wait() == -signal.SIGKILL
    n_told = len((tmp_path / "told").read_text().splitlines())
    subprocess.run(command, env=env, check=True)
    seen = json.loads((tmp_path / "results").read_text())
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert len(seen) == 1000
    assert max(Counter(n for n, _ in told).values()) == 1, f"seed {seed}: told twice"
    assert all(seen[n] == value for n, value in told), f"seed {seed}"
    assert n_told > 50  # it got on between kills
    assert n_kills > 50  # on a fast machine it may come to its end before
    report = Journal(journal).report()
    assert Counter(row.ending for row in report).keys() == {"returned", "raised", "exited"}
    assert len(report) == 1000
