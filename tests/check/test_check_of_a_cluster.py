"""What can be in the way of a check of a cluster's workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster
from processes import below, until, wait_for

from dask_limits.check.machine import check_workers

pytestmark = pytest.mark.dask

PROGRAM = [sys.executable, "-m", "dask_limits", "check", "--json", "--scheduler-address"]


def without_dask_limits():
    """From now on this process can no longer import it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "dask_limits"]:
        del sys.modules[name]
    sys.modules["dask_limits"] = None


def test_a_worker_that_is_busy_is_checked_beside_its_tasks(tmp_path):
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS)
    with cluster, Client(cluster) as client:
        task = client.submit(wait_for, tmp_path / "go on")
        done = subprocess.run(
            [*PROGRAM, cluster.scheduler_address],
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert not task.done()
        (tmp_path / "go on").touch()
        task.result()
    (machine,) = json.loads(done.stdout)["machines"]
    assert "wall_time" in [finding["name"] for finding in machine["findings"]]


def test_a_worker_that_dies_during_its_check_does_not_hold_what_is_promised():
    def kill(pid):
        until(lambda: below(pid))  # a guardian: it is being checked
        os.kill(pid, signal.SIGKILL)

    with LocalCluster(n_workers=1, **SETTINGS) as cluster, Client(cluster) as client:
        ((worker, pid),) = client.run(os.getpid).items()
        killer = threading.Thread(target=kill, args=(pid,))
        killer.start()
        (machine,) = check_workers(cluster.scheduler_address, lambda _: None)
        killer.join()
    assert machine.where == worker
    (finding,) = machine.findings
    assert not finding.holds


def test_a_worker_without_this_package_does_not_hold_what_is_promised():
    with LocalCluster(n_workers=1, **SETTINGS) as cluster, Client(cluster) as client:
        client.run(without_dask_limits)
        (machine,) = check_workers(cluster.scheduler_address, lambda _: None)
    (finding,) = machine.findings
    assert "dask_limits" in finding.measured
    assert not finding.holds


def test_ctrl_c_does_not_wait_for_a_worker_that_says_nothing_more():
    with LocalCluster(n_workers=1, **SETTINGS) as cluster, Client(cluster) as client:
        (pid,) = client.run(os.getpid).values()
        program = subprocess.Popen(
            [*PROGRAM, cluster.scheduler_address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: below(pid))
        os.kill(pid, signal.SIGSTOP)
        try:
            program.send_signal(signal.SIGINT)
            printed, _ = program.communicate(timeout=200)
        finally:
            program.kill()
            os.kill(pid, signal.SIGCONT)
        assert (program.returncode, printed) == (130, "")
