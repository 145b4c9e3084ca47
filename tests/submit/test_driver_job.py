"""The script and the options of the jobs that run a driver: no SLURM is needed for these."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_limits.cli import main
from dask_limits.submit.driver_job import DriverJob
from dask_limits.submit.supervisor import is_cancelled

JOB = DriverJob(("true",), "chain", "01:00:00", 3600, 60, 3, "/tmp")
WORDS = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    min_size=1,
    max_size=4,
)


def arguments_in(script: str, folder: Path) -> list[str]:
    """What a shell passes to the Python of a job script."""
    shows = folder / "python"
    shows.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    shows.chmod(0o700)
    its = script.replace(sys.executable, str(shows))
    return (
        subprocess.run(["/bin/sh"], input=its.encode(), capture_output=True, check=True)
        .stdout.decode()
        .split("\0")[:-1]
    )


@settings(max_examples=50, deadline=None)
@given(words=WORDS)
def test_a_command_comes_to_the_job_as_it_was_given_whatever_is_in_it(words, tmp_path_factory):
    job = DriverJob(tuple(words), "chain", "01:00:00", 3600, 60, 3, "/tmp/a 'b'\n$(c)")
    arguments = arguments_in(job.script(), tmp_path_factory.mktemp("sh"))
    assert arguments[arguments.index("--") + 1 :] == words
    assert "--log=/tmp/a 'b'\n$(c)" in arguments


def test_a_job_asks_for_what_it_was_told_to():
    job = DriverJob(("true",), "n", "1-0", 86400, 90, 3, "/a%b", 2, 2**30 + 1, "long", "mine")
    options = job.sbatch_options("17")
    assert {
        "--job-name=n",
        "--time=1-0",
        "--signal=B:USR1@90",
        f"--chdir={Path.cwd()}",
        "--output=/a%%b/driver-%j.log",
        "--cpus-per-task=2",
        "--mem=1025M",
        "--partition=long",
        "--account=mine",
        "--dependency=afterany:17,singleton",
        "--requeue",
    } <= set(options)


def test_the_first_job_waits_for_none_and_the_last_has_no_next():
    assert not any("dependency" in option for option in JOB.sbatch_options())
    assert not JOB.next().is_last
    assert JOB.next().next().is_last


@pytest.mark.parametrize(
    ("fields", "cancelled"),
    [
        ({"JobState": "COMPLETING", "Reason": "None", "Restarts": "0"}, True),
        ({"JobState": "CANCELLED", "Reason": "None", "Restarts": "0"}, True),
        ({"JobState": "COMPLETING", "Reason": "TimeLimit", "Restarts": "0"}, False),
        ({"JobState": "COMPLETING", "PreemptTime": "2026-11-23T11:33:34", "Restarts": "0"}, False),
        ({"JobState": "COMPLETING", "Reason": "None", "Restarts": "1"}, False),  # starts again
        ({"JobState": "RUNNING", "Reason": "None", "Restarts": "0"}, False),
        ({}, False),  # SLURM does not answer
    ],
)
def test_a_cancelled_job_is_told_from_those_that_slurm_ends(fields, cancelled):
    assert is_cancelled(fields, 0) == cancelled


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["true"], "Missing option '--walltime'"),
        (["--walltime", "1h"], "Missing argument 'COMMAND...'"),
        (["--walltime", "soon", "true"], "--walltime: walltime='soon'"),
        (["--walltime", "1m", "true"], "--walltime 1m (60 s) must be longer than --margin (120 s)"),
        (["--walltime", "1h", "--margin", "none", "true"], "--margin cannot be none"),
        (["--walltime", "1h", "--times", "0", "true"], "--times '0' is not a whole number"),
        (["--walltime", "1h", "--name", "a,b", "true"], "--name 'a,b' must be of letters"),
        (["--walltime", "1h", "no-such-program"], "There is no program 'no-such-program'"),
        (["--walltime", "1h", "--log", "/proc/x", "true"], "Logs cannot be written to --log"),
        (["--executor", "pbs", "--walltime", "1h", "true"], "dask-limits submit is for SLURM only"),
    ],
)
def test_bad_input_is_answered_before_anything_is_submitted(
    arguments, sentence, tmp_path, monkeypatch
):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!/bin/sh\ntouch {tmp_path}/submitted\n")
    sbatch.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = CliRunner().invoke(main, ["submit", *arguments])
    assert said.exit_code == 2
    assert sentence in said.output
    assert not (tmp_path / "submitted").exists()


def test_without_sbatch_it_says_where_to_go(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    said = CliRunner().invoke(main, ["submit", "--walltime", "1h", "true"])
    assert said.exit_code == 2
    assert "needs SLURM's command sbatch, which is not on this machine" in said.output
