"""Dask asks us where our tasks go. If a version of it does not, this fails before anything else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster
from processes import until

from dask_limits import LimitsWorkerPlugin, annotate
from dask_limits.dask.scheduler.plugin import LimitsSchedulerPlugin


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        yield client


def test_dask_has_the_places_that_we_need(client: Client) -> None:
    scheduler = client.cluster.scheduler
    assert scheduler.plugins[LimitsSchedulerPlugin.name]._undo is not None
    assert {"is_rootish", "decide_worker_non_rootish"} <= vars(scheduler).keys()
    assert "steal_time_ratio" in vars(scheduler.extensions["stealing"])


def test_calls_wait_in_the_state_that_we_count_on_and_nowhere_else(
    client: Client, tmp_path: Path
) -> None:
    scheduler = client.cluster.scheduler
    with annotate(wall_time=60):
        # Many of one kind: Dask would take them for root tasks, and queue them.
        futures = client.map(lambda _, go: until(go.exists), range(50), go=tmp_path / "go")
    until(lambda: len(scheduler.unrunnable) >= 48)
    assert not scheduler.queued
    assert not scheduler.extensions["stealing"].key_stealable
    assert all(task.state == "no-worker" for task in scheduler.unrunnable)
    (tmp_path / "go").touch()
    client.gather(futures)


def test_tasks_without_limits_go_the_ways_of_dask(client: Client, tmp_path: Path) -> None:
    scheduler = client.cluster.scheduler
    futures = client.map(lambda _, go: until(go.exists), range(50), go=tmp_path / "go")
    until(lambda: len(scheduler.queued) >= 48)
    assert not scheduler.unrunnable
    (tmp_path / "go").touch()
    client.gather(futures)


def test_a_fault_of_ours_does_not_stop_the_scheduler(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    placement = client.cluster.scheduler.plugins[LimitsSchedulerPlugin.name].cluster.placement

    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    for where in ("enqueue", "_best"):  # in the midst of a transition of Dask's; and between them
        with monkeypatch.context() as patch, annotate(wall_time=60):
            patch.setattr(placement, where, fail)
            first = client.submit(abs, -1, pure=False)
            until(lambda: "a fault" in caplog.text)
        with annotate(wall_time=60):
            assert client.submit(abs, -2, pure=False).result(timeout=60) == 2
        assert first.result(timeout=60) == 1
        caplog.clear()
