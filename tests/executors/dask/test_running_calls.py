"""What calls on a cluster have used so far is told to those who look, and to nobody else."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from clusters import SETTINGS, nothing_is_left_behind  # noqa: F401
from distributed import Client, LocalCluster
from processes import until

from dask_limits import LimitsWorkerPlugin, annotate, limit
from dask_limits.dask.running import LOOK, RunningCall
from dask_limits.dask.scheduler import running
from dask_limits.dask.scheduler.plugin import plugin_of
from dask_limits.executors.dask.executor import DaskExecutor

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

LIMITED = {"memory": "500 MiB", "wall_time": 600}


def wait_while(path: str) -> int:
    while Path(path).exists():
        time.sleep(0.01)
    return os.getppid()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A file that calls wait for to go."""
    path = tmp_path / "go on"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, **SETTINGS) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def seen(cluster: LocalCluster) -> list[RunningCall]:
    """What the scheduler, which is in this process, sees."""
    return plugin_of(cluster.scheduler).running.look()


def test_calls_of_graphs_and_of_executors_are_seen(
    cluster: LocalCluster, client: Client, path: Path
) -> None:
    executor = DaskExecutor(client)
    future = executor.submit(limit(wait_while, **LIMITED), str(path))
    with annotate(memory="400 MiB"):
        node = client.submit(wait_while, str(path), key="the-node")
    until(lambda: len(seen(cluster)) == 2)
    calls = {call.limits.memory: call for call in seen(cluster)}
    assert {call.function for call in calls.values()} == {"wait_while"}
    assert calls[400 * 2**20].key == "the-node"
    assert calls[500 * 2**20].limits.wall_time == 600
    assert {call.worker for call in calls.values()} <= {"0", "1"}
    until(lambda: [call.future for call in executor.running_calls()] == [future])
    path.unlink()
    assert future.result(timeout=30) and node.result(timeout=30)
    assert executor.running_calls() == []
    until(lambda: seen(cluster) == [])
    executor.shutdown()


def test_a_client_is_not_told_of_calls_of_others(
    cluster: LocalCluster, client: Client, path: Path
) -> None:
    with Client(cluster, set_as_default=False) as other:
        theirs, ours = DaskExecutor(other), DaskExecutor(client)
        future = theirs.submit(limit(wait_while, **LIMITED), str(path))
        mine = ours.submit(limit(wait_while, **LIMITED), str(path))
        until(lambda: len(theirs.running_calls()) == len(ours.running_calls()) == 1)
        assert len(ours._running._rows) == len(theirs._running._rows) == 1
        path.unlink()
        assert future.result(timeout=30) and mine.result(timeout=30)


def test_workers_are_asked_only_when_someone_looks_and_not_too_often(
    cluster: LocalCluster, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    send = cluster.scheduler.worker_send

    def count(worker: str, message: dict[str, Any]) -> None:
        if message["op"] == LOOK:
            asked.append(worker)
        send(worker, message)

    monkeypatch.setattr(cluster.scheduler, "worker_send", count)
    future = DaskExecutor(client).submit(limit(wait_while, **LIMITED), str(path))
    time.sleep(1.5)  # nobody looks
    assert asked == []
    monkeypatch.setattr(running, "_EVERY_S", 1000)
    for _ in range(100):
        seen(cluster)
    assert sorted(asked) == sorted(cluster.scheduler.workers)
    plugin_of(cluster.scheduler).running._next = 0.0
    path.unlink()
    assert future.result(timeout=30)


def test_a_worker_that_hangs_delays_nobody_and_its_calls_are_not_shown_for_ever(
    cluster: LocalCluster, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_OLD_S", 4.0)
    executor = DaskExecutor(client)
    futures = [executor.submit(limit(wait_while, **LIMITED), str(path)) for _ in range(4)]
    until(lambda: {call.worker for call in seen(cluster)} == {"0", "1"})
    stopped = next(w for w in cluster.scheduler.workers.values() if str(w.name) == "1")
    pid = client.run(os.getpid, workers=[stopped.address])[stopped.address]
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: {call.worker for call in seen(cluster)} == {"0"})
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: {call.worker for call in seen(cluster)} == {"0", "1"})
    path.unlink()
    assert all(future.result(timeout=30) for future in futures)


def test_calls_of_a_worker_that_has_gone_are_not_shown(
    cluster: LocalCluster, client: Client, path: Path
) -> None:
    executor = DaskExecutor(client)
    futures = [executor.submit(limit(wait_while, **LIMITED), str(path)) for _ in range(4)]
    until(lambda: {call.worker for call in seen(cluster)} == {"0", "1"})
    cluster.scale(1)
    until(lambda: len({call.worker for call in seen(cluster)}) == 1)
    path.unlink()
    assert all(future.result(timeout=60) for future in futures)
