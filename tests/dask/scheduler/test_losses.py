"""Lost workers: what ran there runs again, is told, and counted; what only waited there is not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster
from noting import hold_the_gil_to_the_end, kill_own_worker, run_until
from processes import until

from dask_limits import LimitsWorkerPlugin, annotate, limit
from dask_limits.dask.scheduler.losses import Loss, error_of
from dask_limits.dask.topic import TOPIC
from dask_limits.exceptions import WorkerLostError
from dask_limits.executors.dask.executor import DaskExecutor


@pytest.fixture
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, memory_limit="4 GiB", **SETTINGS
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        yield client


def events(client: Client, op: str) -> list[dict[str, Any]]:
    return [event for _, event in client.get_events(TOPIC) if event["op"] == op]


def worker_pid(client: Client) -> int:
    (pid,) = client.run(os.getpid).values()
    return int(pid)


def test_what_ran_runs_again_and_is_counted_and_what_waited_is_not(
    client: Client, tmp_path: Path
) -> None:
    go, runs = tmp_path / "go", tmp_path / "runs"
    with annotate(memory="3 GiB"):  # so one of these runs
        futures = [client.submit(run_until, go, runs, pure=False) for _ in range(3)]
    executor = DaskExecutor(client)
    calls = [executor.submit(run_until, go, runs) for _ in range(3)]  # and one without limits
    until(lambda: runs.exists() and len(runs.read_text().split()) == 2)
    scheduler: Any = client.cluster.scheduler
    running = {task.key for state in scheduler.workers.values() for task in state.processing}
    os.kill(worker_pid(client), signal.SIGKILL)
    until(lambda: len(events(client, "rerun")) == 2)
    assert {event["key"] for event in events(client, "rerun")} == running
    assert [event["tries"] for event in events(client, "rerun")] == [1, 1]
    assert "its process ended" in events(client, "rerun")[0]["cause"]
    until(lambda: len(runs.read_text().split()) == 4)
    go.touch()
    assert client.gather(futures) + [call.result() for call in calls] == ["done"] * 6
    assert len(runs.read_text().split()) == 8  # six, and two of them once more
    (removed,) = events(client, "worker-removed")
    assert "its process ended" in removed["reason"]
    first, second = events(client, "worker-added")
    assert first["worker"] == second["worker"] == removed["worker"]
    assert (second["memory"], second["cores"], second["job"]) == (4 * 2**30, 2, "")


def test_a_call_that_brings_down_each_of_its_workers_ends_as_an_error_that_names_the_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_limits.dask.scheduler.losses._UNREPORTED_S", 0.4)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=3, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster) as client,
        DaskExecutor(client) as executor,
    ):
        runs = {kind: tmp_path / kind for kind in ("graph", "facade", "without limits")}
        with annotate(wall_time=60):
            futures: list[Any] = [client.submit(kill_own_worker, runs["graph"])]
        limited = limit(kill_own_worker, wall_time=60)
        futures += [
            executor.submit(limited, runs["facade"]),
            executor.submit(hold_the_gil_to_the_end, runs["without limits"]),
        ]
        for future in futures:
            error = future.exception(timeout=60)
            assert isinstance(error, WorkerLostError)
            assert error.tries == 2
            assert error.call in ("kill_own_worker", "hold_the_gil_to_the_end")
            assert "2 workers" in str(error)
            assert str(error).count("its process ended") == 2
        assert [file.read_text() for file in runs.values()] == ["ran\nran\n"] * 3
        assert [event["tries"] for event in events(client, "rerun")] == [1, 1, 1]
        assert client.submit(abs, -1).result(timeout=60) == 1


@pytest.mark.parametrize("kind", ["graph", "facade"])
def test_one_that_takes_what_it_depends_on_with_it_ends_as_well(kind: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster) as client,
        DaskExecutor(client) as executor,
    ):
        data = client.submit(bytes, 1000)
        if kind == "graph":
            with annotate(wall_time=60):
                future: Any = client.submit(kill_own_worker, runs, data)
        else:
            future = executor.submit(limit(kill_own_worker, wall_time=60), runs, data)
        error = future.exception(timeout=60)
        assert isinstance(error, WorkerLostError)
        assert error.tries == 2
        assert runs.read_text() == "ran\nran\n"
        assert [event["tries"] for event in events(client, "rerun")] == [1]


def test_a_worker_that_is_retired_counts_for_nothing_but_is_told(
    client: Client, tmp_path: Path
) -> None:
    go, runs = tmp_path / "go", tmp_path / "runs"
    with annotate(memory="1 GiB"):
        future = client.submit(run_until, go, runs)
    until(runs.exists)
    (old,) = client.scheduler_info(n_workers=-1)["workers"]
    client.cluster.scale(2)
    client.wait_for_workers(2)
    client.retire_workers([old])
    until(lambda: len(runs.read_text().split()) == 2)
    until(lambda: len(events(client, "rerun")) == 1)
    (event,) = events(client, "rerun")
    assert (event["cause"], event["tries"], event["key"]) == ("it was retired", 0, future.key)
    go.touch()
    assert future.result(timeout=60) == "done"


def test_what_was_done_and_not_fetched_runs_again_and_is_told_but_not_counted(
    client: Client, tmp_path: Path
) -> None:
    go, runs = tmp_path / "go", tmp_path / "runs"
    go.touch()
    with annotate(memory="2 GiB"):
        future = client.submit(run_until, go, runs)
    until(future.done)
    os.kill(worker_pid(client), signal.SIGKILL)
    until(lambda: len(events(client, "rerun")) == 1)
    (event,) = events(client, "rerun")
    assert (event["key"], event["tries"]) == (future.key, 0)
    assert future.result(timeout=60) == "done"
    assert len(runs.read_text().split()) == 2


def test_the_error_names_each_lost_worker_and_the_cause() -> None:
    first = Loss("w1", "17", "job 17 is OUT_OF_MEMORY")
    error = error_of("fit", [first, Loss("w2", "", "its process ended")], forgiven=1)
    assert (error.worker, error.job, error.cause) == ("w2", "", "its process ended")
    assert error.tries == 2
    assert "1. worker w1 in job 17: job 17 is OUT_OF_MEMORY" in str(error)
    assert "2. worker w2: its process ended" in str(error)
    assert "survives 1 lost workers" in str(error)
