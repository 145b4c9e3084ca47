"""Runs on simulated batch systems. Those on a real SLURM are in tests/slurm."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import sys
import time
from pathlib import Path

import distributed
import psutil
import pytest
from fake_batch_systems import BatchSystem
from processes import until, wait_for

from dask_limits import PynisherPlugin, Scheduler
from dask_limits.exceptions import WorkersNotStartedError
from dask_limits.executors.jobqueue import JobQueueExecutor, JobSpec, pooled_job

# Options for each batch system, and what its job script must contain.
ASKED = {
    "pbs": (
        {"queue": "short"},
        ["#PBS -q short", "select=1:ncpus=2:mem=512MB", "walltime=00:10:00"],
    ),
    "moab": ({"account": "me"}, ["#PBS -A me", "ncpus=2:mem=512MB", "walltime=00:10:00"]),
    "sge": ({"resource_spec": "mem_free=512M"}, ["#$ -l mem_free=512M", "#$ -l h_rt=00:10:00"]),
    "lsf": ({"lsf_units": "mb"}, ["#BSUB -n 2", "#BSUB -M 537", "#BSUB -W 00:10"]),
    "oar": (
        {"memory_per_core_property_name": "memcore"},
        ["/nodes=1/core=2,walltime=00:10:00", "memcore>=256"],
    ),
    "htcondor": ({"disk": "1 GiB"}, ["MY.DaskWorkerCores = 2", "MY.DaskWorkerMemory = 536870912"]),
}


@pytest.fixture(autouse=True)
def jobs_find_this_module(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture
def shared(tmp_path):
    return tmp_path / "shared"


def made(name: str, tmp_path: Path, **options) -> tuple[Scheduler, BatchSystem]:
    """A scheduler with one worker, in a job of a simulated batch system."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    system = BatchSystem(name, folder)
    given = {"cores": 2, "memory": "512 MiB", "interface": "lo"}
    if name != "htcondor":
        given["walltime"] = "10 m"
    given |= {"shared_temp_directory": tmp_path / "shared", **system.commands, **options}
    return Scheduler.with_jobqueue(name, **given), system


def square(x):
    return x * x


@pytest.mark.parametrize("name", ASKED)
def test_a_run_completes_on_each_batch_system_and_leaves_no_job(name, tmp_path, shared):
    options, asked = ASKED[name]
    scheduler, system = made(name, tmp_path, **options)
    task = scheduler.task(square, plugins=PynisherPlugin(memory_limit="200 MiB"))
    scheduler.on_start(lambda: task.submit(3))
    results, workers = [], []
    task.on_result(lambda future, result: results.append(result))
    scheduler.on_worker_added(workers.append)
    scheduler.run()
    assert results == [9]
    assert [worker.name for worker in workers] == [f"{name}-0"]
    (script,) = system.scripts()
    for words in [*asked, "--tls-cert", "--memory-limit 536870912B", "exec "]:
        assert words in script
    assert not system.runs()
    assert not shared.exists()


def test_a_shutdown_that_does_not_wait_ends_the_jobs_all_the_same(tmp_path, shared):
    (folder := tmp_path / "jobs").mkdir()
    system = BatchSystem("pbs", folder)
    given = {"cores": 1, "memory": "512 MiB", "interface": "lo", "shared_temp_directory": shared}
    executor = JobQueueExecutor.start(JobSpec("pbs", **given, **system.commands))
    until(system.groups)
    executor.shutdown(wait=False)
    until(lambda: not system.runs() and not shared.exists())


# -- who can read, and who can connect -----------------------------------------------------


def listening(pids: set[int]) -> dict[str, set[int]]:
    """The addresses on which these processes listen, and which of them do."""
    found: dict[str, set[int]] = {}
    for pid in pids:
        for connection in psutil.Process(pid).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.setdefault(connection.laddr.ip, set()).add(pid)
    return found


async def connect(address: str, security: distributed.Security | None) -> None:
    async with distributed.Client(address, security=security, timeout=1, asynchronous=True):
        pass


def test_all_of_it_listens_on_the_interface_asked_for_and_knows_its_clients(tmp_path, shared):
    scheduler, system = made("pbs", tmp_path)
    seen = {}

    @scheduler.on_start
    def look():
        (directory,) = shared.iterdir()
        keys = [path for path in directory.iterdir() if "worker.key" in path.name]
        seen["modes"] = {stat.S_IMODE(path.stat().st_mode) for path in [directory, *keys]}
        (group,) = system.groups()
        workers = {group, *(child.pid for child in psutil.Process(group).children(recursive=True))}
        seen["here"] = listening({os.getpid()})
        seen["workers"] = listening(workers)
        address = scheduler._run.executor.client.scheduler.address
        seen["protocol"] = address.partition(":")[0]
        with pytest.raises(OSError):
            asyncio.run(connect(address, distributed.Security.temporary()))
        with pytest.raises(OSError):
            asyncio.run(connect(address.replace("tls", "tcp"), None))

    scheduler.run()
    assert seen["modes"] == {0o700, 0o600}
    assert set(seen["here"]) == {"127.0.0.1"}
    assert set(seen["workers"]) == {"127.0.0.1"}
    assert len(seen["workers"]["127.0.0.1"]) == 2  # the worker and its nanny
    assert seen["protocol"] == "tls"


def test_credentials_can_be_yours_and_can_be_left_out(tmp_path):
    (tmp_path / "without").mkdir()
    scheduler, system = made("pbs", tmp_path / "without", security=False)
    scheduler.run()
    assert "--tls" not in system.scripts()[0]

    mine = distributed.Security.temporary()
    for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
        path = tmp_path / name
        path.write_text(getattr(mine, name))
        setattr(mine, name, str(path))
    (tmp_path / "with").mkdir()
    scheduler, system = made("pbs", tmp_path / "with", security=mine)
    scheduler.run()
    assert f"--tls-key {tmp_path}/tls_worker_key" in system.scripts()[0]


# -- what goes wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("logs", [None, "my/logs"])
def test_what_a_submit_command_says_when_it_fails_is_told_and_no_folder_is_left(
    tmp_path, shared, logs
):
    command = "sh -c 'echo your account is empty: $0 >&2; exit 3'"
    logs = logs and str(tmp_path / logs)
    scheduler, _ = made("pbs", tmp_path, submit_command=command, log_directory=logs)
    with pytest.raises(
        WorkersNotStartedError, match=f"exit code 3: your account is empty: {shared}/run-"
    ) as caught:
        scheduler.run()
    assert "#PBS -l walltime=00:10:00" in caught.value.script
    assert {path.name for path in tmp_path.iterdir()} == {"jobs"}


def test_calls_fail_after_jobs_in_a_row_have_failed_and_later_ones_are_not_taken(tmp_path):
    scheduler, _ = made("pbs", tmp_path)
    errors = []

    @scheduler.on_start
    def begin():
        for _ in range(2):
            scheduler.submit(time.sleep, 600)
        executor = scheduler._run.executor
        executor.client.loop.add_callback(executor._pool._give_up, "No job could be submitted")

    @scheduler.on_future_exception
    def try_again(_, error):
        errors.append(error)
        with pytest.raises(WorkersNotStartedError, match="No job could be submitted"):
            scheduler.submit(square, 2)

    assert scheduler.run(timeout=200, on_exception="continue").code == "exhausted"
    first, second = errors
    assert first is not second  # a copy each: notes may be added to it
    assert str(first) == str(second)
    assert first.script == second.script != ""


def test_a_job_whose_worker_comes_and_goes_while_others_are_submitted_is_replaced(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(pooled_job, "_AWAY_S", 0.5)
    submit = tmp_path / "submit"
    waits = f"case $1 in */pbs-1.sh) until [ -e {tmp_path}/gone ]; do sleep 0.1; done;; esac"
    scheduler, system = made("pbs", tmp_path, n_workers=2, submit_command=f"sh {submit}")
    submit.write_text(f'{waits}\nexec {system.submit_command} "$@"\n')
    workers = []

    @scheduler.on_start
    def begin():
        for _ in range(6):
            scheduler.submit(wait_for, tmp_path / "replaced")

    @scheduler.on_worker_added
    def lose_the_first(worker):
        workers.append(worker.name)
        if len(workers) == 1:
            os.killpg(min(system.groups()), signal.SIGKILL)
        elif len(workers) == 3:
            (tmp_path / "replaced").touch()

    scheduler.on_worker_removed(lambda *_: (tmp_path / "gone").touch())
    assert scheduler.run(timeout=200, wait=False, on_cancelled="continue").code == "exhausted"
    assert workers[0] == "pbs-0"
    assert sorted(workers[1:]) == ["pbs-1", "pbs-2"]  # either may be the first to have started


def test_lsf_s_words_are_told_too(tmp_path):
    scheduler, _ = made("lsf", tmp_path, submit_command="echo no such queue >&2; false ")
    with pytest.raises(WorkersNotStartedError, match="no such queue"):
        scheduler.run()


def test_when_no_worker_comes_in_time_the_script_and_the_log_are_told(tmp_path):
    clutter = f"for logs in {tmp_path}/shared/run-*/logs; do mkdir $logs/1; done"
    prologue = [clutter, "echo module: not found", "sleep 60"]
    options = {"job_script_prologue": prologue, "worker_timeout": 1, "log_directory": None}
    submit = tmp_path / "submit"
    scheduler, system = made("sge", tmp_path, submit_command=f"sh {submit}", **options)
    said = f"grep -qs found {tmp_path}/shared/run-*/logs/*"  # however long the job takes for that
    submit.write_text(f'{system.submit_command} "$@"\nuntil {said}; do sleep 0.1; done\n')
    with pytest.raises(WorkersNotStartedError, match="No worker has started within 1 s") as caught:
        scheduler.run()
    error = caught.value
    assert error.log == "module: not found"
    path = re.search(r"The end of (\S+):", str(error))
    assert path is not None
    assert Path(path[1]).read_text() == "module: not found\n"  # the log is kept
    assert [job.name for job in error.jobs] == ["sge-0"]
    assert not system.runs()


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("slurm", "sbatch and scancel, to submit and cancel SLURM jobs"),
        ("pbs", "qsub and qdel, to submit and cancel PBS jobs"),
        ("moab", "msub and canceljob, to submit and cancel Moab jobs"),
        ("sge", "qsub and qdel, to submit and cancel SGE jobs"),
        ("lsf", "bsub and bkill, to submit and cancel LSF jobs"),
        ("oar", "oarsub and oardel, to submit and cancel OAR jobs"),
        ("htcondor", "condor_submit and condor_rm, to submit and cancel HTCondor jobs"),
    ],
)
def test_without_the_commands_of_a_batch_system_they_are_named(
    tmp_path, shared, monkeypatch, name, commands
):
    options, _ = ASKED.get(name, ({}, []))
    given = {"cores": 2, "memory": "512 MiB", "shared_temp_directory": shared, **options}
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(WorkersNotStartedError, match=f"Cannot find {commands}.*login node"):
        Scheduler.with_jobqueue(name, **given).run()
    assert not shared.exists()


def test_a_run_does_not_begin_where_it_could_not_end_its_jobs_or_write_their_files(tmp_path):
    scheduler, system = made("pbs", tmp_path, cancel_command="no-such-program")
    with pytest.raises(WorkersNotStartedError, match="Cannot find no-such-program"):
        scheduler.run()
    (tmp_path / "file").touch()
    scheduler = Scheduler.with_pbs(
        cores=1, memory="1 GiB", shared_temp_directory=tmp_path / "file", **system.commands
    )
    with pytest.raises(FileExistsError, match=r"another directory .*`shared_temp_directory`"):
        scheduler.run()
    assert not system.scripts()
