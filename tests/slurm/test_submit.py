"""`dask-limits submit`: a driver in a job, and in the next one when the time of that one is up."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from processes import until
from real_slurm import Slurm, running

SUBMIT = [sys.executable, "-P", "-m", "dask_limits", "submit"]
MARGIN = ["--walltime", "10m", "--margin", "295s"]
NEARLY_UP = "scontrol update jobid=$SLURM_JOB_ID timelimit=5; kill -USR1 $PPID"
"""With this margin, a command that runs this gets SIGTERM when its job is five seconds old, or
older, however long both took to start: somebody gives the job less time, and SLURM says that its
end is near."""
STEPS = """
# Step by step, in each job four at most; each is noted when it is done.
count() { cat steps 2>/dev/null | wc -l; }
trap 'echo "$SLURM_JOB_ID" >> terminated; exit 3' TERM
while [ "$(count)" -lt 14 ]; do
  begun=$(count)
  echo "$begun $SLURM_JOB_ID" >> steps
  here=$((here + 1))
  if [ "$here" = 4 ]; then NEARLY_UP; while :; do sleep 0.1; done; fi
done
""".replace("NEARLY_UP", NEARLY_UP)


class Chain:
    def __init__(self, slurm: Slurm, folder: Path, said: str) -> None:
        self.slurm = slurm
        self.folder = folder
        self.said = said
        self.first = re.search(r"Submitted job (\d+)", said)[1]  # type: ignore[index]
        self.name = re.search(r"--name=(\S+)", said)[1]  # type: ignore[index]

    def jobs(self) -> dict[str, str]:
        """All jobs of it that SLURM knows, and their states."""
        text = self.slurm.run("squeue", "-h", f"--name={self.name}", "-t", "all", "-o", "%A %T")
        return dict(line.split() for line in text.splitlines())

    def wait_for_end(self, timeout_s: float = 120) -> None:
        until(lambda: not self.slurm.jobs(), timeout_s)

    def log(self, job: str | None = None) -> str:
        path = self.folder / f"driver-{job or self.first}.log"
        return path.read_text() if path.exists() else ""

    def line_that_stops_it(self) -> list[str]:
        return re.search(r"to stop it: +(.*)", self.said)[1].split()  # type: ignore[index]


@pytest.fixture
def submit(slurm: Slurm, tmp_path: Path, monkeypatch) -> Iterator[Callable[..., Chain]]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)

    def submit(*arguments: str) -> Chain:
        said = subprocess.run([*SUBMIT, *arguments], capture_output=True, text=True)
        assert (said.returncode, said.stderr) == (0, ""), said.stderr
        return Chain(slurm, tmp_path, said.stdout)

    try:
        yield submit
        assert not slurm.jobs()
    finally:
        slurm.clear()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_driver_that_ends_three_times_before_its_wall_time_does_each_step_once(
    submit, tmp_path: Path
):
    (tmp_path / "steps.sh").write_text(STEPS)
    chain = submit(*MARGIN, "--", "bash", "steps.sh")
    chain.wait_for_end(200)
    steps = [line.split() for line in lines(tmp_path / "steps")]
    assert [int(number) for number, _ in steps] == list(range(14))
    jobs = sorted(chain.jobs(), key=int)
    assert len(jobs) == 4
    assert list(dict.fromkeys(job for _, job in steps)) == jobs
    assert lines(tmp_path / "terminated") == jobs[:3]
    assert set(chain.jobs().values()) == {"COMPLETED"}
    assert f"job {jobs[1]} goes on" in chain.log(jobs[0])
    assert "ended with exit code 0: no further job is submitted" in chain.log(jobs[3])
    assert chain.name.startswith("steps.sh-")


def test_environment_folder_python_and_arguments_are_those_of_the_submit(
    submit, tmp_path: Path, monkeypatch
):
    awkward = ["a b", "$(touch hole)", "'\"", "line\n#SBATCH --time=99\nline", "*", "ü"]
    (tmp_path / "where.py").write_text(
        "import os, sys, time, json\n"
        "first = not os.path.exists('first')\n"
        "name = 'first' if first else 'second'\n"
        "names = ['MINE', 'PATH', 'SLURM_CPUS_PER_TASK']\n"
        "about = [sys.executable, os.getcwd(), *sys.argv, *map(os.environ.get, names)]\n"
        "open(name, 'w').write(json.dumps(about))\n"
        f"nearly_up = {NEARLY_UP!r}.replace('$PPID', str(os.getppid()))\n"
        "first and (os.system(nearly_up), time.sleep(600))\n"
    )
    (tmp_path / "click.py").write_text("raise SystemExit('a module of the user, by chance')")
    monkeypatch.setenv("MINE", "of\nmy own")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "7")  # as in an interactive job: not this one's
    chain = submit(*MARGIN, "--", sys.executable, "where.py", *awkward)
    chain.wait_for_end()
    expected = [sys.executable, str(tmp_path), "where.py", *awkward]
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("first", "second"))
    assert first == second == [*expected, "of\nmy own", os.environ["PATH"], "1"]
    assert not (tmp_path / "hole").exists()


@pytest.mark.parametrize("how", ["its own line", "its id", "all of a user"])
def test_a_chain_that_is_cancelled_stays_cancelled(submit, slurm: Slurm, tmp_path: Path, how: str):
    chain = submit("--walltime", "2m", "--margin", "10s", "--", "sh", "-c", ": > runs; sleep 600")
    until((tmp_path / "runs").exists, 200)
    command = {
        "its own line": chain.line_that_stops_it(),
        "its id": ["scancel", chain.first],
        "all of a user": ["scancel", "--me"],
    }[how]
    slurm.run(*command)
    chain.wait_for_end()
    assert chain.jobs() == {chain.first: "CANCELLED"}


def test_a_chain_that_is_cancelled_while_its_job_ends_stays_cancelled(
    submit, slurm: Slurm, tmp_path
):
    stubborn = f"trap ': > told' TERM; {NEARLY_UP}; while :; do sleep 0.1; done"
    chain = submit(*MARGIN, "--", "bash", "-c", stubborn)
    until((tmp_path / "told").exists)
    until(lambda: len(slurm.jobs()) == 2)  # the next one waits for the end of this one
    slurm.run("scancel", chain.first)
    chain.wait_for_end()
    assert set(chain.jobs().values()) == {"CANCELLED"}
    assert len(chain.jobs()) == 2


def test_no_more_jobs_run_than_are_asked_for(submit, tmp_path: Path):
    command = f"echo >> runs; {NEARLY_UP}; sleep 600"
    chain = submit(*MARGIN, "--times", "2", "--", "sh", "-c", command)
    chain.wait_for_end()
    assert len(lines(tmp_path / "runs")) == 2
    jobs = sorted(chain.jobs(), key=int)
    assert [chain.jobs()[job] for job in jobs] == ["COMPLETED", "FAILED"]
    assert "--times 2 is reached: no further job is submitted" in chain.log(jobs[1])


def test_a_driver_that_is_killed_ends_the_chain_and_its_exit_code_is_the_jobs(
    submit, slurm: Slurm, tmp_path: Path
):
    chain = submit(
        "--walltime", "2m", "--margin", "10s", "--", "sh", "-c", "sleep 600 & echo $$ > pid; wait"
    )
    until(lambda: bool(lines(tmp_path / "pid")))
    (child,) = psutil.Process(int(lines(tmp_path / "pid")[0])).children()
    os.kill(int(lines(tmp_path / "pid")[0]), signal.SIGKILL)
    chain.wait_for_end()
    assert slurm.job(chain.first)["ExitCode"] == "137:0"
    assert chain.jobs() == {chain.first: "FAILED"}
    assert not child.is_running()


def test_nothing_is_left_of_a_chain_whose_supervisor_is_killed(submit, slurm, tmp_path: Path):
    chain = submit(
        "--walltime",
        "2m",
        "--margin",
        "10s",
        "--",
        "sh",
        "-c",
        "sleep 600 & echo $$ $PPID > pid; wait",
    )
    until(lambda: bool(lines(tmp_path / "pid")))
    driver, supervisor = map(int, lines(tmp_path / "pid")[0].split())
    os.kill(supervisor, signal.SIGKILL)
    chain.wait_for_end()
    until(lambda: not psutil.pid_exists(driver), 20)
    assert chain.jobs() == {chain.first: "FAILED"}


def test_a_job_that_loses_its_node_is_started_again_by_slurm_once(submit, slurm: Slurm, tmp_path):
    count = "echo >> runs; [ $(wc -l < runs) = 2 ] || sleep 600"
    chain = submit("--walltime", "5m", "--margin", "10s", "--", "sh", "-c", count)
    until(lambda: len(lines(tmp_path / "runs")) == 1)
    node = slurm.job(chain.first)["NodeList"]
    slurm.node_down(node)
    slurm.node_up(node)
    chain.wait_for_end(90)
    assert len(lines(tmp_path / "runs")) == 2
    assert chain.jobs() == {chain.first: "COMPLETED"}


def test_time_that_somebody_adds_is_used(submit, slurm: Slurm, tmp_path: Path):
    options = ["--walltime", "1m", "--margin", "30s", "--"]  # it would get SIGTERM after 30 seconds
    chain = submit(*options, "sh", "-c", ": > runs; trap ': > told' TERM; sleep 40 & wait")
    until((tmp_path / "runs").exists, 200)
    slurm.run("scontrol", "update", f"jobid={chain.first}", "timelimit=5")
    chain.wait_for_end()
    assert not (tmp_path / "told").exists()
    assert chain.jobs() == {chain.first: "COMPLETED"}


def test_a_second_chain_of_one_name_is_refused(submit, slurm: Slurm, tmp_path: Path):
    options = ["--name", "mine", "--walltime", "2m", "--margin", "10s", "--"]
    chain = submit(*options, "sleep", "600")
    said = subprocess.run([*SUBMIT, *options, "true"], capture_output=True, text=True)
    slurm.run(*chain.line_that_stops_it())
    assert said.returncode == 2
    assert f"A job of the name mine is in the queue already ({chain.first})" in said.stderr
    chain.wait_for_end()


def test_what_slurm_refuses_is_said_in_its_words(slurm: Slurm, tmp_path: Path):
    options = ["--queue", "nowhere", "--log", str(tmp_path), "--walltime", "1h"]
    said = subprocess.run([*SUBMIT, *options, "true"], capture_output=True, text=True)
    assert said.returncode == 1
    assert "The job cannot be submitted: sbatch failed with exit code 1" in said.stderr
    assert "invalid partition" in said.stderr


PREEMPTION = """
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
PartitionName=cancelled Nodes=n1 PriorityTier=1 PreemptMode=CANCEL DefaultTime=60
PartitionName=requeued Nodes=n1 PriorityTier=1 PreemptMode=REQUEUE DefaultTime=60
PartitionName=first Nodes=n1 PriorityTier=10 PreemptMode=OFF DefaultTime=60
"""


def test_a_preempted_job_goes_on_once_whether_slurm_starts_it_again_or_not(
    submit, folder: Path, tmp_path: Path, monkeypatch
):
    with running(folder) as own:
        monkeypatch.setenv("SLURM_CONF", str(own.configuration))
        with own.configuration.open("a") as file:
            file.write(PREEMPTION)
        own.run("scontrol", "reconfigure")
        for queue, n_jobs in [("cancelled", 2), ("requeued", 1)]:
            ran = tmp_path / queue
            code = f"echo >> {ran}; [ $(wc -l < {ran}) = 2 ] || sleep 600"
            options = ["--walltime", "5m", "--margin", "10s", "--cores", "4", "--queue", queue]
            chain = submit(*options, "--", "sh", "-c", code)
            chain.slurm = own
            until(lambda ran=ran: len(lines(ran)) == 1)
            own.submit("sleep 1", "--partition=first", "--ntasks=4")
            chain.wait_for_end(120)
            assert len(lines(ran)) == 2, chain.log()
            assert len(chain.jobs()) == n_jobs


DRIVER = """
import os, sys, time
from pathlib import Path
from dask_limits import Scheduler

def note(n):
    with Path("calls").open("a") as file:
        print(n, file=file)
    time.sleep(0.1 if n < 3 or Path("second").exists() else 600)
    return n

if __name__ == "__main__":
    results = Path("results")
    if results.exists():
        Path("second").touch()
    options = {"n_workers": 1, "cores": 1, "memory": "500 MiB", "walltime": "5 m"}
    scheduler = Scheduler.with_slurm(**options, shared_temp_directory=os.getcwd())
    scheduler.on_start(lambda: scheduler.map(note, range(6)))

    @scheduler.on_future_result
    def keep(future, n):
        with results.open("a") as file:
            print(n, future.from_journal, file=file)
        if n == 2 and not Path("second").exists():  # the others do not end
            os.system(NEARLY_UP.replace("$PPID", str(os.getppid())))

    scheduler.on_finished(lambda: print("finished", flush=True))
    scheduler.run(journal="run.sqlite")
""".replace("NEARLY_UP", repr(NEARLY_UP))


def test_the_jobs_of_a_driver_go_with_it_and_the_next_driver_has_its_own(submit, tmp_path: Path):
    (tmp_path / "driver.py").write_text(DRIVER)
    chain = submit(*MARGIN, "--", sys.executable, "driver.py")
    chain.wait_for_end(240)
    results = [line.split() for line in lines(tmp_path / "results")]
    first = [n for n, past in results if past == "False"]
    again = [n for n, past in results if past == "True"]
    jobs = sorted(chain.jobs(), key=int)
    logs = "".join(map(chain.log, jobs))
    assert sorted(map(int, first)) == list(range(6)), logs  # each is told as new once
    assert {"0", "1", "2"} <= set(again)
    calls = lines(tmp_path / "calls")
    assert all(calls.count(n) == 1 for n in again[:3])  # what was told did not run again
    assert len(jobs) == 2
    assert "finished" in chain.log(jobs[1])
    assert "finished" in chain.log(jobs[0])  # it got SIGTERM
    assert list(tmp_path.glob("run-*")) == []
