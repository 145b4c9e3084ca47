"""The SLURM for tests and for trying things out."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import until
from real_slurm import PROGRAMS, Slurm, running, start, stop


def of(folder: Path) -> list[psutil.Process]:
    """The processes of the SLURM in a folder: daemons, jobs, and what waits to stop it."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("SLURM_CONF") == str(folder / "slurm.conf")
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
    return found


def test_a_job_runs_and_is_gone(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.submit(f"echo done > {tmp_path / 'said'}")
    assert slurm.wait_for(job) == "COMPLETED"
    assert (tmp_path / "said").read_text() == "done\n"
    slurm.wait_until_empty()


def test_jobs_run_on_both_nodes(slurm: Slurm) -> None:
    jobs = [slurm.submit("sleep 100", "--exclusive") for _ in range(3)]
    until(lambda: sorted(slurm.jobs().values()) == ["PENDING", "RUNNING", "RUNNING"])
    until(lambda: slurm.job(jobs[2])["Reason"] == "Resources")
    assert {slurm.job(job)["NodeList"] for job in jobs[:2]} == {"n1", "n2"}
    slurm.clear()
    assert [slurm.state(job) for job in jobs] == ["CANCELLED"] * 3


def test_a_job_over_its_memory_is_ended_with_what_it_has_detached(
    slurm: Slurm, tmp_path: Path
) -> None:
    taker = f"'{sys.executable}' -c 'import time; x = bytearray(200 << 20); time.sleep(100)'"
    job = slurm.submit(f"setsid {taker} & wait", "--mem=100M", log=tmp_path / "log")
    assert slurm.wait_for(job) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "0:9"  # SLURM does not mention memory here ...
    until(lambda: "exceeded memory limit" in (tmp_path / "log").read_text())  # ... but in the log
    until(lambda: not [one for one in of(slurm.folder) if "bytearray" in str(one.cmdline())])


def test_a_node_that_is_set_down_loses_its_jobs_until_it_is_set_up(slurm: Slurm) -> None:
    lost = slurm.submit("sleep 100", "--nodelist=n1", "--no-requeue")
    again = slurm.submit("sleep 100", "--nodelist=n1", "--requeue")
    slurm.wait_for(lost, "RUNNING")
    slurm.wait_for(again, "RUNNING")
    slurm.node_down("n1")
    assert slurm.wait_for(lost) == "NODE_FAIL"
    assert slurm.wait_for(again, "PENDING") == "PENDING"
    assert slurm.job(again)["Restarts"] == "1"
    assert slurm.node_state("n1").startswith("down")
    slurm.node_up("n1")
    slurm.clear()


def test_starting_twice_and_stopping_twice_is_well(folder: Path) -> None:
    with running(folder) as slurm:
        job = slurm.submit("sleep 100")
        start(folder)
        assert list(slurm.jobs()) == [job]
    stop(folder)
    until(lambda: not of(folder))  # what would stop it is told to end, and does so soon


def test_two_run_side_by_side(slurm: Slurm, folder: Path) -> None:
    with running(folder) as other:
        other.submit("sleep 100", "--job-name=elsewhere")
        assert slurm.jobs() == {}
        job = slurm.submit("sleep 100")
    assert list(slurm.jobs()) == [job]
    slurm.clear()


def test_it_ends_its_jobs_and_itself(folder: Path) -> None:
    with running(folder) as slurm:
        jobs = [slurm.submit("trap '' TERM; sleep 100 & wait; sleep 100") for _ in range(2)]
        for job in jobs:
            slurm.wait_for(job, "RUNNING")
        assert of(folder)
    until(lambda: not of(folder))


def test_it_ends_with_the_process_that_it_is_for(folder: Path) -> None:
    command = f'"{PROGRAMS / "start"}" --with $$ "{folder}" >/dev/null 2>&1; echo; exec sleep 100'
    with subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        Slurm(folder).submit("sleep 100")
        owner.send_signal(signal.SIGKILL)
    until(lambda: not folder.exists() and not of(folder))


@pytest.mark.parametrize("reached", ["munge/key", "slurm.conf", "munge/socket", "n1/pid"])
def test_a_start_that_was_killed_leaves_nothing_after_a_stop(folder: Path, reached: str) -> None:
    with subprocess.Popen(
        [PROGRAMS / "start", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as starting:
        while not (folder / reached).exists():
            time.sleep(0)
        starting.kill()
    stop(folder)
    until(lambda: not of(folder))
    assert not folder.exists()


def test_a_folder_with_other_things_in_it_is_left_alone(folder: Path) -> None:
    (folder / "thesis").touch()
    for program in ("start", "stop"):
        done = subprocess.run([PROGRAMS / program, folder], capture_output=True, text=True)
        assert done.returncode == 1
        assert str(folder) in done.stderr
    assert [path.name for path in folder.iterdir()] == ["thesis"]
    (folder / "thesis").unlink()
    folder.rmdir()


def test_nobody_else_can_read_its_key_its_state_or_its_logs(slurm: Slurm) -> None:
    for name in ("munge/key", "ctld", "log"):
        assert (slurm.folder / name).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) == 0
    for path in (slurm.folder, *slurm.folder.rglob("*")):
        mode = path.lstat().st_mode
        assert not mode & (stat.S_IWGRP | stat.S_IWOTH) or stat.S_ISSOCK(mode), path


def test_it_listens_on_loopback_only(slurm: Slurm) -> None:
    if not socket.gethostbyname(socket.gethostname()).startswith("127."):
        pytest.skip("SLURM binds to what the machine's name stands for, or to everything")
    listening = [
        connection.laddr.ip
        for process in of(slurm.folder)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert all(address.startswith("127.") for address in listening)


def test_the_machines_own_configuration_is_left_alone(folder: Path) -> None:
    def everything() -> dict[Path, object]:
        files = [path for place in ("/etc/slurm", "/etc/munge") for path in Path(place).rglob("*")]
        return {path: (path.lstat().st_mtime, path.lstat().st_mode) for path in files}

    before = everything()
    with running(folder):
        assert everything() == before
    assert everything() == before
