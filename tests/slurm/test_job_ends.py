"""Jobs whose time is up while there is more work."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from processes import until
from real_slurm import Slurm
from slurm_faults import Run, work

from dask_limits.exceptions import LimitRefusedError

NewRun = Callable[..., Run]


def first_ends_in(seconds: int, folder: Path, after: str = "true") -> list[str]:
    """Lines of a job script that make the first job end in so many seconds, once `after` succeeds.

    SLURM's own limits on time are whole minutes.
    """
    return [
        f"if mkdir {folder}/first; then",
        f"until {after}; do sleep 0.1; done",
        f"ends=$(( $(date +%s) + {seconds} ))",
        f"echo $ends > {folder}/first/ends",
        "scontrol update jobid=$SLURM_JOB_ID EndTime=$(date -d @$ends +%FT%T)",
        "export SLURM_JOB_END_TIME=$ends",  # as newer SLURMs do
        "fi",
    ]


def nap(folder: Path, number: int, gate: str) -> int:
    work(folder, number)
    time.sleep(1.5)
    return number


def load(path: Path) -> int:
    """An ordinary Dask task that notes how often it runs."""
    with path.open("a") as file:
        file.write("loaded\n")
    return 1000


def test_a_worker_leaves_in_time_and_others_go_on_with_what_it_has(
    slurm: Slurm, new_run: NewRun, tmp_path: Path
):
    other_is_there = tmp_path / "other is there"
    prologue = first_ends_in(25, tmp_path, after=f"[ -e '{other_is_there}' ]")
    run = new_run(n_workers=2, job_script_prologue=prologue)
    with run.going():
        until(lambda: len(run.added) == 1)
        other_is_there.touch()
        until(lambda: len(run.added) == 2)
        near, far = sorted(run.added, key=lambda worker: worker.ends_in)
        client = run.scheduler._run.executor.client
        kept = client.submit(load, tmp_path / "loads", workers=[near.address])
        run.submit(range(2), "opened", walltime_limit=300)  # only one job has time for them
        run.submit(range(2, 40), call=nap, walltime_limit=3)
        until(lambda: len(run.added) == 3, 100)  # the first has no time for all calls
        run.open("opened")
        until(lambda: all(future.done() for future in run.futures.values()), 100)
        assert kept.result() == 1000
        kept.release()
        assert slurm.state(near.job) in ("COMPLETED", "CANCELLED")  # not TIMEOUT
    there = [one for one in run.begun() if one.job == near.job]
    end = float((tmp_path / "first" / "ends").read_text())
    assert len(there) > 2
    assert all(one.at + 3 < end for one in there)
    assert {one.job for one in run.begun() if one.number < 2} == {far.job}
    assert not run.reruns
    assert len((tmp_path / "loads").read_text().splitlines()) == 1
    assert run.removed == [(near, "its job is about to end")]


def test_a_call_that_fits_into_no_job_is_refused_with_both_figures(new_run: NewRun):
    run = new_run()
    run.failing = {0, 1, 2}
    with run.going():
        run.submit(range(1), walltime_limit="1 h")
        run.submit(range(1, 2), memory_limit="2 GiB")
        run.submit(range(2, 3), cores=3)
        run.submit(range(3, 4), memory_limit="700 MiB", walltime_limit="8 m", cores=2)
    errors = [run.futures[number].exception() for number in range(3)]
    assert all(isinstance(error, LimitRefusedError) for error in errors)
    assert [(error.limit, error.asked) for error in errors] == [
        ("wall_time", 3600),
        ("memory", 2 << 30),
        ("cores", 3),
    ]
    assert 500 < errors[0].most < 600  # starting and leaving take some time
    assert [error.most for error in errors[1:]] == [run.added[0].memory, 2]
    for error, (asked, most) in zip(
        errors, [("3600 s", "5"), ("2.0 GiB", " MiB"), ("3 cores", "than 2")], strict=True
    ):
        assert asked in str(error)
        assert most in str(error)


def test_a_call_without_an_end_that_runs_into_that_of_its_job_runs_again(
    new_run: NewRun, tmp_path: Path
):
    prologue = [*first_ends_in(10, tmp_path), "unset SLURM_JOB_END_TIME"]
    run = new_run(n_workers=1, job_script_prologue=prologue)
    with run.going():
        run.submit(range(2), "opened")
        until(lambda: len(run.reruns) == 2, 60)
        run.open("opened")
    job = run.begun()[0].job
    assert run.told() == dict.fromkeys(range(2), f"job {job} is TIMEOUT (TimeLimit)")
