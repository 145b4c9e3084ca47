"""Each process of a run, killed while calls run."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from processes import until
from real_slurm import Slurm
from slurm_faults import Run, above, begun_in, marked

NewRun = Callable[..., Run]


def test_a_worker_that_is_killed_is_started_again_in_its_job(slurm: Slurm, new_run: NewRun):
    run = new_run(n_workers=1)
    with run.going():
        run.submit(range(4), "opened")
        lost = [one.number for one in run.wait_for(2)]
        above(run.begun()[0].pid)["worker"].kill()
        run.open("opened")  # the reruns end at once, and are told all the same
        until(lambda: len(run.added) == 2)
        assert len(slurm.jobs()) == 1
    assert run.told().keys() == set(lost)
    assert {one.job for one in run.begun()} == {run.begun()[0].job}
    for cause in run.told().values():
        assert cause.startswith("its process ended")


def test_a_nanny_that_is_killed_takes_its_job_with_it(slurm: Slurm, new_run: NewRun):
    run = new_run(n_workers=1)
    with run.going():
        run.submit(range(4), "opened")
        lost = run.wait_for(2)
        above(lost[0].pid)["nanny"].kill()
        until(lambda: len(run.reruns) == 2)
        run.open("opened")
    cause = f"job {lost[0].job} is FAILED (killed by signal 9)"
    assert run.told() == dict.fromkeys([one.number for one in lost], cause)


def test_calls_whose_guardian_is_killed_run_again_on_their_worker(slurm: Slurm, new_run: NewRun):
    run = new_run(n_workers=2)
    with run.going():
        run.submit(range(4), "opened")
        job = run.wait_for(4)[0].job
        lost = [one for one in run.begun() if one.job == job]
        above(run.begun()[0].pid)["guardian"].kill()
        assert {one.job for one in run.wait_for(4 + len(lost))[4:]} == {job}
        run.open("opened")
    cause = "its guardian was killed, and the call with it"
    assert run.told() == dict.fromkeys([one.number for one in lost], cause)


def test_a_run_goes_on_without_its_canceller(slurm: Slurm, new_run: NewRun):
    run = new_run(n_workers=2)
    with run.going():
        run.submit(range(6), "opened")
        job = run.wait_for(4)[0].job
        lost = {one.number for one in run.begun() if one.job == job}
        canceller = next(one for one in marked(run.folder) if "canceller" in str(one.cmdline()))
        canceller.kill()
        slurm.run("scancel", job)
        until(lambda: len(run.added) == 3)  # jobs can still be submitted
        run.open("opened")
    assert lost <= run.told().keys()


def test_nothing_is_left_of_a_driver_that_is_killed(slurm: Slurm, new_run: NewRun, tmp_path: Path):
    code = f"""
        from pathlib import Path
        from slurm_faults import Run

        if __name__ == "__main__":
            run = Run(Path({str(tmp_path)!r}), n_workers=2)
            with run.going():
                run.submit(range(6), "never")
                run.wait_for(6)
    """
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(code))
    with subprocess.Popen([sys.executable, script]) as driver:
        until(lambda: len(begun_in(tmp_path)) == 4, 40)
        driver.kill()
    until(lambda: not slurm.jobs())
    until(lambda: not marked(tmp_path))
    (left,) = (tmp_path / "shared").iterdir()
    assert left.stat().st_mode & 0o077 == 0
    (tmp_path / "begun").unlink()
    run = new_run(n_workers=1)  # the next run removes the directory
    with run.going():
        assert not left.exists()
        run.submit(range(2))
