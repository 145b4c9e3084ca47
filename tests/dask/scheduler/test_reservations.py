"""Limits are reservations: what runs on a worker at one time never sums up to more than it has."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from clusters import SETTINGS, dask_worker
from distributed import Client, Future, LocalCluster, worker_client
from noting import meet, note, wait_for
from processes import until

from dask_limits import LimitsWorkerPlugin, annotate, limit
from dask_limits.dask.scheduler.plugin import LimitsSchedulerPlugin
from dask_limits.exceptions import LimitRefusedError
from dask_limits.executors.dask.executor import DaskExecutor

GIB = 2**30


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=4, memory_limit="4 GiB", **SETTINGS
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


def noted(file: Path) -> list[tuple[str, float, float]]:
    lines = [line.split() for line in file.read_text().splitlines()]
    return [(what, float(begin), float(end)) for what, begin, end in lines]


def on_workers(cluster: LocalCluster, futures: dict[str, Future]) -> dict[str, str]:
    """Which of some tasks are with a worker, and with which."""
    tasks = cluster.scheduler.tasks
    return {
        name: tasks[future.key].processing_on.address
        for name, future in futures.items()
        if future.key in tasks and tasks[future.key].processing_on
    }


def most_at_once(file: Path) -> float:
    """The most that the limits of calls summed up to which ran at one time."""
    changes = sorted(
        change
        for what, begin, end in noted(file)
        for change in [(begin, int(what)), (end, -int(what))]
    )
    total = most = 0
    for _, change in changes:
        total += change
        most = max(most, total)
    return most


def test_memory_limits_of_what_runs_on_a_worker_never_sum_up_to_more_than_it_has(
    client: Client, tmp_path: Path
) -> None:
    rng = random.Random(3)
    futures = []
    (worker, other) = client.scheduler_info(n_workers=-1)["workers"]
    for number in range(60):
        memory = rng.choice([1, 1, 1, 2, 3, 4])
        at = (worker, other)[number % 2]
        with annotate(memory=memory * GIB):
            futures.append(
                client.submit(note, tmp_path / at[-5:], str(memory), workers=[at], pure=False)
            )
    client.gather(futures)
    for file in tmp_path.iterdir():
        assert most_at_once(file) <= 4
    with annotate(memory=GIB):
        four = [client.submit(meet, tmp_path / "4", str(n), 4, workers=[worker]) for n in range(4)]
    client.gather(four)


def test_cores_that_are_asked_for_are_reserved_too(client: Client, tmp_path: Path) -> None:
    (worker, _) = client.scheduler_info(n_workers=-1)["workers"]
    futures, runs = [], tmp_path / "runs"
    for cores in [1, 2, 3, 4] * 5:
        with annotate(cores=cores):
            futures.append(client.submit(note, runs, str(cores), workers=[worker], pure=False))
    client.gather(futures)
    assert most_at_once(runs) <= 4
    with annotate(cores=2):
        two = [client.submit(meet, tmp_path / "2", str(n), 2, workers=[worker]) for n in range(2)]
    client.gather(two)


def test_small_calls_pass_a_large_one_which_starts_all_the_same(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    blockers = {}
    with annotate(memory="3 GiB"):
        for name in ("first", "second"):
            blockers[name] = client.submit(wait_for, tmp_path / name, tmp_path / f"{name}-begun")
    until(lambda: (tmp_path / "first-begun").exists() and (tmp_path / "second-begun").exists())
    with annotate(memory="4 GiB"):
        large = client.submit(note, tmp_path / "runs", "large", pure=False)
    with annotate(memory="1 GiB"):
        small = [client.submit(note, tmp_path / "runs", "small", pure=False) for _ in range(5)]
    client.gather(small)  # while the large one still waits
    assert not large.done()
    (tmp_path / "first").touch()
    (tmp_path / "second").touch()
    more = []

    def large_is_done() -> bool:
        with annotate(memory="1 GiB"):  # more than both workers get done meanwhile
            more.extend(client.map(note, *file_and_name, pure=False))
        return large.done()

    file_and_name = [tmp_path / "runs"] * 5, ["more"] * 5
    until(large_is_done)
    client.gather([*more, *blockers.values()])
    order = [what for what, *_ in sorted(noted(tmp_path / "runs"), key=lambda run: run[1])]
    assert order[:5] == ["small"] * 5


def test_of_calls_submitted_together_the_largest_go_first_and_small_ones_fill_the_rest(
    client: Client, tmp_path: Path
) -> None:
    file, large = tmp_path / "notes", 7 * GIB // 2
    tasks = []
    for size in [GIB // 2] * 20 + [large] * 4:
        with annotate(memory=size):
            tasks.append(dask.delayed(note, pure=False)(file, str(size), 0.5))
    client.gather(client.compute(tasks))
    begun = [int(what) for what, *_ in sorted(noted(file), key=lambda one: one[1])]
    assert begun.index(large) < 4  # of 24; each worker runs a small one beside its large one
    assert most_at_once(file) <= 2 * 4 * GIB


def test_a_call_that_no_worker_can_grant_is_refused_with_both_figures(client: Client) -> None:
    with DaskExecutor(client) as executor:
        future = executor.submit(limit(abs, memory="5 GiB"), -1)
        with pytest.raises(
            LimitRefusedError, match=r"abs\(\) reserves 5.0 GiB.*than 4.0 GiB"
        ) as is_:
            future.result(timeout=60)
    error = is_.value
    assert (error.limit, error.asked, error.most) == ("memory", 5 * GIB, 4 * GIB)
    assert (error.call, error.limits.memory) == ("abs", 5 * GIB)


def test_a_task_of_a_graph_is_refused_too_before_what_it_depends_on_has_run(
    client: Client, tmp_path: Path
) -> None:
    first = dask.delayed(wait_for)(tmp_path / "never")
    with annotate(cores=5):
        second = dask.delayed(lambda _: None)(first)
    third = dask.delayed(lambda _: None)(second)
    with pytest.raises(LimitRefusedError, match=r"reserves 5 cores.*has more than 4"):
        client.compute(third).result(timeout=60)
    (tmp_path / "never").touch()


def test_a_task_that_is_pinned_to_a_worker_waits_for_that_one(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    (worker, other) = client.scheduler_info(n_workers=-1)["workers"]
    with annotate(memory="3 GiB"):
        futures = {
            "runs": client.submit(wait_for, tmp_path / "go", tmp_path / "begun", workers=[worker])
        }
        until((tmp_path / "begun").exists)
        futures["waits"] = client.submit(abs, -1, workers=[worker], pure=False)
        futures["passes"] = client.submit(abs, -2, workers=[other], pure=False)
    assert futures["passes"].result(timeout=60) == 2
    assert on_workers(cluster, futures) == {"runs": worker}
    (tmp_path / "go").touch()
    assert futures["waits"].result(timeout=60) == 1


def test_calls_in_threads_reserve_too(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    with annotate(memory="3 GiB", isolation="thread"):
        futures = {
            str(n): client.submit(wait_for, tmp_path / "go", pure=False, key=f"threads-{n}")
            for n in range(3)
        }
    until(lambda: len(on_workers(cluster, futures)) == 2)
    assert len(set(on_workers(cluster, futures).values())) == 2
    (tmp_path / "go").touch()
    client.gather(list(futures.values()))


def calls_others() -> int:
    with worker_client(separate_thread=True) as client, annotate(cores=4):
        return sum(client.gather([client.submit(abs, -n, pure=False) for n in range(4)]))


def test_a_call_that_waits_for_others_does_not_hold_their_cores(client: Client) -> None:
    with annotate(isolation="thread", cores=4):
        futures = [client.submit(calls_others, pure=False) for _ in range(2)]
    assert client.gather(futures) == [6, 6]


def test_a_waiting_call_can_be_cancelled(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    with annotate(memory="4 GiB"):
        running = [client.submit(wait_for, tmp_path / "go", pure=False) for _ in range(2)]
        waiting = client.submit(abs, -1, pure=False)
        until(lambda: len(cluster.scheduler.unrunnable) == 1)
        waiting.cancel()
        until(lambda: len(cluster.scheduler.unrunnable) == 0)
        (tmp_path / "go").touch()
        assert client.submit(abs, -3, pure=False).result(timeout=60) == 3
    client.gather(running)


def test_ordinary_tasks_go_on_beside_calls_that_wait(client: Client, tmp_path: Path) -> None:
    with annotate(memory="4 GiB"):
        futures = [client.submit(wait_for, tmp_path / "go", pure=False) for _ in range(4)]
    assert sum(client.gather(client.map(abs, range(100), pure=False))) == 4950
    (tmp_path / "go").touch()
    client.gather(futures)


def test_nothing_is_refused_while_no_worker_is_there(tmp_path: Path) -> None:
    with LocalCluster(n_workers=0, **SETTINGS) as cluster, Client(cluster) as client:
        client.register_plugin(LimitsWorkerPlugin())
        with annotate(memory="3 GiB"):
            fits = client.submit(abs, -1)
        with annotate(memory="5 GiB"):
            does_not = client.submit(abs, -2)
        time.sleep(0.2)
        assert (fits.status, does_not.status) == ("pending", "pending")
        options = ["--nthreads", "1", "--memory-limit", "4 GiB", "--no-dashboard"]
        with dask_worker(cluster.scheduler_address, *options):
            assert fits.result(timeout=60) == 1
            with pytest.raises(LimitRefusedError, match=r"more than 4.0 GiB"):
                does_not.result(timeout=60)


def test_when_the_plugin_is_taken_away_dask_places_tasks_as_ever(tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, **SETTINGS) as cluster, Client(cluster) as client:
        client.register_plugin(LimitsWorkerPlugin())
        assert LimitsSchedulerPlugin.name in cluster.scheduler.plugins
        client.unregister_worker_plugin(LimitsWorkerPlugin.name)
        until(lambda: LimitsSchedulerPlugin.name not in cluster.scheduler.plugins)
        with annotate(memory="1 GiB"):
            future = client.submit(abs, -1)
        with pytest.raises(ValueError, match="Invalid executor 'limits'"):
            future.result(timeout=60)
