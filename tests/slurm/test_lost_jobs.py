"""Failures of jobs, of nodes, and of SLURM itself during a run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import pytest
from processes import until
from real_slurm import Slurm
from slurm_faults import Run, work

from dask_limits.exceptions import (
    MemoryBreach,
    WallTimeBreach,
    WorkerLostError,
    WorkersNotStartedError,
)

NewRun = Callable[..., Run]


def fill(folder: Path, number: int, gate: str, n_bytes: int = 500 << 20) -> int:
    """A call that takes this much memory and waits."""
    block = bytearray(n_bytes)
    return work(folder, number, gate) + len(block)


def fill_job_once(folder: Path, number: int, gate: str) -> int:
    """A call that exceeds the memory of its job the first time."""
    work(folder, number)
    if not (folder / "filled").exists():
        (folder / "filled").touch()
        fill(folder, -1, "never", 900 << 20)
    return number


def cancel_job(folder: Path, number: int, gate: str) -> int:
    """A call that ends its job each time it runs."""
    work(folder, number)
    subprocess.run(["scancel", os.environ["SLURM_JOB_ID"]], check=True)
    time.sleep(60)
    return number


def test_a_breach_in_a_job_leaves_the_worker_and_the_job_as_they_were(slurm, new_run: NewRun):
    run = new_run(n_workers=2)
    with run.going():
        run.submit(range(4), "opened")
        jobs = {one.job for one in run.wait_for(4)}
        run.open("opened")
        run.failing = {10, 11, 20, 21}
        run.submit(range(10, 12), "never", walltime_limit=5)
        run.submit(range(20, 22), "never", call=fill, memory_limit="200 MiB")
        until(lambda: all(run.futures[number].done() for number in run.failing))
        run.submit(range(30, 34), "both")
        assert {one.job for one in run.wait_for(10)[-4:]} == jobs == set(slurm.jobs())
        run.open("both")
    assert {type(run.futures[number].exception()) for number in (10, 11)} == {WallTimeBreach}
    assert {type(run.futures[number].exception()) for number in (20, 21)} == {MemoryBreach}
    assert not run.reruns


def test_calls_of_a_job_that_is_cancelled_run_again_and_those_that_waited_there_first(
    slurm: Slurm, new_run: NewRun
):
    run = new_run(
        n_workers=2, batch=False
    )  # of a batch that waits, all are told that they run again
    with run.going():
        run.submit(range(20, 40))  # they are quick, so later calls are sent ahead
        until(lambda: all(future.done() for future in run.futures.values()))
        run.submit(range(14), "opened")
        running = run.wait_for(24)[-4:]
        job = running[0].job
        slurm.run("scancel", job)
        until(lambda: len(run.reruns) == 2)
        run.open("opened")
    assert run.told() == {
        one.number: f"job {job} is CANCELLED" for one in running if one.job == job
    }
    assert {(error.job, attempt) for _, error, attempt in run.reruns} == {(job, 2)}


def test_a_node_that_is_set_down_loses_its_calls_to_the_other(slurm: Slurm, new_run: NewRun):
    run = new_run(n_workers=2, cores=3)  # one worker on each node
    try:
        with run.going():
            run.submit(range(6), "opened")
            nodes = {slurm.job(one.job)["NodeList"]: one.job for one in run.wait_for(4)[:4]}
            assert nodes.keys() == {"n1", "n2"}
            lost = [one.number for one in run.begun() if one.job == nodes["n1"]]
            slurm.node_down("n1")
            until(lambda: len(run.reruns) == len(lost))
            run.open("opened")
    finally:
        slurm.node_up("n1")
    job = nodes["n1"]
    assert run.told() == dict.fromkeys(lost, f"job {job} is NODE_FAIL (NodeDown)")


def test_a_job_over_its_memory_is_the_cause_that_its_calls_are_told(new_run: NewRun):
    run = new_run(n_workers=1)
    with run.going():
        run.submit(range(1), "opened")
        run.submit(range(1, 2), call=fill_job_once, memory_limit=None, walltime_limit=60)
        until(lambda: len(run.reruns) == 2, 40)
        run.open("opened")
    assert {cause.partition(" is ")[2] for cause in run.told().values()} == {
        "FAILED (over the memory of the job)"
    }


def test_a_call_that_ends_its_job_each_time_fails_and_hurts_no_other(slurm, new_run: NewRun):
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        run = new_run(n_workers=2, cores=1)
        run.failing = {1}
        with run.going():
            run.submit(range(1), "opened")
            run.wait_for(1)
            run.submit(range(1, 2), call=cancel_job)
            run.submit(range(2, 4))
            until(run.futures[1].done, 60)
            run.open("opened")
    error = run.futures[1].exception()
    assert isinstance(error, WorkerLostError)
    assert error.tries == 2
    jobs = [one.job for one in run.begun() if one.number == 1]
    assert len(jobs) == 2
    for number, job in enumerate(jobs, 1):
        assert f"  {number}. worker slurm-" in str(error)
        assert f" in job {job}: job {job} is CANCELLED" in str(error)
    assert [number for number, _, _ in run.reruns] == [1]


@pytest.fixture
def control(slurm: Slurm) -> Iterator[Callable[[int], None]]:
    """Sends signals to SLURM's controller, and brings it back at the end."""
    pid_file = slurm.folder / "ctld" / "pid"

    def send(number: int) -> None:
        os.kill(int(pid_file.read_text()), number)

    yield send
    try:
        send(signal.SIGCONT)
    except ProcessLookupError:
        start_controller(slurm)


def start_controller(slurm: Slurm, *options: str) -> None:
    environment = {"PATH": os.environ["PATH"], "SLURM_CONF": str(slurm.configuration)}
    subprocess.run(["slurmctld", *options], env=environment, check=True)
    until(
        lambda: "UP" in subprocess.run(["scontrol", "ping"], capture_output=True, text=True).stdout
    )


def wait_until_saved(slurm: Slurm, job: str) -> None:
    """Wait until the controller has saved a job, so that it knows the job after a restart."""
    state, now = slurm.folder / "ctld" / "job_state", time.time()
    slurm.run("scontrol", "update", f"jobid={job}", "comment=something to save")
    until(lambda: state.exists() and state.stat().st_mtime > now)


def test_a_run_goes_on_while_the_controller_hangs_or_is_gone(
    slurm: Slurm, new_run: NewRun, control: Callable[[int], None]
):
    run = new_run(n_workers=2)
    with run.going():
        run.submit(range(4), "first")
        wait_until_saved(slurm, run.wait_for(4)[0].job)
        control(signal.SIGSTOP)  # now squeue and the like hang
        run.open("first")
        run.submit(range(4, 12))
        until(lambda: all(future.done() for future in run.futures.values()))
        run.submit(range(12, 16), "second")
        run.wait_for(16)
        control(signal.SIGKILL)  # now they fail
        run.open("second")
        run.submit(range(16, 24))
        until(lambda: all(future.done() for future in run.futures.values()))
        start_controller(slurm)
    assert not run.reruns
    assert len(run.added) == 2


def test_a_job_that_slurm_has_forgotten_is_submitted_again(
    slurm: Slurm, new_run: NewRun, control: Callable[[int], None]
):
    for node in slurm.nodes:
        slurm.node_down(node)
    run = new_run(n_workers=1)
    run.scheduler.on_start(lambda: run.submit(range(1)))
    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(run.scheduler.run, timeout=100)
        until(lambda: any(job.state == "PENDING" for job in run.waiting))
        control(signal.SIGKILL)
        start_controller(slurm, "-c")  # without its saved state
        ended.result()
    run.check()
    assert {job.name for job in run.waiting} == {"slurm-0", "slurm-1"}


def test_jobs_that_slurm_does_not_take_are_told_at_once(new_run: NewRun):
    with pytest.raises(WorkersNotStartedError, match="invalid partition") as caught:
        new_run(queue="nonesuch").scheduler.run()
    assert "#SBATCH -p nonesuch" in caught.value.script
