"""Which batch job a process runs in."""

from __future__ import annotations

import os
import time

import pytest

from dask_limits.batch_systems.current_job import BatchJob, current_job


@pytest.fixture
def environment(monkeypatch):
    """The environment of a process outside of batch jobs, in which no command is found."""
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
        ({"JOB_ID": "17"}, None),  # the name is too common
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
    assert current_job() == job


def test_a_job_of_htcondor_is_known_by_its_file(environment, tmp_path):
    path = tmp_path / "job.ad"
    path.write_text('ClusterId = 17\nCmd = "/bin/sh"\nProcId = 3\n')
    environment.setenv("_CONDOR_JOB_AD", str(path))
    assert current_job() == BatchJob("htcondor", "17.3")


def test_the_end_of_a_job_is_slurm_s_else_what_its_script_has_noted(environment):
    job = BatchJob("slurm", "no such job")
    assert job.ends_in() is None
    environment.setenv("DASK_LIMITS_JOB_ENDS", str(time.time() + 100))
    assert 90 < job.ends_in() <= 100
    environment.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 50))
    assert 40 < job.ends_in() <= 50
    assert 90 < BatchJob("pbs", "17").ends_in() <= 100
    environment.setenv("DASK_LIMITS_JOB_ENDS", "soon")
    assert BatchJob("pbs", "17").ends_in() is None
