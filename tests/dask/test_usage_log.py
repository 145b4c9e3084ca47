"""What annotated tasks did use."""

from __future__ import annotations

import time
from collections.abc import Iterator

import dask
import dask.array as da
import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster
from noting import allocate
from processes import until

from dask_limits import LimitsWorkerPlugin, Usage, annotate, limit, usages
from dask_limits.dask.usage_log import _EVERY_S, _MOST, TOPIC
from dask_limits.executors.dask.executor import DaskExecutor


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        yield client


def test_a_task_that_is_done_has_a_usage(client: Client) -> None:
    for number in range(20):  # at once: it must not come later than the result
        with annotate(wall_time=20):
            future = client.submit(time.sleep, 0.001 * number, pure=False)
        future.result()
        usage = usages(client)[future.key]
        assert isinstance(usage, Usage)
        assert usage.wall_time >= 0.001 * number


def test_it_says_what_was_used(client: Client) -> None:
    with annotate(wall_time=20):
        future = client.submit(allocate, 100 * 2**20)
    future.result()
    assert usages(client)[future.key].peak_memory > 100 * 2**20


def test_a_task_that_breached_or_failed_has_one_too(client: Client) -> None:
    with annotate(wall_time=0.2):
        breached = client.submit(time.sleep, 60)
        failed = client.submit(int, "x")
    assert breached.exception().usage.wall_time == usages(client)[breached.key].wall_time
    failed.exception()
    assert failed.key in usages(client)


def test_their_report_says_how_they_ended_under_which_limits_and_where(client: Client) -> None:
    with annotate(wall_time=0.2, memory="200 MiB"):
        breached = client.submit(time.sleep, 60, pure=False)
        failed = client.submit(int, "y", pure=False)
    breached.exception(), failed.exception()
    report = usages(client).report()
    rows = {row.key: row for row in report}
    late, raised = rows[breached.key], rows[failed.key]
    assert (late.task, late.ending, late.cause) == ("sleep", "breach", "wall_time")
    assert (late.arguments, raised.arguments) == ("60", "'y'")
    assert (raised.ending, raised.where) == ("raised", "")
    assert raised.cause.startswith("ValueError: invalid literal for int()")
    assert (late.wall_time_limit, late.memory_limit) == (0.2, 200 * 2**20)
    assert abs(late.ended - time.time()) < 3600
    workers = client.scheduler_info()["workers"]
    names = {str(worker["name"]) for worker in workers.values()}
    assert {late.worker, raised.worker} <= names
    assert "sleep" in repr(report)

    def logged() -> set[object]:
        return {row[0] for _, event in client.get_events(TOPIC) for row in event["usages"]}

    with annotate(wall_time=20):  # of a worker, only what was logged last can be asked of itself
        client.gather([client.submit(abs, -1, workers=[worker], pure=False) for worker in workers])
    until(lambda: {breached.key, failed.key} <= logged())
    again = {row.key: row.worker for row in usages(client).report()}
    assert again[breached.key] == late.worker
    assert again[failed.key] == raised.worker


def test_keys_are_as_dask_has_them(client: Client) -> None:
    with annotate(wall_time=20):
        da.ones(4, chunks=2).map_blocks(abs).compute()
    keys = {key for key in usages(client) if isinstance(key, tuple)}
    assert {key[1] for key in keys} == {0, 1}


def test_tasks_without_limits_and_those_of_an_executor_are_not_in_it(client: Client) -> None:
    before = set(usages(client))
    client.submit(abs, -1).result()
    executor = DaskExecutor(client)
    future = executor.submit(limit(abs, wall_time=20), -1)
    assert future.result() == 1
    with annotate(wall_time=20):
        last = client.submit(abs, -2)
    last.result()
    assert set(usages(client)) - before == {last.key}


def test_many_tasks_go_with_one_event_and_none_is_lost(client: Client) -> None:
    before, began = len(client.get_events(TOPIC)), time.monotonic()
    with annotate(wall_time=20):
        futures = client.map(abs, range(-300, 0))
    client.gather(futures)
    assert {future.key for future in futures} <= set(usages(client))
    last = {future.key for future in futures[-2:]}

    def logged() -> set[str]:
        return {row[0] for _, event in client.get_events(TOPIC) for row in event["usages"]}

    until(lambda: {future.key for future in futures} <= logged())
    assert last <= set(usages(client))
    took = time.monotonic() - began  # s; each of two workers sends when full, and every 0.1 s
    assert len(client.get_events(TOPIC)) - before <= 2 * (took / _EVERY_S + 300 / _MOST + 2)
    assert max(len(event["usages"]) for _, event in client.get_events(TOPIC)) <= 100


def test_they_stay_when_the_worker_has_gone() -> None:
    with LocalCluster(n_workers=1, **SETTINGS) as cluster, Client(cluster) as client:
        client.register_plugin(LimitsWorkerPlugin())
        with annotate(wall_time=20):
            future = client.submit(abs, -3)
        future.result()
        cluster.scale(0)
        until(lambda: not cluster.scheduler.workers)
        assert set(usages(client)) == {future.key}


def test_no_more_events_are_kept_than_dask_keeps() -> None:
    with (
        dask.config.set({"distributed.admin.low-level-log-length": 2}),
        LocalCluster(n_workers=1, processes=False, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        keys = []
        for number in range(5):
            with annotate(wall_time=20):
                future = client.submit(abs, number)
            keys.append(future.key)
            future.result()
            until(lambda key=future.key: key in str(client.get_events(TOPIC)))
        assert list(usages(client)) == keys[-2:]


def test_a_cluster_without_the_plugin_has_none() -> None:
    with (
        LocalCluster(n_workers=1, processes=False, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        assert usages(client) == {}


def test_what_is_no_client_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not a Dask Client"):
        usages(3)
