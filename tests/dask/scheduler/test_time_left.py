"""A worker whose batch job ends: no call begins that would not be done, and it leaves in order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from clusters import SETTINGS, dask_worker
from distributed import Client, LocalCluster
from noting import count_run, note_run
from processes import until

from dask_limits import LimitsWorkerPlugin, annotate
from dask_limits.batch_systems.current_job import JOB_ENDS
from dask_limits.dask.reservations import OWN_BYTES, job_resources
from dask_limits.dask.scheduler import draining
from dask_limits.dask.scheduler.plugin import plugin_of
from dask_limits.dask.topic import TOPIC
from dask_limits.exceptions import LimitRefusedError


@pytest.fixture
def client() -> Iterator[Client]:
    with LocalCluster(n_workers=0, **SETTINGS) as cluster, Client(cluster) as client:
        client.register_plugin(LimitsWorkerPlugin())
        yield client


@contextmanager
def worker(client: Client, name: str, seconds: float | None) -> Iterator[None]:
    """A worker in a job that ends in so many seconds; None for one in no job."""
    environment = {} if seconds is None else {JOB_ENDS: str(time.time() + seconds)}
    options = ["--name", name, "--nthreads", "1", "--memory-limit", "2 GiB", "--no-dashboard"]
    with dask_worker(client.cluster.scheduler_address, *options, environment=environment):
        until(lambda: name in [event["worker"] for event in events(client, "worker-added")])
        yield


def let_end_in(client: Client, name: str, seconds: float) -> None:
    """Let the job of a worker end so soon: how long it takes to start is then all the same."""

    def join_again(dask_scheduler: Any) -> None:
        plugin = plugin_of(dask_scheduler)
        (worker,) = (one for one in plugin.cluster.workers.values() if one.name == name)
        resources = job_resources(worker.placed.resources.memory + OWN_BYTES, 1, seconds, seconds)
        plugin._join(worker.address, asdict(resources), asdict(worker.job))

    client.run_on_scheduler(join_again)


def events(client: Client, op: str) -> list[dict[str, Any]]:
    return [event for _, event in client.get_events(TOPIC) if event["op"] == op]


def test_a_call_begins_only_where_its_time_is_left(client: Client) -> None:
    with worker(client, "short", 30), worker(client, "long", 3000):
        names = {str(s.name): a for a, s in client.cluster.scheduler.workers.items()}
        with annotate(wall_time=60):
            futures = [client.submit(abs, -n, pure=False) for n in range(6)]
        client.gather(futures)
        has = client.has_what()
        assert {future.key for future in futures} <= set(has[names["long"]])
        assert not has[names["short"]]


def test_a_call_that_would_fit_in_no_job_is_refused(client: Client) -> None:
    with worker(client, "w", 100):
        with annotate(wall_time=90, grace_period=10):
            future = client.submit(abs, -1)
        with pytest.raises(LimitRefusedError, match=r"may take 100 s.* more than 9\d"):
            future.result(timeout=60)


def test_a_job_has_less_memory_for_calls_by_what_dask_and_we_take(client: Client) -> None:
    with worker(client, "w", 100):
        (added,) = events(client, "worker-added")
        assert added["memory"] == 2 * 2**30 - OWN_BYTES
        assert 80 < added["ends_in"] <= 100


def test_a_worker_leaves_in_time_and_nothing_runs_twice(client: Client, tmp_path: Path) -> None:
    with worker(client, "ends", 1000):
        let_end_in(client, "ends", 13)  # which leaves 9 s for a call
        with annotate(wall_time=5):
            kept = client.submit(count_run, tmp_path / "kept")
            assert kept.result(timeout=60) == 1
        with annotate(wall_time=4):
            waits = [client.submit(note_run, tmp_path / "runs", pure=False) for _ in range(60)]
        with worker(client, "stays", None):
            until(lambda: events(client, "worker-removed"))
            (draining_,) = events(client, "worker-draining")
            assert (draining_["worker"], draining_["reason"]) == (
                "ends",
                "its job is about to end",
            )
            assert kept.result(timeout=60) == 1  # its result has moved
            client.gather(waits)
            assert (tmp_path / "kept").read_text() == "ran\n"
            assert len((tmp_path / "runs").read_text().split()) == 60
            assert not events(client, "rerun")


def test_a_call_without_a_limit_on_time_that_is_cut_off_is_told_and_runs_again(
    client: Client, tmp_path: Path
) -> None:
    with worker(client, "ends", 1000):
        with annotate(memory="1 GiB"):
            future = client.submit(count_run, tmp_path / "runs", 50)
        until((tmp_path / "runs").exists)
        let_end_in(client, "ends", 3)
        with worker(client, "stays", None):
            assert future.result(timeout=60) == 2
            until(lambda: events(client, "rerun"))
            reruns = [(e["worker"], e["key"], e["tries"]) for e in events(client, "rerun")]
            assert reruns == [("ends", future.key, 1)]
            assert "about to end" in events(client, "rerun")[0]["cause"]


def test_an_idle_worker_goes_when_all_that_waits_needs_more_time_than_it_has(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_new_worker(dask_scheduler: Any) -> None:
        plugin_of(dask_scheduler).cluster.new_worker = job_resources(2 * 2**30, 1, 1000)

    client.run_on_scheduler(set_new_worker)
    monkeypatch.setattr(draining, "_IDLE_S", 0.5)
    with worker(client, "old", 1000):
        plugin = plugin_of(client.cluster.scheduler)
        (old,) = plugin.cluster.workers.values()
        ends_at = old.placed.resources.ends_at - 500  # half of it is over
        plugin.cluster.placement.add(old.address, replace(old.placed.resources, ends_at=ends_at))
        with annotate(wall_time=800):
            future = client.submit(abs, -1)
        until(lambda: events(client, "worker-draining"))
        assert "too little time left" in events(client, "worker-draining")[0]["reason"]
        with worker(client, "new", 1000):
            assert future.result(timeout=60) == 1
