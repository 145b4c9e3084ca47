"""`dask-limits search --executor slurm`, as people run it."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import joblib
import pytest
from real_slurm import Slurm

COMMAND = [sys.executable, "-m", "dask_limits", "search", "--executor", "slurm", "--workers", "2"]
LIMITS = ["--trial-memory", "400MiB", "--trial-wall-time", "30s"]


@pytest.fixture(autouse=True)
def no_job_is_left(slurm: Slurm) -> Iterator[None]:
    yield
    slurm.wait_until_empty()


@contextmanager
def search(out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    data = out / "data.csv"
    data.write_text("x,y,kind\n" + "".join(f"{n % 7},{n % 5},{n % 3}\n" for n in range(60)))
    process = subprocess.Popen(
        [*COMMAND, data, "--target", "kind", *LIMITS, "--out", out, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group, as a shell makes one
        env=os.environ | {"DASK_JOBQUEUE__SLURM__SHARED_TEMP_DIRECTORY": str(out / "shared")},
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def full(slurm: Slurm) -> Iterator[None]:
    """Nodes on which nothing else can start."""
    job = slurm.submit("sleep 600", "--nodes=2", "--ntasks-per-node=4")
    slurm.wait_for(job, "RUNNING")
    try:
        yield
    finally:
        slurm.run("scancel", job)


def read_until(process: subprocess.Popen[str], beginning: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise AssertionError(f"it never said {beginning!r}")


def trials(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_search_runs_in_jobs_and_leaves_trials_and_the_best_model(tmp_path: Path) -> None:
    with search(tmp_path, "--trials", "3", "--seed", "59") as process:  # a quick one is the first
        stdout, stderr = process.communicate()
    assert stderr == ""
    assert process.returncode == 0
    assert " was added (job " in stdout
    assert sorted(int(row["number"]) for row in trials(tmp_path)) == list(range(3))
    assert any(row["status"] == "ok" for row in trials(tmp_path))
    assert joblib.load(tmp_path / "best_model.joblib")


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, and what is promised of it."""
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr == ""
    assert "no model was fitted: interrupted" in stdout


def test_waiting_is_told_in_slurms_words_and_ends_by_ctrl_c(tmp_path: Path, slurm: Slurm) -> None:
    with full(slurm), search(tmp_path) as process:
        told = read_until(process, "waiting for workers: ")
        while "2 jobs PENDING (Resources)" not in told and "PENDING (Priority)" not in told:
            told = read_until(process, "waiting for workers: ")
        interrupt(process)


def test_ctrl_c_ends_a_search_that_runs_with_its_jobs(tmp_path: Path) -> None:
    with search(tmp_path) as process:
        read_until(process, "trial ")
        interrupt(process)
    assert "cancelled" in {row["status"] for row in trials(tmp_path)}


@pytest.mark.parametrize("after_s", [1, 2, 3])
def test_ctrl_c_while_it_starts_leaves_no_job_either(tmp_path: Path, after_s: float) -> None:
    with search(tmp_path) as process:
        time.sleep(after_s)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate()
    if process.returncode == -signal.SIGINT:  # during its imports, of which Python tells
        assert stderr == "" or stderr.endswith("KeyboardInterrupt\n")
    else:
        assert (process.returncode, stderr) == (130, "")


def test_a_trial_that_loses_its_job_is_started_again(tmp_path: Path, slurm: Slurm) -> None:
    here: set[str] = set()  # the jobs with workers
    cancelled: set[str] = set()
    started_again = 0
    with search(tmp_path, "--trials", "16") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if come := re.search(r" was added \(job (\d+)", line):
                here.add(come[1])
            elif gone := re.search(r" was removed \(job (\d+)", line):
                here.remove(gone[1])
            elif " was started again: " in line:
                started_again += 1
            elif line.startswith("trial ") and not started_again and not cancelled & here:
                job = min(here, key=int)  # it may have no trial; then the next one is cancelled
                cancelled.add(job)
                slurm.run("scancel", job)
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert cancelled
    assert not cancelled & here
    assert started_again
    assert len(trials(tmp_path)) == 16
    assert "crashed" not in {row["status"] for row in trials(tmp_path)}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--worker-memory", "300MiB"],
            "No worker could run trials: run_trial() reserves 400.0 MiB of memory, but no worker,"
            " present or requested, has more than 44.0 MiB for its calls.",
        ),
        (
            ["--trial-wall-time", "2h", "--walltime", "10m"],
            "No worker could run trials: run_trial() may take 7200 s (its wall_time and"
            " grace_period), but no worker, present or requested, has more than 540 s for a call.",
        ),
        (
            ["--trial-wall-time", "2h"],  # by dask-jobqueue's default, a job has half an hour
            "No worker could run trials: run_trial() may take 7200 s (its wall_time and"
            " grace_period), but no worker, present or requested, has more than 1680 s for a call.",
        ),
        (
            ["--trial-memory", "none"],
            "These workers cannot run on SLURM: Specify `memory`: the memory per job",
        ),
    ],
)
def test_jobs_that_no_trial_would_fit_in_are_not_submitted(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    with search(tmp_path, *options) as process:
        _, stderr = process.communicate()
    assert process.returncode == 2
    assert stderr.startswith(f"Error: {sentence}")
    assert stderr.count("\n") == 1


def test_it_gives_up_when_told_to_and_shows_the_jobs(tmp_path: Path, slurm: Slurm) -> None:
    with full(slurm), search(tmp_path, "--worker-timeout", "2s") as process:
        _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.startswith("Error: No worker can run trials: ")
    assert "PENDING" in stderr
    assert "#SBATCH" in stderr
