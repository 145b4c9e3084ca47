"""Jobs that SLURM accepts, keeps in its queue, and never starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import until
from real_slurm import Slurm
from slurm_faults import Run

from dask_limits.exceptions import WorkersNotStartedError
from dask_limits.executors.jobqueue import pooled_job

NewRun = Callable[..., Run]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(pooled_job, "_STUCK_S", 1)


@pytest.fixture
def short(slurm: Slurm) -> Iterator[str]:
    """A partition in which jobs last five minutes at most."""
    slurm.run("scontrol", "create", "partition=short", "Nodes=n1,n2", "MaxTime=5")
    yield "short"
    slurm.wait_until_empty()
    slurm.run("scontrol", "delete", "partition=short")


def test_a_wall_time_above_the_partition_s_limit_ends_the_wait_with_both_figures(
    short: str, new_run: NewRun, tmp_path: Path
):
    with pytest.raises(WorkersNotStartedError) as caught:
        new_run(queue=short, walltime="10 m").scheduler.run(timeout=60)
    assert [(job.state, job.reason) for job in caught.value.jobs] == [
        ("PENDING", "PartitionTimeLimit")
    ]
    assert (
        "The job's time limit, 00:10:00, is above that of partition short, 00:05:00."
        ' Specify `walltime` as "00:05:00" or less' in str(caught.value)
    )
    assert not (tmp_path / "shared").exists()


def test_more_nodes_than_there_are_end_the_wait(new_run: NewRun):
    with pytest.raises(WorkersNotStartedError, match="asks for 3 nodes, and partition main has 2"):
        new_run(job_extra_directives=["--nodes=3", "--ntasks=3"]).scheduler.run(timeout=60)


def test_a_dependency_that_failed_ends_the_wait(slurm: Slurm, new_run: NewRun):
    job = slurm.submit("exit 3")
    slurm.wait_for(job)
    directives = [f"--dependency=afterok:{job}"]
    with pytest.raises(WorkersNotStartedError, match=rf"afterok:{job}\(failed\).*--dependency"):
        new_run(job_extra_directives=directives).scheduler.run(timeout=60)


def test_a_job_that_may_start_in_another_partition_is_waited_for(
    slurm: Slurm, short: str, new_run: NewRun
):
    for node in slurm.nodes:
        slurm.node_down(node)
    run = new_run(queue=f"{short},main", walltime="10 m", worker_timeout=6)
    with pytest.raises(WorkersNotStartedError, match="No worker has started within 6 s") as caught:
        run.scheduler.run()
    assert [job.state for job in caught.value.jobs] == ["PENDING"]


def test_a_run_with_workers_goes_on_beside_jobs_that_never_start_until_no_worker_is_left(
    slurm: Slurm, short: str, new_run: NewRun, caplog
):
    run = new_run(n_workers=2, queue=short, walltime="5 m")
    with run.going(), caplog.at_level(logging.WARNING, "dask_limits"):
        run.submit(range(10), "first")
        first, second = sorted({one.job for one in run.wait_for(4)})
        slurm.run("scontrol", "update", "partitionname=short", "MaxTime=2")
        slurm.run("scancel", first)
        until(lambda: "will never start" in caplog.text, 40)
        run.open("first")
        until(lambda: all(future.done() for future in run.futures.values()), 40)
        run.failing = {10}
        run.submit(range(10, 11), "never")
        until(lambda: any(one.number == 10 for one in run.begun()))
        slurm.run("scancel", second)
    assert caplog.text.count("will never start") == 1
    assert "is above that of partition short, 00:02:00" in caplog.text
    error = run.futures[10].exception()
    assert isinstance(error, WorkersNotStartedError)
    assert "is above that of partition short, 00:02:00" in str(error)
    assert {job.name for job in run.waiting} == {"slurm-0", "slurm-1", "slurm-2"}
