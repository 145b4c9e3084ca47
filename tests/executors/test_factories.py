"""Everything that a user may hold becomes an executor, and stays open."""

from __future__ import annotations

import os
import time

import distributed
import psutil
import pytest
from processes import until, wait_for

from dask_limits import ExitState, PynisherPlugin, Scheduler
from dask_limits.executors import factory_of

pytestmark = pytest.mark.dask


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as cluster:
        cluster.wait_for_workers(2, timeout=60)
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def warmed_up(client):
    """What Dask opens once and keeps must not be taken for something left behind."""
    assert client.submit(abs, -1).result(timeout=60) == 1
    ran(Scheduler(client))


def ran(scheduler: Scheduler) -> list[int]:
    """Run a scheduler twice, with two calls each time, one of which goes over its limit."""
    results: list[int] = []
    task = scheduler.task(time.sleep, plugins=PynisherPlugin(walltime_limit=0.2))
    scheduler.on_start(lambda: scheduler.submit(os.getpid) and None)
    scheduler.on_start(lambda: task.submit(60) and None)
    scheduler.on_future_result(lambda _, pid: results.append(pid))
    for _ in range(2):
        state = scheduler.run(
            on_exception={PynisherPlugin.WallTimeoutException: "continue"}, timeout=60
        )
        assert state == ExitState(ExitState.EXHAUSTED)
    assert scheduler.event_counts["on_future_exception"] == 2
    return results


@pytest.mark.parametrize("how", ["client", "cluster", "get_executor", "address", "with_dask"])
def test_dask_in_all_its_forms(client, cluster, how):
    scheduler = {
        "client": lambda: Scheduler(client),
        "cluster": lambda: Scheduler(cluster),
        "get_executor": lambda: Scheduler(client.get_executor()),
        "address": lambda: Scheduler.with_dask(cluster.scheduler_address),
        "with_dask": lambda: Scheduler.with_dask(cluster),
    }[how]()
    pids = ran(scheduler)
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert client.submit(abs, -2).result(timeout=60) == 2


@pytest.mark.parametrize("limits", [{}, {"walltime_limit": 30}], ids=["unlimited", "limited"])
def test_options_of_get_executor_hold(client, limits):
    for address, pid in client.run(os.getpid).items():
        executor = client.get_executor(workers=address, allow_other_workers=False, pure=False)
        scheduler = Scheduler(executor)
        assert address in repr(scheduler)
        pids: list[set[int]] = []
        task = scheduler.task(family, plugins=PynisherPlugin(**limits) if limits else ())
        scheduler.on_start(lambda task=task: [task.submit() for _ in range(6)] and None)
        task.on_result(lambda _, found, pids=pids: pids.append(found))
        scheduler.run(timeout=60)
        assert len(pids) == 6
        assert all(pid in found for found in pids)


def family() -> set[int]:
    """This process and those above it."""
    return {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}


def test_retries_of_get_executor_hold(client, tmp_path):
    def tasks_by_retries(dask_scheduler):
        return [task.retries for task in dask_scheduler.tasks.values()]

    with factory_of(client.get_executor(retries=3)).make() as executor:
        future = executor.submit(wait_for, tmp_path / "gate")
        until(lambda: client.run_on_scheduler(tasks_by_retries) == [3])
        (tmp_path / "gate").touch()
        assert future.result(timeout=30) is None


def test_a_stop_without_waiting_ends_a_limited_call_on_dask(client):
    scheduler = Scheduler(client)
    task = scheduler.task(time.sleep, plugins=PynisherPlugin(walltime_limit=600))
    scheduler.on_start(lambda: task.submit(600) and None)
    scheduler.on_start(lambda: scheduler.call_later(0.3, scheduler.stop) and None)
    assert scheduler.run(wait=False).code == ExitState.STOPPED
    assert scheduler.event_counts["on_future_cancelled"] == 1
    assert ran(Scheduler(client))


def test_a_local_cluster_has_the_options_that_one_has():
    scheduler = Scheduler.with_dask(n_workers=1, threads_per_worker=3, memory_limit="1 GiB")
    assert "threads_per_worker=3, memory_limit='1 GiB'" in repr(scheduler)
    workers = []
    scheduler.on_worker_added(workers.append)
    ran(scheduler)
    assert {(worker.cores, worker.memory) for worker in workers} == {(3, 2**30)}


@pytest.mark.parametrize(
    ("where", "options", "error", "text"),
    [
        (None, {"thread_per_worker": 2}, TypeError, "did you mean 'threads_per_worker'"),
        (None, {"processes": False}, TypeError, r"with_dask\(LocalCluster\(processes=False"),
        ("tcp://127.0.0.1:1", {"memory_limit": 1}, ValueError, "memory_limit=1 is for a LocalCl"),
    ],
)
def test_an_option_that_a_local_cluster_cannot_have_is_refused(where, options, error, text):
    with pytest.raises(error, match=text):
        Scheduler.with_dask(where, **options)


def test_a_local_cluster_is_started_for_each_run_and_closed():
    scheduler = Scheduler.with_dask(n_workers=1)
    assert "Dask cluster of 1 worker on this machine" in repr(scheduler)
    pids = ran(scheduler)
    assert len(set(pids)) == 2
