"""What calls on Dask report: those of a batch, those without limits, and those of a lost worker."""

from __future__ import annotations

import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from clusters import SETTINGS, nothing_is_left_behind  # noqa: F401
from distributed import Client, LocalCluster
from processes import until, wait_for

from dask_limits import PynisherPlugin, Scheduler, progress
from dask_limits.dask.progress_log import TOPIC
from dask_limits.executors.dask import batching

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

LIMITS = {"wall_time": 60, "memory": "500 MiB"}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, **SETTINGS) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def report(n: int) -> int:
    for i in range(5):
        progress((n, i))
    return n


@pytest.mark.parametrize("plugins", [(), PynisherPlugin(**LIMITS)], ids=["no limits", "limits"])
def test_each_of_many_short_calls_tells_its_own_future(
    client: Client, monkeypatch: pytest.MonkeyPatch, plugins: Any
) -> None:
    monkeypatch.setattr(batching, "_BATCH_S", 1000)  # all count as short
    scheduler = Scheduler(client)
    task = scheduler.task(report, plugins=plugins)
    told: defaultdict[Any, list[Any]] = defaultdict(list)
    task.on_progress(lambda future, value: told[future].append(value))
    n_told_before_the_end: dict[Any, int] = {}
    results = {}

    @task.on_result
    def keep(future: Any, n: int) -> None:
        results[future] = n
        n_told_before_the_end[future] = len(told[future])

    @scheduler.on_start
    def submit() -> None:
        scheduler.map(task, range(200))

    scheduler.run(timeout=100)
    assert len(results) == 200
    for future, n in results.items():
        assert told[future][-1] == (n, 4)
        assert {number for number, _ in told[future]} == {n}
        assert n_told_before_the_end[future] == len(told[future])


def hold_on(path: str) -> int:
    progress(os.getppid())
    wait_for(path)
    return os.getpid()


def test_without_callbacks_no_worker_sends_anything(client: Client, tmp_path: Path) -> None:
    heard: list[Any] = []
    client.subscribe_topic(TOPIC, heard.append)
    try:
        scheduler = Scheduler(client)
        (tmp_path / "open").touch()
        for plugins in [(), PynisherPlugin(**LIMITS)]:
            task = scheduler.task(hold_on, plugins=plugins)
            scheduler.on_start(lambda task=task: task.submit(str(tmp_path / "open")))
        scheduler.run(timeout=100)
        n_before = len(heard)
        task.on_progress(lambda *_: None)
        scheduler.run(timeout=100)
    finally:
        client.unsubscribe_topic(TOPIC)
    assert n_before == 0


def test_a_call_whose_worker_was_lost_reports_again_from_another_one(tmp_path: Path) -> None:
    scheduler = Scheduler.with_dask(n_workers=2)
    task = scheduler.task(wait_at_worker, plugins=PynisherPlugin(**LIMITS))
    scheduler.on_start(lambda: task.submit(str(tmp_path / "open")))
    seen: list[Any] = []

    @task.on_progress
    def kill_the_first(_: Any, worker: int) -> None:
        if worker not in seen:
            seen.append(worker)
        if len(seen) == 1:
            os.kill(worker, signal.SIGKILL)
        else:
            (tmp_path / "open").touch()

    task.on_rerun(lambda _, error, attempt: seen.append(error.cause))
    scheduler.run(timeout=200)
    first, why, second = seen
    assert "guardian" not in why  # it was the worker
    assert first != second


def wait_at_worker(path: str) -> None:
    import psutil

    # task process, template, guardian, reaper, worker
    progress(psutil.Process().parents()[3].pid)
    wait_for(path)


def test_what_others_write_to_the_topic_is_ignored(client: Client, tmp_path: Path) -> None:
    scheduler = Scheduler(client)
    task = scheduler.task(hold_on, plugins=PynisherPlugin(**LIMITS))
    scheduler.on_start(lambda: task.submit(str(tmp_path / "open")))
    told: list[Any] = []

    @task.on_progress
    def write(_: Any, value: Any) -> None:
        told.append(value)
        for nonsense in (None, 3, "text", [1], [[1, 2]], [["key", 0, b"data"]], {"a": 1}):
            client.log_event(TOPIC, nonsense)
        client.log_event("done", "done")
        until(lambda: client.get_events("done"))
        (tmp_path / "open").touch()

    scheduler.run(timeout=100)
    assert len(told) == 1
