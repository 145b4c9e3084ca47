"""`dask-limits batch --executor slurm`, as people run it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_slurm import Slurm


@pytest.fixture(autouse=True)
def no_job_is_left(slurm: Slurm):
    yield
    slurm.wait_until_empty()


def test_commands_run_in_jobs_under_their_limits(slurm: Slurm, tmp_path: Path) -> None:
    hog = f"{sys.executable} -c 'import time; x = b\"1\" * (300 << 20); time.sleep(600)'; true"
    (tmp_path / "commands").write_text(
        f"echo in $SLURM_JOB_ID\n{hog}\necho $DASK_LIMITS_INDEX\nexit 5\n"
    )
    limits = ["--memory", "150MiB", "--wall-time", "60s"]
    jobs = ["--executor", "slurm", "--workers", "2", "--walltime", "10m"]
    command = [sys.executable, "-m", "dask_limits", "batch", "commands", *limits, *jobs]
    run = subprocess.run(
        [*command, "--out", "out", "--keep-order"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"DASK_JOBQUEUE__SLURM__SHARED_TEMP_DIRECTORY": str(tmp_path / "shared")},
    )
    assert run.returncode == 1, run.stderr
    with (tmp_path / "out/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ending"] for row in rows] == ["returned", "memory", "returned", "exited"]
    assert (tmp_path / "out/output/1.out").read_text() == f"in {rows[0]['job']}\n"
    assert all(row["job"] and row["host"] for row in rows)
