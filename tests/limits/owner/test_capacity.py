"""What there is for calls: of the machine, the cgroup or the batch job."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from required import need, need_root

from dask_limits.limits.linux import cgroup
from dask_limits.limits.owner.capacity import capacity_here

GIB = 2**30


@pytest.fixture
def environment(monkeypatch):
    """Outside of batch jobs."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "PBS_", "JOB_", "LSB_", "OAR_", "_CONDOR", "DASK_LIMITS_")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def groups(environment, tmp_path):
    """Shows groups that this process is in, in place of its own."""

    def show(own: str, files: dict[str, str]) -> None:
        environment.setattr(cgroup, "_MOUNTS", (f"{tmp_path}/cgroup", f"{tmp_path}/unified"))
        read = cgroup._read
        environment.setattr(
            cgroup,
            "_read",
            lambda folder, name: own if folder == "/proc/self" else read(folder, name),
        )
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return show


def test_a_machine_has_its_memory_and_the_cores_that_this_process_may_use(environment):
    here = capacity_here()
    assert 0 < here.memory <= psutil.virtual_memory().total
    assert 0 < here.cores <= len(os.sched_getaffinity(0))


def test_the_least_of_all_groups_counts_and_programs_in_other_ones_share_it(groups):
    groups(
        "0::/job/step/task\n",
        {
            "memory.max": "max",
            "job/memory.max": str(GIB),
            "job/cpu.max": "100000 100000",
            "job/step/memory.max": str(2 * GIB),
            "job/step/task/memory.max": "max",
            "job/step/task/cpu.max": "max 100000",
        },
    )
    here = capacity_here()
    assert (here.memory, here.cores, here.what) == (GIB, 1, "the cgroup of this program")
    groups("0::/job\n", {})
    assert capacity_here() == here
    groups("0::/\n", {})
    assert capacity_here().number != here.number


def test_groups_of_version_1_count_too(groups):
    groups(
        "4:memory:/there\n3:cpuset:/elsewhere\n2:cpu,cpuacct:/\n0::/\n",
        {
            "memory/there/memory.limit_in_bytes": str(GIB),
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "cpu,cpuacct/cpu.cfs_quota_us": "150000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "cpuset/elsewhere/memory.limit_in_bytes": "1",
        },
    )
    assert (capacity_here().memory, capacity_here().cores) == (GIB, 1)
    groups("2:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1"})
    assert [one.cores for one in cgroup.allowed_here()] == [math.inf]


def test_a_group_that_is_outside_of_the_namespace_is_not_looked_for(groups):
    groups("0::/../../other\n", {"memory.max": str(GIB)})
    assert capacity_here().memory == GIB


def test_a_real_group(environment):
    need_root()
    folder = Path("/sys/fs/cgroup/memory/dask-limits-test")
    need(folder.parent.exists(), "cgroups of version 1")
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(GIB))
    except OSError as why:
        need(False, f"the right to make a group ({why})")
    program = (
        "import os, pathlib, sys;"
        " pathlib.Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()));"
        " from dask_limits.limits.owner.capacity import capacity_here;"
        " print(capacity_here().memory)"
    )
    try:
        command = [sys.executable, "-c", program, folder]
        assert int(subprocess.check_output(command, text=True)) == GIB
    finally:
        folder.rmdir()


def test_a_batch_job_has_what_slurm_says(environment):
    environment.setattr(cgroup, "allowed_here", list)
    environment.setenv("SLURM_JOB_ID", "17")
    environment.setenv("SLURM_MEM_PER_NODE", "100")
    of_machine = capacity_here()
    assert of_machine.what == "this machine"  # salloc sets these, too, on the login node
    environment.setenv("SLURM_CPUS_ON_NODE", "1")
    job = capacity_here()
    assert (job.memory, job.cores, job.what) == (100 * 2**20, 1, "job 17")
    environment.delenv("SLURM_MEM_PER_NODE")
    environment.setenv("SLURM_MEM_PER_CPU", "50")
    assert capacity_here().memory == 50 * 2**20
    environment.setenv("SLURM_JOB_ID", "18")
    assert len({of_machine.number, job.number, capacity_here().number}) == 3


@pytest.mark.parametrize(
    "variables",
    [{"PBS_JOBID": "17.host", "NCPUS": "1"}, {"JOB_ID": "17", "SGE_TASK_ID": "1", "NSLOTS": "1"}],
)
def test_other_batch_systems_say_how_many_cores_a_job_has(environment, variables):
    for name, value in variables.items():
        environment.setenv(name, value)
    assert (capacity_here().cores, capacity_here().what) == (1, "job 17")
