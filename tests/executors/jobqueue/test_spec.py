"""The arguments of users, and the jobs that they specify."""

from __future__ import annotations

import os
import subprocess
import sys

import dask
import numpy as np
import pytest

from dask_limits import Scheduler
from dask_limits.executors.jobqueue import JobSpec
from dask_limits.executors.jobqueue.adaptive import Adaptive


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "torque",
            {},
            "'torque' is not a supported batch system.* slurm, pbs, sge, lsf, oar, moab",
        ),
        (
            "pbs",
            {"memory": "1 GiB"},
            r"Specify `cores`: the number of cores per job.* with_pbs\(.*cores",
        ),
        ("slurm", {"cores": 1}, r"Specify `memory`: .*jobqueue\.slurm\.memory"),
        (
            "slurm",
            {"cores": 0, "memory": "1 GiB"},
            "None for the value in dask_jobqueue's configuration",
        ),
        ("slurm", {"cores": 1, "memory": "1 GiB", "processes": 0}, "processes=0 must be a whole"),
        ("slurm", {"cores": 1, "memory": "1 GiB", "wall_time": 3}, "did you mean 'walltime'"),
        ("slurm", {"cores": 0, "memory": "1 GiB"}, "cores=0 must be a whole number"),
        ("slurm", {"cores": 1, "memory": "1 lot"}, "unknown unit, 'lot'"),
        (
            "slurm",
            {"cores": 1, "memory": 1e9, "walltime": "1:2:3:4"},
            "not a wall time for slurm",
        ),
        ("slurm", {"cores": 1, "memory": 1e9, "host": "me"}, "scheduler_options={'host'"),
        ("slurm", {"cores": 1, "memory": 1e9, "n_workers": 0}, "n_workers=0 must be"),
        ("slurm", {"cores": 1, "memory": 1e9, "adaptive": True}, "adaptive=True needs n_workers"),
        ("slurm", {"cores": 1, "memory": 1e9, "adaptive": (3, 2)}, "minimum=3 must be"),
        ("slurm", {"cores": 1, "memory": 1e9, "adaptive": {"most": 2}}, "must have 'maximum'"),
        ("slurm", {"cores": 1, "memory": 1e9, "processes": 2}, "processes=2 is more than cores=1"),
        ("slurm", {"cores": 1, "memory": 1e9, "nodes_per_job": 0}, "nodes_per_job=0 must be a"),
        (
            "slurm",
            {"cores": 2, "memory": 1e9, "processes": 2, "nodes_per_job": 2},
            "nodes_per_job=2 cannot be combined with processes=2",
        ),
        ("pbs", {"cores": 1, "memory": 1e9, "nodes_per_job": 2}, "nodes_per_job=2 needs SLURM"),
        (
            "slurm",
            {"cores": 1, "memory": 1e9, "config_name": "x"},
            "config_name='x' is not a section",
        ),
        ("slurm", {"cores": 1, "memory": 1e9, "submit_command": ""}, "submit_command='' must be"),
        (
            "slurm",
            {"cores": 1, "memory": 1e9, "cancel_command": "x '"},
            "cancel_command=.* must be",
        ),
        ("slurm", {"cores": 1, "memory": "256 MiB"}, "leaves nothing for calls"),
        ("slurm", {"cores": 1, "memory": 1e9, "shared_temp_directory": "a b"}, "contains a space"),
        ("slurm", {"cores": 1, "memory": 1e9, "protocol": "tcp://"}, "cannot use credentials"),
        ("slurm", {"cores": 1, "memory": 1e9, "name": "me"}, "'name' is not an option for slurm"),
        ("htcondor", {"cores": 1, "memory": 1e9}, "how much disk"),
        (
            "htcondor",
            {"cores": 1, "memory": 1e9, "walltime": 60},
            "'walltime' is not an option for",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(name, options, message):
    with pytest.raises(ValueError, match=message):
        Scheduler.with_jobqueue(name, **options)


def test_what_is_of_a_wrong_type_is_refused():
    with pytest.raises(TypeError, match="security='yes' is of type str"):
        Scheduler.with_slurm(cores=1, memory="1 GiB", security="yes")
    with pytest.raises(TypeError, match="adaptive='yes' is of type str"):
        Scheduler.with_slurm(cores=1, memory="1 GiB", adaptive="yes")
    with pytest.raises(TypeError, match=r"job_extra_directives='-q x' must be a list"):
        Scheduler.with_slurm(cores=1, memory="1 GiB", job_extra_directives="-q x")


def test_configuration_files_of_dask_jobqueue_are_honoured():
    section = {
        "cores": 8,
        "memory": "16 GiB",
        "processes": 2,
        "walltime": "02:00:00",
        "job-extra-directives": ["--exclusive"],
        "job-script-prologue": ["module load python"],
        "worker-extra-args": ["--resources", "GPU=1"],
        "shared-temp-directory": "$SCRATCH/mine",
        "scheduler-options": {"dashboard_address": ":8787"},
        "log-directory": "mine",
    }
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in section.items()}):
        spec = JobSpec("slurm")
    assert (spec.cores, spec.memory, spec.workers_per_job, spec.walltime_s) == (4, 2**33, 2, 7200)
    assert spec.shared == "$SCRATCH/mine"
    options = spec.options
    assert options["job_extra_directives"] == ["--exclusive", "--no-requeue"]
    assert options["job_script_prologue"][0] == "module load python"
    assert options["worker_extra_args"][:2] == ["--resources", "GPU=1"]
    assert options["scheduler_options"]["dashboard_address"] == ":8787"
    assert options["log_directory"] == "mine"


@pytest.mark.parametrize(
    ("system", "configured", "walltime", "seconds"),
    [
        ("slurm", 90, "90", 90 * 60),
        ("lsf", 720, "720", 720 * 60),  # YAML reads 12:00 without quotes as this number
        ("moab", 90, "90", 90),
        ("pbs", 90, "90", 90),
        ("slurm", "01:00:00", "01:00:00", 3600),
    ],
)
def test_a_number_in_a_configuration_file_means_what_it_means_to_dask_jobqueue(
    system, configured, walltime, seconds
):
    with dask.config.set({f"jobqueue.{system}.walltime": configured}):
        spec = JobSpec(system, cores=1, memory="1 GiB")
    assert (spec.options["walltime"], spec.walltime_s) == (walltime, seconds)


@pytest.mark.parametrize("extra", [[], ["--no-dashboard"], ["--dashboard-prefix", "/x"]])
def test_what_workers_serve_is_on_localhost_unless_an_address_is_given(extra):
    spec = JobSpec("slurm", cores=1, memory="1 GiB", worker_extra_args=extra)
    assert spec.options["worker_extra_args"] == [*extra, "--dashboard-address", "127.0.0.1:0"]
    given = ["--dashboard-address", ":8787"]
    spec = JobSpec("slurm", cores=1, memory="1 GiB", worker_extra_args=given)
    assert spec.options["worker_extra_args"] == given


PROGRAM = """
from dask_limits.executors.jobqueue import JobSpec
print(JobSpec("slurm", cores=1, memory="1 GiB").options["job_name"])
"""


@pytest.mark.parametrize(
    ("options", "environment", "name"),
    [
        (["my search.py"], {}, "my_search"),
        (["-m", "package.module"], {}, "package.module"),
        (["-m", "package"], {}, "package"),
        (["-"], {}, "python"),
        (["-"], {"JPY_SESSION_NAME": "/home/ada/Näpfe.ipynb"}, "N_pfe"),
    ],
    ids=["script", "module", "package", "none", "notebook"],
)
def test_slurm_jobs_are_named_after_the_program(options, environment, name, tmp_path):
    (tmp_path / "package").mkdir()
    for file in ("my search.py", "package/module.py", "package/__main__.py"):
        (tmp_path / file).write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, *options],
        input=PROGRAM,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.strip() == name, ran.stderr


def test_slurm_jobs_have_the_name_that_is_given_or_configured():
    assert JobSpec("slurm", cores=1, memory=1e9, job_name="x").options["job_name"] == "x"
    with dask.config.set({"jobqueue.slurm.name": "ours"}):
        assert "job_name" not in JobSpec("slurm", cores=1, memory=1e9).options


def test_slurm_is_asked_for_the_memory_that_was_given_and_no_more():
    assert JobSpec("slurm", cores=1, memory="1100 MiB").options["job_mem"] == "1100M"
    assert JobSpec("slurm", cores=1, memory=2**30 + 1).options["job_mem"] == "1025M"
    given = JobSpec("slurm", cores=1, memory="1100 MiB", job_mem="3G")
    assert given.options["job_mem"] == "3G"


def test_numbers_of_numpy_are_numbers():
    given = {"cores": np.int64(4), "processes": np.int8(2), "n_workers": np.int32(3)}
    spec = JobSpec("slurm", memory=np.int64(2**31), adaptive=np.int64(5), **given)
    found = (spec.cores, spec.workers_per_job, spec.n_workers, spec.adaptive)
    assert found == (2, 2, 3, Adaptive(0, 5))
    assert "np." not in repr(spec.shown)


@pytest.mark.parametrize(
    ("given", "n_workers", "adaptive"),
    [
        ({}, 1, None),
        ({"n_workers": 3}, 3, None),
        ({"n_workers": 3, "adaptive": True}, 1, Adaptive(0, 3)),
        ({"adaptive": 20}, 1, Adaptive(0, 20)),
        ({"adaptive": (2, 20)}, 2, Adaptive(2, 20)),
        ({"adaptive": (2, 20), "n_workers": 4}, 4, Adaptive(2, 20)),
        ({"adaptive": {"maximum": 5, "keep_idle": "1h"}}, 1, Adaptive(0, 5, 3600)),
    ],
)
def test_how_many_workers_are_asked_for(given, n_workers, adaptive):
    spec = JobSpec("slurm", cores=1, memory="1 GiB", **given)
    assert (spec.n_workers, spec.adaptive) == (n_workers, adaptive)
