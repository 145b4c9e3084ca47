"""The work of a Dask scheduler."""

from __future__ import annotations

import math
from collections.abc import Iterator

import dask
import distributed
import pytest
from processes import until, wait_for

from dask_limits.executors.jobqueue.demand import Work, has_waiting, work_of


@pytest.fixture
def cluster() -> Iterator[distributed.LocalCluster]:
    """A cluster without workers, in this process."""
    with distributed.LocalCluster(
        n_workers=0, processes=False, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def work(cluster: distributed.LocalCluster) -> list[Work]:
    async def look() -> list[Work]:
        return sorted(work_of(cluster.scheduler))

    return cluster.sync(look)


def waits(cluster: distributed.LocalCluster) -> bool:
    async def look() -> bool:
        return has_waiting(cluster.scheduler)

    return cluster.sync(look)


def test_tasks_are_work_from_when_they_can_run_until_they_are_done(cluster):
    with distributed.Client(cluster, set_as_default=False) as client:
        assert not waits(cluster)
        limits = {"memory": 1000, "cores": 2, "wall_time": 30}
        with dask.annotate(limits=limits):
            first = client.submit(abs, -1, key="limited")
        second = client.submit(abs, -2, key="unlimited")
        third = client.submit(abs, first, key="later")
        until(lambda: waits(cluster))
        until(lambda: len(work(cluster)) == 2)
        assert work(cluster) == [Work(0, 1, math.inf), Work(1000, 2, 30)]
        for future in (third, second, first):
            future.release()
        until(lambda: not waits(cluster))
        assert work(cluster) == []


def test_tasks_wait_when_the_workers_have_more_than_they_have_threads(cluster, tmp_path):
    with distributed.Client(cluster, set_as_default=False) as client:
        cluster.scale(1)
        client.wait_for_workers(1)
        running = client.submit(wait_for, tmp_path / "gate", key="running")
        until(lambda: len(work(cluster)) == 1)
        assert not waits(cluster)
        more = [client.submit(abs, -n, key=f"more-{n}") for n in range(3)]
        until(lambda: len(work(cluster)) == 4)
        assert waits(cluster)
        (tmp_path / "gate").touch()
        client.gather([running, *more])
        until(lambda: not waits(cluster))


def test_a_task_is_expected_to_run_as_long_as_others_of_its_name(cluster, tmp_path):
    with distributed.Client(cluster, set_as_default=False) as client:
        cluster.scale(1)
        (tmp_path / "open").touch()
        client.submit(wait_for, tmp_path / "open", key="wait_for-1").result()
        with dask.annotate(limits={"wall_time": 3600}):
            future = client.submit(wait_for, tmp_path / "shut", key="wait_for-2")
        until(lambda: len(work(cluster)) == 1)
        assert work(cluster)[0].seconds < 60
        (tmp_path / "shut").touch()
        future.result()
