"""Clusters of the batch systems that cannot be had here; tests/slurm has those of a real SLURM."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dask
import distributed
import numpy as np
import psutil
import pytest
from fake_batch_systems import BatchSystem
from processes import alive, until

from dask_limits import PynisherPlugin, Scheduler
from dask_limits.exceptions import WorkersNotStartedError
from dask_limits.executors.jobqueue import make_spec, submission
from dask_limits.executors.jobqueue.adaptive import Adaptive
from dask_limits.executors.jobqueue.shared_directory import SharedDirectory

# What each is asked for, and what of it must stand in the job.
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
    """A scheduler with one worker, in a job of a batch system that there is not."""
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


# -- who can read, and who can connect -----------------------------------------------------


def listening(pids: set[int]) -> dict[str, set[int]]:
    """On which addresses these processes listen, and who."""
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


def test_the_directories_of_drivers_that_were_killed_are_removed_and_no_others(tmp_path, shared):
    code = f"""
        import os, signal
        from dask_limits.executors.jobqueue.shared_directory import SharedDirectory
        SharedDirectory({str(shared)!r})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    (killed,) = shared.iterdir()
    here = SharedDirectory(str(shared))
    assert not killed.exists()
    failed = SharedDirectory(str(shared))
    (failed.path / "key").touch()
    (failed.logs / "job.out").write_text("no such module")
    failed.remove(keep_logs=True)
    assert here.path.exists()
    SharedDirectory(str(shared)).remove()
    here.remove()
    assert sorted(path.name for path in failed.path.iterdir()) == ["kept", "logs"]
    os.utime(failed.path / "kept", (0, 0))
    SharedDirectory(str(shared)).remove()
    assert not list(shared.iterdir())


def test_directories_of_the_user_stay_whatever_they_are_called(shared):
    results = shared / "run-2025" / "results"
    results.mkdir(parents=True)
    (shared / "run-2025" / "lock").touch()
    (shared / "run-old").mkdir()
    (shared / "run-old" / "kept").touch()
    os.utime(shared / "run-old" / "kept", (0, 0))
    SharedDirectory(str(shared)).remove()
    assert {path.name for path in shared.iterdir()} == {"run-2025", "run-old"}
    assert results.exists()


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

    assert scheduler.run(timeout=40, on_exception="continue").code == "exhausted"
    first, second = errors
    assert first is not second  # each may get notes of its own
    assert str(first) == str(second)
    assert first.script == second.script != ""


def test_lsf_s_words_are_told_too(tmp_path):
    scheduler, _ = made("lsf", tmp_path, submit_command="echo no such queue >&2; false ")
    with pytest.raises(WorkersNotStartedError, match="no such queue"):
        scheduler.run()


def test_when_no_worker_comes_in_time_the_script_and_the_log_are_told(tmp_path):
    clutter = f"for logs in {tmp_path}/shared/run-*/logs; do mkdir $logs/1; done"
    prologue = [clutter, "echo module: not found", "sleep 60"]
    options = {"job_script_prologue": prologue, "worker_timeout": 1, "log_directory": None}
    scheduler, system = made("sge", tmp_path, **options)
    with pytest.raises(WorkersNotStartedError, match="No worker has come within 1 s") as caught:
        scheduler.run()
    error = caught.value
    assert error.log == "module: not found"
    path = re.search(r"The end of (\S+):", str(error))
    assert path is not None
    assert Path(path[1]).read_text() == "module: not found\n"  # is kept
    assert [job.name for job in error.jobs] == ["sge-0"]
    assert not system.runs()


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("slurm", "sbatch and scancel, the commands of SLURM"),
        ("pbs", "qsub and qdel, the commands of PBS"),
        ("moab", "msub and canceljob, the commands of Moab"),
        ("sge", "qsub and qdel, the commands of SGE"),
        ("lsf", "bsub and bkill, the commands of LSF"),
        ("oar", "oarsub and oardel, the commands of OAR"),
        ("htcondor", "condor_submit and condor_rm, the commands of HTCondor"),
    ],
)
def test_without_the_commands_of_a_batch_system_they_are_named(
    tmp_path, shared, monkeypatch, name, commands
):
    options, _ = ASKED.get(name, ({}, []))
    given = {"cores": 2, "memory": "512 MiB", "shared_temp_directory": shared, **options}
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(WorkersNotStartedError, match=f"cannot find {commands}.*login node"):
        Scheduler.with_jobqueue(name, **given).run()
    assert not shared.exists()


def test_a_run_does_not_begin_where_it_could_not_end_its_jobs_or_write_their_files(tmp_path):
    scheduler, system = made("pbs", tmp_path, cancel_command="no-such-program")
    with pytest.raises(WorkersNotStartedError, match="cannot find no-such-program"):
        scheduler.run()
    (tmp_path / "file").touch()
    scheduler = Scheduler.with_pbs(
        cores=1, memory="1 GiB", shared_temp_directory=tmp_path / "file", **system.commands
    )
    with pytest.raises(FileExistsError, match=r"another directory .*`shared_temp_directory`"):
        scheduler.run()
    assert not system.scripts()


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
        ("slurm", {"cores": 1, "memory": "1 GiB", "wall_time": 3}, "Did you mean 'walltime'"),
        ("slurm", {"cores": 0, "memory": "1 GiB"}, "cores=0 must be a whole number"),
        ("slurm", {"cores": 1, "memory": "1 lot"}, "unknown unit, 'lot'"),
        ("slurm", {"cores": 1, "memory": 1e9, "walltime": "1:2:3:4"}, "no|not a time that slurm"),
        ("slurm", {"cores": 1, "memory": 1e9, "host": "me"}, "scheduler_options={'host'"),
        ("slurm", {"cores": 1, "memory": 1e9, "n_workers": 0}, "n_workers=0 must be"),
        ("slurm", {"cores": 1, "memory": 1e9, "adaptive": True}, "adaptive=True needs n_workers"),
        ("slurm", {"cores": 1, "memory": 1e9, "adaptive": (3, 2)}, "minimum=3 must be"),
        ("slurm", {"cores": 1, "memory": 1e9, "adaptive": {"most": 2}}, "must have 'maximum'"),
        ("slurm", {"cores": 1, "memory": 1e9, "processes": 2}, "processes=2 is more than cores=1"),
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
    with pytest.raises(TypeError, match="security='yes' is a str"):
        Scheduler.with_slurm(cores=1, memory="1 GiB", security="yes")
    with pytest.raises(TypeError, match="adaptive='yes' is a str"):
        Scheduler.with_slurm(cores=1, memory="1 GiB", adaptive="yes")
    with pytest.raises(TypeError, match=r"job_extra_directives='-q x' .* must be a list"):
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
        spec = make_spec("slurm")
    assert (spec.cores, spec.memory, spec.processes, spec.walltime_s) == (4, 2**33, 2, 7200)
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
        ("lsf", 720, "720", 720 * 60),  # what YAML makes of 12:00 without quotes
        ("moab", 90, "90", 90),
        ("pbs", 90, "90", 90),
        ("slurm", "01:00:00", "01:00:00", 3600),
    ],
)
def test_a_number_in_a_configuration_file_means_what_it_means_to_dask_jobqueue(
    system, configured, walltime, seconds
):
    with dask.config.set({f"jobqueue.{system}.walltime": configured}):
        spec = make_spec(system, cores=1, memory="1 GiB")
    assert (spec.options["walltime"], spec.walltime_s) == (walltime, seconds)


@pytest.mark.parametrize("extra", [[], ["--no-dashboard"], ["--dashboard-prefix", "/x"]])
def test_what_workers_serve_is_on_localhost_unless_an_address_is_given(extra):
    spec = make_spec("slurm", cores=1, memory="1 GiB", worker_extra_args=extra)
    assert spec.options["worker_extra_args"] == [*extra, "--dashboard-address", "127.0.0.1:0"]
    given = ["--dashboard-address", ":8787"]
    spec = make_spec("slurm", cores=1, memory="1 GiB", worker_extra_args=given)
    assert spec.options["worker_extra_args"] == given


def test_slurm_is_asked_for_the_memory_that_was_given_and_no_more():
    assert make_spec("slurm", cores=1, memory="1100 MiB").options["job_mem"] == "1100M"
    assert make_spec("slurm", cores=1, memory=2**30 + 1).options["job_mem"] == "1025M"
    given = make_spec("slurm", cores=1, memory="1100 MiB", job_mem="3G")
    assert given.options["job_mem"] == "3G"


def test_numbers_of_numpy_are_numbers():
    given = {"cores": np.int64(4), "processes": np.int8(2), "n_workers": np.int32(3)}
    spec = make_spec("slurm", memory=np.int64(2**31), adaptive=np.int64(5), **given)
    found = (spec.cores, spec.processes, spec.n_workers, spec.adaptive)
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
    spec = make_spec("slurm", cores=1, memory="1 GiB", **given)
    assert (spec.n_workers, spec.adaptive) == (n_workers, adaptive)


# -- the end of the driver -----------------------------------------------------------------


@pytest.mark.parametrize("forked", [False, True])
def test_no_job_outlives_a_driver_that_is_killed(tmp_path, shared, forked):
    folder = tmp_path / "jobs"
    folder.mkdir()
    system = BatchSystem("pbs", folder)
    code = f"""
        import multiprocessing, time
        from dask_limits import Scheduler

        def start():
            if {forked}:  # it has all that the driver has open, and lives on
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
        assert len(system.groups()) == 2
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
    monkeypatch.setattr(submission, "_END_S", 0.1)
    (job := tmp_path / "job.sh").write_text("exec sleep 600")
    submit = BatchSystem("pbs", tmp_path / "jobs").submit_command
    slow = f"sh -c 'until [ -e {tmp_path}/go ]; do sleep 0.05; done; {submit} {job}'"
    scheduler, system = made("pbs", tmp_path, submit_command=slow)
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
