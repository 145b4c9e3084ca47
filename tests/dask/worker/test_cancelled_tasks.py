"""A task that nobody wants any more is ended; one that somebody still wants is not."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from clusters import SETTINGS, pids_of_stubborn
from distributed import Client, LocalCluster, Worker, WorkerPlugin
from distributed.worker_state_machine import FreeKeysEvent
from noting import stubborn
from processes import alive, all_gone, until

from dask_limits import LimitsWorkerPlugin, annotate, limit
from dask_limits.executors.dask.executor import DaskExecutor


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


def by_submit(client: Client, file: Path) -> Any:
    with annotate(wall_time=60):
        return client.submit(stubborn, file)


def by_persist(client: Client, file: Path) -> Any:
    with annotate(wall_time=60):
        first = dask.delayed(stubborn)(file)
    return client.persist(dask.delayed(lambda _: None)(first))


def by_compute(client: Client, file: Path) -> Any:
    with annotate(wall_time=60):
        return client.compute(dask.delayed(stubborn)(file))


KINDS = {"future": by_submit, "persisted graph": by_persist, "computed graph": by_compute}
WAYS: dict[str, Callable[[Client, Any], object]] = {
    "cancelled": lambda client, wanted: client.cancel(wanted),
    "cancelled by force": lambda client, wanted: client.cancel(wanted, force=True),
    "let go": lambda *_: None,  # the last reference goes below
    "of a client that was closed": lambda client, _: client.close(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_ended_that_is(kind: str, way: str, client: Client, tmp_path: Path) -> None:
    wanted = KINDS[kind](client, tmp_path / "pids")
    pids = pids_of_stubborn(tmp_path / "pids")
    WAYS[way](client, wanted)
    del wanted
    gc.collect()
    all_gone(pids)


def test_a_call_of_an_executor_is_ended(client: Client, tmp_path: Path) -> None:
    executor = DaskExecutor(client)
    future = executor.submit(limit(stubborn, wall_time=60), tmp_path / "pids")
    pids = pids_of_stubborn(tmp_path / "pids")
    future.cancel()
    all_gone(pids)


CLIENT = """
import sys
from pathlib import Path
sys.path[:] = {path!r}
from noting import stubborn
from dask_limits import annotate
from distributed import Client
with Client({address!r}) as client, annotate(wall_time=60):
    client.submit(stubborn, Path({file!r})).result()
"""


def test_a_task_is_ended_whose_client_was_killed(cluster: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    script = CLIENT.format(path=sys.path, address=cluster.scheduler_address, file=str(file))
    with subprocess.Popen([sys.executable, "-c", script]) as program:
        pids = pids_of_stubborn(file)
        program.send_signal(signal.SIGKILL)
        program.wait()
        all_gone(pids)


def wait_for(go: Path, runs: Path) -> str:
    """A call that notes that it runs, and returns when a file is there."""
    with runs.open("a") as lines:
        lines.write("ran\n")
    until(go.exists)
    return "done"


@pytest.mark.parametrize("way", ["cancelled", "let go", "of a client that was closed"])
def test_a_task_that_another_client_wants_runs_on_when_it_is(
    way: str, cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    go, runs = tmp_path / "go", tmp_path / "runs"
    with Client(cluster, set_as_default=False) as other:
        with annotate(wall_time=60):
            ours = client.submit(wait_for, go, runs, key=f"shared-{way}")
            theirs = other.submit(wait_for, go, runs, key=f"shared-{way}")
        until(runs.exists)
        task = cluster.scheduler.tasks[ours.key]
        until(lambda: len(task.who_wants) == 2)
        WAYS[way](client, [ours])
        del ours
        until(lambda: len(task.who_wants) == 1)
        go.touch()
        assert theirs.result() == "done"
    assert runs.read_text() == "ran\n"


def test_force_ends_it_for_all_clients(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "pids"
    with Client(cluster, set_as_default=False) as other:
        with annotate(wall_time=60):
            ours = client.submit(stubborn, file, key="forced")
            theirs = other.submit(stubborn, file, key="forced")
        pids = pids_of_stubborn(file)
        until(lambda: len(cluster.scheduler.tasks[ours.key].who_wants) == 2)
        ours.cancel(force=True)
        all_gone(pids)
        until(lambda: theirs.status == "cancelled")


class FreeAtOnce(WorkerPlugin):
    """Has a worker hear that nobody wants a task just before it hands it to its executor."""

    name = "free-at-once"

    def setup(self, worker: Worker) -> None:
        self.worker = worker

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        if key == "unlucky" and finish == "executing":
            freed = FreeKeysEvent(keys=[key], stimulus_id="test")
            asyncio.get_running_loop().call_soon(self.worker.handle_stimulus, freed)


def test_a_task_that_is_cancelled_as_it_begins_does_not_run_on(
    client: Client, cluster: LocalCluster
) -> None:
    client.register_plugin(FreeAtOnce())
    with annotate(wall_time=60):
        future = client.submit(time.sleep, 60, key="unlucky")
    until(lambda: any(state.processing for state in cluster.scheduler.workers.values()))
    future.cancel()
    assert client.submit(abs, -1, pure=False).result(timeout=60) == 1
    client.unregister_worker_plugin(FreeAtOnce.name)


def test_the_next_task_runs_when_one_has_been_cancelled(client: Client, tmp_path: Path) -> None:
    for number in range(10):
        file = tmp_path / str(number)
        with annotate(wall_time=60):
            first = client.submit(stubborn, file)
            pids = pids_of_stubborn(file)
            second = client.submit(abs, -number, pure=False)
        first.cancel()
        assert second.result(timeout=60) == number
        assert not any(map(alive, pids))
