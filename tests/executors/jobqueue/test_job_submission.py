"""No job is left, however the driver ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from fake_batch_systems import BatchSystem
from processes import alive, until

from dask_limits import Scheduler
from dask_limits.executors.jobqueue import job_submission
from dask_limits.executors.jobqueue.job_submission import JobSubmitter
from dask_limits.executors.jobqueue.shared_directory import SharedDirectory


@pytest.mark.parametrize("forked", [False, True])
def test_no_job_outlives_a_driver_that_is_killed(tmp_path, forked):
    shared = tmp_path / "shared"
    folder = tmp_path / "jobs"
    folder.mkdir()
    system = BatchSystem("pbs", folder)
    code = f"""
        import multiprocessing, time
        from dask_limits import Scheduler

        def start():
            if {forked}:  # it inherits all open files of the driver, and outlives it
                child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[600])
                child.start()
                print(child.pid, flush=True)
            else:
                print(0, flush=True)

        if __name__ == "__main__":
            scheduler = Scheduler.with_pbs(
                n_workers=2, cores=1, memory="1 GiB", interface="lo",
                shared_temp_directory={str(shared)!r}, **{system.commands!r},
            )
            scheduler.on_start(start)
            scheduler.run(end_on_empty=False)
    """
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(code))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        child = int(driver.stdout.readline())
        until(lambda: len(system.groups()) == 2)
        driver.kill()
    until(lambda: not system.runs())
    if forked:
        os.kill(child, signal.SIGKILL)
        until(lambda: not alive(child))
    SharedDirectory(str(shared)).remove()
    assert not list(shared.iterdir())


def test_a_submit_command_that_hangs_holds_up_no_end_and_its_job_is_cancelled(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(job_submission, "_END_S", 0.1)
    (job := tmp_path / "job.sh").write_text("exec sleep 600")
    (folder := tmp_path / "jobs").mkdir()
    system = BatchSystem("pbs", folder)
    wait = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    slow = f"sh -c '{wait}; {system.submit_command} {job}'"
    scheduler = Scheduler.with_pbs(
        cores=1,
        memory="1 GiB",
        interface="lo",
        submit_command=slow,
        cancel_command=system.cancel_command,
        shared_temp_directory=tmp_path / "shared",
    )
    assert scheduler.run(timeout=0.5).code == "timeout"
    assert not system.groups()
    (tmp_path / "go").touch()
    until(lambda: system.groups())
    until(lambda: not system.runs())


def test_a_job_that_is_being_submitted_when_the_driver_is_killed_is_cancelled(tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir()
    system = BatchSystem("pbs", folder)
    slow = f"sh -c 'touch {tmp_path}/begun; sleep 1; {system.submit_command} \"$0\"'"
    code = f"""
        from dask_limits import Scheduler

        if __name__ == "__main__":
            Scheduler.with_pbs(
                cores=1, memory="1 GiB", interface="lo", submit_command={slow!r},
                cancel_command={system.cancel_command!r}, shared_temp_directory={str(tmp_path)!r},
            ).run()
    """
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(code))
    with subprocess.Popen([sys.executable, script]) as driver:
        until(lambda: (tmp_path / "begun").exists())
        driver.kill()
    until(lambda: system.groups())
    until(lambda: not system.runs())


def test_a_submission_that_has_just_ended_when_it_is_given_up_is_no_riddle_to_asyncio(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given_up, waitpid = threading.Event(), os.waitpid

    def waitpid_late(pid: int, options: int) -> tuple[int, int]:
        given_up.wait(30)
        return waitpid(pid, options)

    async def give_up() -> None:
        submitter = JobSubmitter("slurm", "true")
        with monkeypatch.context() as patch:
            patch.setattr(os, "waitpid", waitpid_late)  # asyncio calls it
            submission = asyncio.create_task(submitter.submit(["echo", "7"]))
            while not submitter._submitting:
                await asyncio.sleep(0)
            (process,) = submitter._submitting
            until(lambda: not alive(process.pid))  # it has ended; the loop does not run
            submitter.submit_no_more()
            given_up.set()
            assert await submission == "7\n"
        submitter.close()

    asyncio.run(give_up())
    assert caplog.messages == []
