"""Whichever way a Dask worker goes, the calls that run on it end, with all that they started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clusters import SETTINGS, dask_program, pids_of_stubborn
from distributed import Client, LocalCluster, Nanny, Status, Worker
from noting import stubborn
from processes import alive, all_gone, below, until

from dask_limits import LimitsWorkerPlugin, annotate


def start_stubborn(client: Client, file: Path) -> tuple[Any, int, set[int]]:
    """A future, the pid of the worker, and those of all processes below it."""
    client.register_plugin(LimitsWorkerPlugin())
    (worker,) = client.run(os.getpid).values()
    with annotate(wall_time=60):
        future = client.submit(stubborn, file)
    running = pids_of_stubborn(file)
    processes = below(worker) | running
    assert len(processes) >= 4  # the reaper and the guardian too
    return future, worker, processes


def addresses(client: Client) -> list[str]:
    return list(client.scheduler_info(n_workers=-1)["workers"])


def close_worker(dask_worker: Worker) -> None:
    dask_worker.loop.add_callback(dask_worker.close)


def close_worker_gracefully(dask_worker: Worker) -> None:
    dask_worker.loop.add_callback(dask_worker.close_gracefully)


def nanny_of(cluster: LocalCluster) -> Nanny:
    (nanny,) = cluster.workers.values()
    return nanny


WAYS: dict[str, Callable[[Client, LocalCluster, int], object]] = {
    "restart": lambda client, *_: client.restart(wait_for_workers=False),
    "restart of the workers": lambda client, *_: client.restart_workers(addresses(client)),
    "retired": lambda client, *_: client.retire_workers(addresses(client), close_workers=True),
    "closed": lambda client, *_: client.run(close_worker),
    "closed gracefully": lambda client, *_: client.run(close_worker_gracefully),
    "killed": lambda _, __, worker: os.kill(worker, signal.SIGKILL),
    "terminated": lambda _, __, worker: os.kill(worker, signal.SIGTERM),
    "nanny closed": lambda client, cluster, _: cluster.sync(nanny_of(cluster).close),
    "scaled down": lambda _, cluster, __: cluster.scale(0),
    "scaled down adaptively": lambda _, cluster, __: cluster.adapt(
        minimum=0, maximum=0, interval="50 ms", wait_count=1
    ),
    "cluster closed": lambda _, cluster, __: cluster.close(),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_stays_of_a_call_whose_worker_is(way: str, tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        future, worker, processes = start_stubborn(client, tmp_path / "pids")
        (tmp_path / "pids").unlink()
        WAYS[way](client, cluster, worker)
        all_gone(processes)
        future.release()
    all_gone({worker})


@pytest.mark.parametrize("kind", ["--nanny", "--no-nanny"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_stays_when_a_worker_program_gets(
    number: signal.Signals, kind: str, tmp_path: Path
) -> None:
    with LocalCluster(n_workers=0, **SETTINGS) as cluster, Client(cluster) as client:
        options = [cluster.scheduler_address, kind, "--nthreads", "1", "--no-dashboard"]
        with dask_program("worker", *options) as program:
            client.wait_for_workers(1)
            future, worker, processes = start_stubborn(client, tmp_path / "pids")
            program.send_signal(number)
            all_gone(processes | {worker})
            future.release()


@pytest.mark.parametrize("kind", ["--nanny", "--no-nanny"])
def test_nothing_stays_when_the_scheduler_is_killed(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    with dask_program("scheduler", "--port", "0", *options) as scheduler:
        until(file.exists)
        with dask_program("worker", kind, "--nthreads", "1", *options) as program:
            with Client(scheduler_file=str(file)) as client:
                client.wait_for_workers(1)
                future, _, processes = start_stubborn(client, tmp_path / "pids")
                scheduler.kill()
                all_gone(processes)
                future.release()
            program.terminate()


def test_a_paused_worker_ends_its_calls_too(tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        future, worker, _ = start_stubborn(client, tmp_path / "pids")
        running = pids_of_stubborn(tmp_path / "pids")
        client.run(pause)
        until(lambda: statuses(cluster) == [Status.paused])
        time.sleep(0.1)
        assert all(map(alive, running))  # what runs runs on
        future.cancel()
        all_gone(running)
        assert alive(worker)


def pause(dask_worker: Worker) -> None:
    # As its memory monitor does; and that is not to undo it.
    dask_worker.memory_manager.memory_pause_fraction = False
    dask_worker.status = Status.paused


def statuses(cluster: LocalCluster) -> list[Status]:
    return [state.status for state in cluster.scheduler.workers.values()]
