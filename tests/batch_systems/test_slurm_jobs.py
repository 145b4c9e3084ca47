from __future__ import annotations

import asyncio
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_limits.batch_systems import slurm
from dask_limits.batch_systems.job_state import JobState
from dask_limits.batch_systems.slurm import (
    BatchJob,
    here,
    job_state,
    parse_scontrol,
    parse_squeue,
)

NUMBERS = st.integers(1, 10**9).map(str)
WORDS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1)


@pytest.fixture
def environment(monkeypatch):
    """One that is in no batch job, and in which no command is found."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "PBS_", "JOB_", "LSB_", "OAR_", "_CONDOR", "DASK_LIMITS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "/nowhere")
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SLURM_JOB_ID": "17"}, BatchJob("slurm", "17")),
        ({"PBS_JOBID": "17.server.example"}, BatchJob("pbs", "17")),
        ({"PBS_JOBID": "17[3].server"}, BatchJob("pbs", "17")),
        ({"JOB_ID": "17", "SGE_TASK_ID": "undefined"}, BatchJob("sge", "17")),
        ({"JOB_ID": "17"}, None),  # anybody's
        ({"LSB_JOBID": "17"}, BatchJob("lsf", "17")),
        ({"OAR_JOB_ID": "17"}, BatchJob("oar", "17")),
        ({"_CONDOR_JOB_AD": "/nowhere"}, None),
        ({"DASK_LIMITS_JOB_ENDS": "1e9"}, BatchJob("", "")),
        ({}, None),
    ],
)
def test_a_job_is_known_by_its_environment(environment, variables, job):
    for name, value in variables.items():
        environment.setenv(name, value)
    assert here() == job


def test_a_job_of_htcondor_is_known_by_its_file(environment, tmp_path):
    path = tmp_path / "job.ad"
    path.write_text('ClusterId = 17\nCmd = "/bin/sh"\nProcId = 3\n')
    environment.setenv("_CONDOR_JOB_AD", str(path))
    assert here() == BatchJob("htcondor", "17.3")


def test_the_end_of_a_job_is_slurm_s_else_what_its_script_has_noted(environment):
    job = BatchJob("slurm", "no such job")
    assert job.ends_in() is None
    environment.setenv("DASK_LIMITS_JOB_ENDS", str(time.time() + 100))
    assert 99 < job.ends_in() <= 100
    environment.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 50))
    assert 48 < job.ends_in() <= 50
    assert 99 < BatchJob("pbs", "17").ends_in() <= 100
    environment.setenv("DASK_LIMITS_JOB_ENDS", "soon")
    assert BatchJob("pbs", "17").ends_in() is None


def test_nothing_is_said_of_jobs_where_nobody_can_be_asked(environment):
    assert asyncio.run(job_state("slurm", "17")) is None
    assert asyncio.run(job_state("pbs", "17")) is None
    assert asyncio.run(slurm.states(["17"])) is None
    assert asyncio.run(slurm.states([])) == {}


def test_a_batch_system_that_does_not_answer_is_not_waited_for(environment, tmp_path):
    for name in ("squeue", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\nexec /bin/sleep 60\n")
        (tmp_path / name).chmod(0o700)
    environment.setenv("PATH", str(tmp_path))
    environment.setattr(slurm, "_ANSWER_S", 0.1)
    assert asyncio.run(job_state("slurm", "17")) is None
    assert asyncio.run(slurm.states(["17"])) is None
    assert BatchJob("slurm", "18").ends_in() is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("JobState=RUNNING Reason=None ExitCode=0:0", "RUNNING"),
        ("JobState=PENDING Reason=Resources ExitCode=0:0", "PENDING (Resources)"),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=3:0", "FAILED (exit code 3)"),
        ("JobState=FAILED Reason=JobLaunchFailure ExitCode=0:9", "FAILED (killed by signal 9)"),
        ("JobState=TIMEOUT Reason=TimeLimit ExitCode=0:15", "TIMEOUT (TimeLimit)"),
        ("JobState=CANCELLED Reason=None ExitCode=0:15", "CANCELLED"),
        ("JobState=NODE_FAIL Reason=NodeDown ExitCode=0:15", "NODE_FAIL (NodeDown)"),
    ],
)
def test_how_a_job_ended_is_told_in_slurm_s_words(text, said):
    state = parse_scontrol(f"JobId=17 JobName=a job UserId=me(0) {text} StdErr=/nowhere/17.err")
    assert str(state) == f"job 17 is {said}"
    assert state.ended == (state.state not in ("RUNNING", "PENDING"))


def test_a_job_over_its_memory_is_known_by_its_log(environment, tmp_path):
    log = tmp_path / "17.err"
    log.write_text("x" * 10_000 + "\nslurmstepd: error: Exceeded job memory limit\n")
    answer = tmp_path / "scontrol"
    said = f"JobId=17 JobState=FAILED Reason=JobLaunchFailure ExitCode=0:9 StdErr={log} StdOut=/no"
    answer.write_text(f"#!/bin/sh\necho '{said}'\n")
    answer.chmod(0o700)
    environment.setenv("PATH", str(tmp_path))
    assert str(asyncio.run(job_state("slurm", "17"))) == (
        "job 17 is FAILED (over the memory of the job)"
    )


@given(st.dictionaries(NUMBERS, st.tuples(WORDS, WORDS)))
def test_the_states_of_many_jobs_are_read_from_one_answer(jobs):
    text = "\n".join(f"{job}|{state}|{reason}" for job, (state, reason) in jobs.items())
    assert parse_squeue(text) == {
        job: JobState(job, state=state, reason=reason) for job, (state, reason) in jobs.items()
    }


@given(st.text())
def test_any_answer_can_be_read(text):
    parse_scontrol(text)
    for job, state in parse_squeue(text).items():
        assert job and state.state


def test_waiting_and_ended_jobs_are_told_apart():
    assert JobState("1", state="PENDING").waits
    assert not JobState("1", state="PENDING").ended
    assert not JobState("1", state="COMPLETING").ended
    assert JobState("1", state="NODE_FAIL").ended
    assert not JobState("1").ended
