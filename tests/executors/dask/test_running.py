"""A future knows that its call runs: on Dask when the worker has said so."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from clusters import SETTINGS, nothing_is_left_behind  # noqa: F401
from distributed import Client, LocalCluster
from processes import start_sleeping, until, wait_for, written_pid

from dask_limits import LimitedExecutor, Retry, Scheduler, annotate, limit
from dask_limits.executors.dask import batching

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "limits", [{}, {"wall_time": 600}, {"wall_time": 600, "isolation": "thread"}], ids=str
)
def test_a_call_runs_and_one_that_waits_does_not(
    client: Client, tmp_path: Path, limits: dict[str, Any]
) -> None:
    with LimitedExecutor(client, **limits) as executor:
        first, second = (executor.submit(wait_for, tmp_path / name) for name in ("a", "b"))
        until(first.running)
        assert not second.running()
        (tmp_path / "a").touch()
        until(second.running)
        until(first.done)
        assert not first.running()
        (tmp_path / "b").touch()
        second.result(timeout=60)
        assert not second.running()


def test_of_a_batch_the_call_that_has_begun_runs(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_BATCH_S", 1000)  # all count as short

    def go(n: int) -> None:
        if n == 150:
            wait_for(tmp_path / "go")

    with LimitedExecutor(client, wall_time=600) as executor:
        for n in range(10):
            executor.submit(go, n).result(timeout=60)
        futures = [executor.submit(go, n) for n in range(200)]
        until(futures[150].running)
        until(lambda: not any(future.running() for future in futures[:150]))
        (tmp_path / "go").touch()
        for future in futures:
            future.result(timeout=60)


def test_the_future_of_a_task_runs(client: Client, tmp_path: Path) -> None:
    scheduler = Scheduler(client)
    task = scheduler.task(limit(wait_for, wall_time=600), plugins=Retry(max_retries=1))
    futures: list[Any] = []
    scheduler.on_start(lambda: futures.append(task.submit(tmp_path / "file")))
    scheduler.on_start(lambda: scheduler.call_later(0.05, look))

    def look() -> None:
        if futures[0].running():
            (tmp_path / "file").touch()
        else:
            scheduler.call_later(0.05, look)

    assert scheduler.run(timeout=100).code == "exhausted"
    assert not futures[0].running()


def test_a_call_whose_worker_was_lost_runs_when_it_has_begun_again(tmp_path: Path) -> None:
    scheduler = Scheduler.with_dask(n_workers=1, threads_per_worker=1)
    futures: list[Any] = []
    seen: list[bool] = []

    @scheduler.on_start
    def submit() -> None:
        futures.append(scheduler.submit(limit(wait_for, wall_time=600), tmp_path / "file"))
        scheduler.call_later(0.05, kill)

    def kill() -> None:
        if futures[0].running():
            (pid,) = scheduler.client.run(os.getpid).values()
            os.kill(pid, signal.SIGKILL)
        else:
            scheduler.call_later(0.05, kill)

    @scheduler.on_future_rerun
    def note(*_: Any) -> None:
        seen.append(futures[0].running())
        scheduler.call_later(0.05, end)

    def end() -> None:
        if futures[0].running():
            (tmp_path / "file").touch()
        else:
            scheduler.call_later(0.05, end)

    scheduler.run(timeout=100)
    assert seen == [False]


def test_of_graphs_of_the_users_own_no_client_is_told(client: Client, tmp_path: Path) -> None:
    """It has not asked for it, and would say so in its log."""
    with LimitedExecutor(client, wall_time=60) as executor:
        executor.submit(abs, -1).result(timeout=60)
    told: list[Any] = []
    client.subscribe_topic("dask-limits-batches", told.append)
    with annotate(wall_time=600):
        future = client.submit(start_sleeping, tmp_path / "pid", 0.5)
    written_pid(tmp_path / "pid")
    future.result(timeout=60)
    client.unsubscribe_topic("dask-limits-batches")
    assert not told
