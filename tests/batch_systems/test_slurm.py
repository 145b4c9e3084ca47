from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_limits.batch_systems import slurm
from dask_limits.batch_systems.job_state import JobState
from dask_limits.batch_systems.slurm import (
    job_state,
    parse_scontrol,
    parse_squeue,
    state_of,
)

NUMBERS = st.integers(1, 10**9).map(str)
WORDS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1)


def test_nothing_is_said_of_jobs_where_nobody_can_be_asked(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert asyncio.run(job_state("slurm", "17")) is None
    assert asyncio.run(job_state("pbs", "17")) is None
    assert asyncio.run(slurm.job_states(["17"])) is None
    assert asyncio.run(slurm.job_states([])) == {}


def test_a_batch_system_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    for name in ("squeue", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\nexec /bin/sleep 60\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm, "_ANSWER_S", 0.1)
    assert asyncio.run(job_state("slurm", "17")) is None
    assert asyncio.run(slurm.job_states(["17"])) is None
    assert slurm.time_left("18") is None


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
    answer = f"JobId=17 JobName=a job UserId=me(0) {text} StdErr=/nowhere/17.err"
    state = state_of(parse_scontrol(answer))
    assert str(state) == f"job 17 is {said}"
    assert state.ended == (state.state not in ("RUNNING", "PENDING"))


def test_a_job_over_its_memory_is_known_by_its_log(tmp_path, monkeypatch):
    log = tmp_path / "17.err"
    log.write_text("x" * 10_000 + "\nslurmstepd: error: Exceeded job memory limit\n")
    answer = tmp_path / "scontrol"
    said = f"JobId=17 JobState=FAILED Reason=JobLaunchFailure ExitCode=0:9 StdErr={log} StdOut=/no"
    answer.write_text(f"#!/bin/sh\necho '{said}'\n")
    answer.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
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
    state_of(parse_scontrol(text))
    for job, state in parse_squeue(text).items():
        assert job and state.state


def test_waiting_and_ended_jobs_are_told_apart():
    assert JobState("1", state="PENDING").waits
    assert not JobState("1", state="PENDING").ended
    assert not JobState("1", state="COMPLETING").ended
    assert JobState("1", state="NODE_FAIL").ended
    assert not JobState("1").ended
