"""Runs on a real SLURM, and their jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from processes import alive, all_gone, start_sleeping, until, wait_for, written_pid
from real_slurm import Slurm

from dask_limits import LimitedExecutor, PynisherPlugin, Scheduler, limit, progress
from dask_limits.exceptions import LimitRefusedError, MemoryBreach, WorkersNotStartedError


@pytest.fixture(autouse=True)
def jobs_find_this_module(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def made(tmp_path: Path, **options) -> Scheduler:
    given = {"cores": 2, "memory": "1 GiB", "walltime": "10 m", "interface": "lo"}
    given |= {"shared_temp_directory": str(tmp_path / "shared"), **options}
    return Scheduler.with_slurm(**given)


def whereabouts(seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return os.environ["SLURM_JOB_ID"]


def whereabouts_of_two(folder: Path) -> str:
    """When calls have begun in two jobs: the worker of one may come long after the other's."""
    (folder / whereabouts()).touch()
    until(lambda: len(list(folder.iterdir())) == 2, 200)
    return whereabouts()


def take(mib: int) -> int:
    return len(bytearray(mib * 2**20))


def test_a_limited_executor_has_jobs_of_slurm_and_leaves_none(slurm: Slurm, tmp_path: Path):
    """A breach costs one call, a cancel ends the call that runs, and the jobs end with it."""
    jobs = {"n_workers": 1, "cores": 2, "memory": "1 GiB", "walltime": "10 m", "interface": "lo"}
    jobs["shared_temp_directory"] = str(tmp_path / "shared")
    with LimitedExecutor("slurm", options=jobs, memory="100 MiB", wall_time=60) as executor:
        futures = [executor.submit(take, mib) for mib in (1, 300, 2)]
        assert isinstance(futures[1].exception(), MemoryBreach)
        assert [futures[n].result() for n in (0, 2)] == [2**20, 2**21]
        assert executor.submit(limit(take, memory="400 MiB"), 200).result() == 200 * 2**20
        assert list(executor.map(take, range(5))) == [n * 2**20 for n in range(5)]
        running = executor.submit(start_sleeping, tmp_path / "pid")
        pid = written_pid(tmp_path / "pid")
        assert running.cancel()
        all_gone({pid})
        assert futures[2].usage.peak_memory > 2**20
        assert slurm.jobs()
    assert not slurm.jobs()
    assert not (tmp_path / "shared").exists()


def test_a_run_has_the_jobs_that_it_asked_for_and_leaves_none(slurm: Slurm, tmp_path):
    scheduler = made(tmp_path, n_workers=2, job_name="mine")
    task = scheduler.task(whereabouts_of_two, plugins=PynisherPlugin(memory_limit="400 MiB"))
    workers, waited_for, jobs, asked = [], [], set(), {}
    begun = tmp_path / "begun"
    begun.mkdir()
    scheduler.on_worker_added(workers.append)
    scheduler.on_waiting_for_workers(waited_for.append)
    scheduler.on_start(lambda: [task.submit(begun) for _ in range(4)])

    @scheduler.on_start
    def look() -> None:
        with urllib.request.urlopen(scheduler.dashboard_link, timeout=60) as page:
            assert page.status == 200

    @task.on_result
    def note(_, job):
        jobs.add(job)
        asked[job] = slurm.job(job)

    scheduler.run()
    assert len(jobs) == 2  # a job of 1 GiB runs one call at a time
    assert {worker.job for worker in workers} == jobs
    assert {row.job for row in scheduler.report()} == jobs
    assert {row.worker for row in scheduler.report()} <= {worker.name for worker in workers}
    assert {job.state for states in waited_for for job in states} <= {"PENDING", "RUNNING"}
    for job in asked.values():
        assert (job["JobName"], job["TimeLimit"], job["Requeue"]) == ("mine", "00:10:00", "0")
        assert job["NumCPUs"] == "2"
        assert job["MinMemoryNode"] == "1G"
    assert not slurm.jobs()
    assert not (tmp_path / "shared").exists()


def get_on(path: str) -> str:
    progress(os.environ["SLURM_JOB_ID"])
    return str(wait_for(path, "over"))


def test_a_call_in_a_job_tells_how_far_it_is_and_can_be_pruned(slurm: Slurm, tmp_path):
    scheduler = made(tmp_path)
    task = scheduler.task(get_on, plugins=PynisherPlugin(wall_time="5 m"))
    scheduler.on_start(lambda: [task.submit(str(tmp_path / name)) for name in ("a", "b")])
    paths, told, ends = {}, [], []
    task.on_submitted(lambda future, path: paths.setdefault(future, path))

    @task.on_progress
    def end_one(future, job):
        told.append(job)
        if paths[future].endswith("a"):
            future.cancel()
        else:
            Path(paths[future]).touch()

    task.on_result(lambda _, result: ends.append(result))
    task.on_cancelled(lambda _: ends.append("cancelled"))
    scheduler.run(on_cancelled="continue")
    assert len(told) == 2
    assert sorted(ends) == ["cancelled", "over"]
    assert not slurm.jobs()


prepared: list[str] = []


def prepare(text: str) -> None:
    prepared.append(f"{text} in job {whereabouts()}")


def what_is_prepared(seconds: float) -> tuple[bool, list[str], str]:
    return "wave" in sys.modules, prepared, whereabouts(seconds)


def test_each_call_in_a_job_finds_what_is_to_be_done_before_it(slurm: Slurm, tmp_path):
    scheduler = made(tmp_path, preload=["wave"], initializer=prepare, initargs=["ready"])
    task = scheduler.task(what_is_prepared, plugins=PynisherPlugin(walltime_limit=(60, "s")))
    scheduler.on_start(lambda: [task.submit(seconds) for seconds in (0, 0.5, 0.5, 0)])
    found = []
    task.on_result(lambda _, value: found.append(value))
    scheduler.run(timeout=100)
    assert len(found) == 4
    for is_imported, done, job in found:
        assert is_imported
        assert done == [f"ready in job {job}"]
    assert "wave" not in sys.modules
    assert not prepared
    assert not slurm.jobs()


def test_what_jobs_turn_out_to_be_too_small_for_is_refused_and_not_waited_for(tmp_path):
    # Without --mem, a job of two cores has 1000 MB here.
    scheduler = made(tmp_path, job_directives_skip=["--mem"])
    task = scheduler.task(whereabouts, plugins=PynisherPlugin(memory_limit="760 MiB"))
    scheduler.on_start(lambda: task.submit())
    with pytest.raises(LimitRefusedError, match=r"760\.0 MiB .* more than 7\d\d\.\d MiB"):
        scheduler.run(timeout=60)


def test_a_run_begins_with_the_first_worker_and_tells_why_others_wait(slurm: Slurm, tmp_path):
    scheduler = made(tmp_path, n_workers=3, cores=3)  # there is room for two
    reasons = set()

    @scheduler.on_waiting_for_workers
    def note(jobs):
        reasons.update((job.state, job.reason) for job in jobs)
        if ("PENDING", "Resources") in reasons:
            scheduler.stop()

    scheduler.run(end_on_empty=False, timeout=150)
    assert ("PENDING", "Resources") in reasons
    assert not slurm.jobs()


def test_workers_come_for_a_burst_stay_for_the_next_and_go_when_there_is_none(slurm, tmp_path):
    adaptive = {"maximum": 3, "keep_idle": 10, "target_duration": 0.5}
    scheduler = made(tmp_path, adaptive=adaptive, cores=1)
    task = scheduler.task(whereabouts, plugins=PynisherPlugin(memory_limit="100 MiB"))
    jobs, added, removed, shown = [], [], [], []
    scheduler.on_worker_added(added.append)
    task.on_result(lambda _, job: jobs.append(job))

    @scheduler.on_worker_removed
    def go(*_):
        removed.append(time.monotonic())
        if bursts == 3 and len(removed) == len(added):
            waiting.cancel()

    def burst():
        for _ in range(9):
            task.submit(1)

    scheduler.on_start(burst)
    bursts, waiting = 1, None

    @scheduler.on_empty
    def again():
        nonlocal bursts, waiting
        bursts += 1
        if bursts == 2:
            scheduler.call_later(1, burst)
        elif bursts == 3:
            shown.extend(scheduler._run.cluster.lines())
            waiting = scheduler.call_later(100, lambda: None)  # until all have gone

    scheduler.run()
    assert len(jobs) == 18
    assert len(added) == 3  # none left between the bursts
    assert set(jobs) == {worker.job for worker in added}
    assert len(removed) == 3
    assert len(shown) == 1  # no jobs are waited for
    assert shown[0].startswith("3 workers, 3 cores, ")
    until(lambda: not slurm.jobs())


def program(tmp_path: Path, **options) -> subprocess.Popen[str]:
    """A driver in its own process, with a long call; it prints when the call runs."""
    code = f"""
        import time
        from dask_limits import PynisherPlugin, Scheduler

        def nap():
            print("napping", flush=True)
            time.sleep(600)

        if __name__ == "__main__":
            scheduler = Scheduler.with_slurm(
                n_workers=2, cores=2, memory="1 GiB", walltime="10 m", interface="lo",
                shared_temp_directory={str(tmp_path / "shared")!r}, **{options!r},
            )
            task = scheduler.task(nap, plugins=PynisherPlugin(memory_limit="400 MiB"))
            scheduler.on_start(lambda: [task.submit(), print("started", flush=True)])
            scheduler.run()
    """
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def workers_of(tmp_path: Path) -> set[int]:
    """All processes with this folder in their command line, and their children."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if str(tmp_path) in " ".join(process.info["cmdline"] or []):
            found |= {process.pid, *(child.pid for child in process.children(recursive=True))}
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_job_and_no_process_outlives_its_driver(slurm: Slurm, tmp_path, number):
    with program(tmp_path) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "started\n"
        until(lambda: sorted(slurm.jobs().values()) == ["RUNNING", "RUNNING"])
        processes = workers_of(tmp_path)
        os.killpg(driver.pid, number)  # as a terminal does
        until(lambda: not slurm.jobs(), 30)
        driver.communicate()
    until(lambda: not any(map(alive, processes)), 30)


def test_ctrl_c_while_jobs_wait_in_the_queue_cancels_them(slurm: Slurm, tmp_path):
    blocker = slurm.submit("sleep 600", "--nodes=2", "--exclusive")
    slurm.wait_for(blocker, "RUNNING")
    with program(tmp_path) as driver:
        until(lambda: list(slurm.jobs().values()).count("PENDING") == 2)
        os.killpg(driver.pid, signal.SIGINT)
        _, errors = driver.communicate()
    assert "KeyboardInterrupt" in errors
    assert list(slurm.jobs()) == [blocker]
    slurm.run("scancel", blocker)
    slurm.wait_until_empty()


def test_jobs_that_end_without_a_worker_are_told_with_their_script_and_log(slurm, tmp_path):
    scheduler = made(tmp_path, job_script_prologue=["echo no such module >&2", "exit 3"])
    with pytest.raises(WorkersNotStartedError) as caught:
        scheduler.run()
    error = caught.value
    assert "3 jobs in a row ended without a worker" in str(error)
    assert [job.state for job in error.jobs] == ["FAILED"] * 3
    assert "#SBATCH --cpus-per-task=2" in error.script
    assert error.log == "no such module"
    assert "no such module" in str(error)
    assert not slurm.jobs()


@pytest.mark.parametrize("odd", ["filter", "array"])
def test_a_job_that_waits_is_never_taken_for_one_that_is_gone(slurm, tmp_path, monkeypatch, odd):
    directives = ["--begin=now+1hour"]
    if odd == "filter":
        monkeypatch.setenv("SQUEUE_PARTITION", "another")  # as in some people's .bashrc
    else:
        directives.append("--array=0-0")  # squeue calls it 17_[0]
    scheduler = made(tmp_path, worker_timeout="6 s", job_extra_directives=directives)
    with pytest.raises(WorkersNotStartedError, match="No worker has started within 6 s") as caught:
        scheduler.run()
    assert [(job.state, job.reason) for job in caught.value.jobs] == [("PENDING", "BeginTime")]
    monkeypatch.delenv("SQUEUE_PARTITION", raising=False)
    assert not slurm.jobs()


def test_what_slurm_does_not_accept_is_told_in_its_words(slurm, tmp_path):
    with pytest.raises(WorkersNotStartedError, match=r"Batch job submission failed.*not available"):
        made(tmp_path, memory="9 GiB").run()


def test_when_no_worker_comes_in_time_the_queue_s_reason_is_told(slurm: Slurm, tmp_path):
    with pytest.raises(WorkersNotStartedError, match=r"PENDING \(BeginTime\)") as caught:
        made(tmp_path, worker_timeout="8 s", job_extra_directives=["--begin=now+1hour"]).run()
    assert [job.reason for job in caught.value.jobs] == ["BeginTime"]
    assert not slurm.jobs()
