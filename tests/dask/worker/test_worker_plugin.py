"""Limits on Dask's own tasks: the worker plugin and annotate()."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import psutil
import pytest
from clusters import SETTINGS
from distributed import (
    Client,
    LocalCluster,
    Lock,
    Variable,
    get_client,
    get_worker,
    secede,
    worker_client,
)
from overdoing import wait_on
from processes import alive, start_sleeping, until, written_pid

from dask_limits import LimitsWorkerPlugin, annotate
from dask_limits.exceptions import (
    Breach,
    CallPicklingError,
    MemoryBreach,
    MemoryLimitException,
    WallTimeBreach,
)
from dask_limits.limits import Isolation, Limits


@pytest.fixture(scope="module", params=["nanny", "no nanny", "threads of one process"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    options: dict[str, object] = {"n_workers": 1, "threads_per_worker": 2}
    if request.param == "no nanny":
        options = {"n_workers": 0}
    elif request.param == "threads of one process":
        options = {"n_workers": 2, "threads_per_worker": 2, "processes": False}
    with LocalCluster(**options, **SETTINGS) as cluster, Client(cluster) as client:
        workers = []
        if request.param == "no nanny":
            command = [sys.executable, "-m", "dask", "worker", cluster.scheduler_address]
            command += ["--no-nanny", "--nthreads", "2", "--no-dashboard"]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            workers.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment))
        client.wait_for_workers(1)
        client.register_plugin(LimitsWorkerPlugin())
        yield client
        for worker in workers:
            worker.terminate()
            worker.wait()


def test_an_annotated_task_runs_in_a_process_of_its_own(client: Client) -> None:
    with annotate(wall_time=20):
        pid = client.submit(os.getpid, pure=False).result()
    assert pid not in client.run(os.getpid).values()


def test_a_breach_is_raised_as_dask_raises(client: Client) -> None:
    with annotate(wall_time=0.1):
        future = client.submit(time.sleep, 60)
    error = future.exception()
    assert type(error) is WallTimeBreach
    assert error.usage.wall_time >= 0.1
    assert error.limits.wall_time == 0.1
    with pytest.raises(WallTimeBreach, match="sleep"):
        future.result()


@pytest.mark.parametrize("isolation", ["warm", "fresh", "thread"])
def test_tracebacks_and_stacks_of_tasks_show_nothing_of_ours(
    client: Client, isolation: Isolation
) -> None:
    with annotate(wall_time=30, isolation=isolation):
        error = client.submit(lambda: int("x"), pure=False).exception()
    if isolation != "thread":
        assert re.match(r'Traceback .*\n  File ".*", line \d+, in <lambda>\n', error.__cause__.text)
    with annotate(wall_time=0.5, isolation=isolation):
        error = client.submit(wait_on, pure=False).exception()
    assert re.match(
        r'Current .*:\n(  File ".*overdoing.py", line \d+ in wait_on\n?)+$', error.stacks
    )


def test_memory_is_limited_too(client: Client) -> None:
    with annotate(memory="100 MiB", wall_time=20):
        future = client.submit(bytearray, 2**28)
    assert type(future.exception()) is MemoryBreach
    assert isinstance(future.exception(), MemoryLimitException)


def test_a_users_own_exception_keeps_type_and_arguments(client: Client) -> None:
    with annotate(wall_time=20):
        future = client.submit(int, "x1")
    assert isinstance(future.exception(), ValueError)
    assert "invalid literal" in str(future.exception())


def ask_for_a_worker(way: str) -> None:
    if way == "get_worker":
        get_worker()
    elif way == "secede":
        secede()
    elif way == "get_client":
        get_client()
    elif way == "Lock":
        with Lock("lock"):
            pass
    elif way == "Variable":
        Variable("variable").get()
    else:
        with worker_client():
            pass


NEEDS_A_WORKER = {
    "get_worker": ValueError,
    "secede": ValueError,
    "worker_client": ValueError,
    "get_client": ValueError,
    "Lock": AttributeError,
    "Variable": RuntimeError,
}


@pytest.mark.parametrize("way", NEEDS_A_WORKER)
def test_in_a_task_process_there_is_no_dask_worker_and_the_error_says_so(
    client: Client, way: str
) -> None:
    with annotate(wall_time=20):
        error = client.submit(ask_for_a_worker, way, pure=False).exception()
    assert type(error) is NEEDS_A_WORKER[way]
    assert "neither a worker nor a client" in "".join(error.__notes__)


def with_its_worker(way: str) -> object:
    if way == "get_worker":
        return get_worker().address
    if way == "secede":
        return secede()
    with worker_client() as client:
        return client.submit(abs, -3).result()


@pytest.mark.parametrize("way", ["get_worker", "secede", "worker_client"])
def test_a_task_that_is_isolated_in_a_thread_has_its_dask_worker(client: Client, way: str) -> None:
    with annotate(wall_time=20, isolation="thread"):
        value = client.submit(with_its_worker, way, pure=False).result()
    expected = {"secede": [None], "worker_client": [3]}
    assert value in expected.get(way, client.scheduler_info()["workers"])


def spin(_: int) -> None:
    while True:
        pass


def test_tasks_that_are_isolated_in_threads_breach_and_give_back_their_slots(
    client: Client,
) -> None:
    with annotate(wall_time=0.2, isolation="thread"):
        futures = client.map(spin, range(8), pure=False)
    assert {type(future.exception()) for future in futures} == {WallTimeBreach}
    with annotate(wall_time=20, isolation="thread"):
        assert client.gather(client.map(abs, range(-8, 0), pure=False)) == list(range(8, 0, -1))


def raise_what_cannot_travel() -> None:
    error = ValueError("long" * 10_000)
    error.lock = threading.Lock()
    raise error


def test_an_error_with_a_long_message_keeps_its_type(client: Client) -> None:
    with annotate(wall_time=20):
        error = client.submit(raise_what_cannot_travel).exception()
    assert type(error) is CallPicklingError
    assert error.part == "exception"
    assert error.usage.wall_time > 0


@pytest.mark.parametrize("way", ["cancelled", "released"])
def test_a_task_that_nobody_wants_any_more_is_ended(
    client: Client, way: str, tmp_path: Path
) -> None:
    with annotate(wall_time=60):
        future = client.submit(start_sleeping, tmp_path / "pid")
    pid = written_pid(tmp_path / "pid")
    if way == "cancelled":
        future.cancel()
    del future
    until(lambda: not alive(pid))


def test_the_threads_of_cancelled_tasks_come_back(client: Client, tmp_path: Path) -> None:
    places = sum(client.nthreads().values())
    with annotate(wall_time=60):
        running = client.map(start_sleeping, [tmp_path / str(n) for n in range(places)])
    for n in range(places):
        written_pid(tmp_path / str(n))
    client.cancel(running)
    with annotate(wall_time=20):
        assert client.gather(client.map(abs, range(-places, 0))) == list(range(places, 0, -1))


def test_a_task_that_is_asked_for_again_while_it_is_being_ended_runs_again(
    client: Client, tmp_path: Path
) -> None:
    with annotate(wall_time=60):
        first = client.submit(start_sleeping, tmp_path / "pid", key="again")
        pid = written_pid(tmp_path / "pid")
        (tmp_path / "pid").unlink()
        first.cancel()
        second = client.submit(start_sleeping, tmp_path / "pid", key="again")
    until(lambda: not alive(pid))
    assert written_pid(tmp_path / "pid") != pid
    second.cancel()


async def doubled(number: int, seconds: float = 0) -> int:
    await asyncio.sleep(seconds)
    return 2 * number


def test_coroutine_functions_do_not_escape(client: Client) -> None:
    with annotate(wall_time=60):
        assert client.submit(doubled, 4).result() == 8
    with annotate(wall_time=1):
        assert isinstance(client.submit(doubled, 4, seconds=60).exception(), WallTimeBreach)


def test_limits_reach_every_task_of_a_graph(client: Client) -> None:
    inc = dask.delayed(lambda number: (number + 1, os.getpid()))
    with annotate(wall_time=20):
        parts = [inc(number) for number in range(3)]
        total = dask.delayed(lambda parts: (sum(n for n, _ in parts), os.getpid(), parts))(parts)
    value, pid, given = client.compute(total).result()
    assert value == 6
    assert not {pid, *(part[1] for part in given)} & set(client.run(os.getpid).values())


def raise_it(what: type[BaseException]) -> None:
    raise what


@pytest.mark.parametrize("isolation", ["warm", "thread"])
@pytest.mark.parametrize(
    "what", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, StopIteration, GeneratorExit]
)
def test_a_worker_outlives_a_task_that_raises(
    what: type[BaseException], isolation: str, client: Client
) -> None:
    with annotate(wall_time=20, isolation=isolation):
        error = client.submit(raise_it, what, pure=False).exception(timeout=60)
        assert error is not None
        assert client.submit(abs, -3, pure=False).result(timeout=60) == 3


def test_an_inner_block_adds_to_the_outer_one(client: Client) -> None:
    with annotate(wall_time=60, memory="2 GiB"), annotate(wall_time=0.1, num_processes=3):
        error = client.submit(time.sleep, 50).exception()
    assert isinstance(error, Breach)
    assert error.limits.wall_time == 0.1
    assert error.limits.memory == 2 * 2**30
    assert error.limits.num_processes == 3


def test_an_inner_block_wins_with_what_is_the_default_too() -> None:
    outer = {"isolation": "fresh", "context": "spawn", "capture_output": True, "wall_time": 60}
    with annotate(**outer), annotate(isolation="clean", capture_output=False, wall_time=None):
        limits = dask.get_annotations()["limits"]
    assert Limits(**limits) == Limits(wall_time=60)


def test_limits_of_two_blocks_that_do_not_go_together_are_refused_at_once() -> None:
    with annotate(num_processes=1):
        with pytest.raises(ValueError, match="num_processes"), annotate(isolation="thread"):
            pass
        assert dask.get_annotations()["limits"] == {"num_processes": 1}


@pytest.mark.parametrize("wrong", [{"memory": "2 parsecs"}, {"wall_time": 0}, {"cpu_time": -1}])
def test_a_wrong_limit_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        annotate(**wrong)


def test_a_worker_outlives_a_hundred_breaches() -> None:
    with Client(n_workers=1, threads_per_worker=2, **SETTINGS) as client:
        client.register_plugin(LimitsWorkerPlugin())
        before = client.run(os.getpid)
        with annotate(wall_time=0.02):
            futures = client.map(time.sleep, range(30, 130))
        assert {type(future.exception()) for future in futures} == {WallTimeBreach}
        assert client.run(os.getpid) == before


def test_workers_that_join_later_enforce_too() -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        first = set(client.scheduler_info(n_workers=-1)["workers"])
        cluster.scale(2)
        client.wait_for_workers(2)
        (late,) = set(client.scheduler_info(n_workers=-1)["workers"]) - first
        with annotate(wall_time=0.1):
            future = client.submit(time.sleep, 60, workers=[late])
        assert isinstance(future.exception(), WallTimeBreach)


def test_nothing_stays_when_the_plugin_is_removed(tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        worker = next(iter(client.run(os.getpid).values()))
        with annotate(wall_time=60):
            future = client.submit(start_sleeping, tmp_path / "pid")
        written_pid(tmp_path / "pid")
        processes = psutil.Process(worker).children(recursive=True)
        assert len(processes) >= 2  # guardian and task process
        client.unregister_worker_plugin(LimitsWorkerPlugin.name)
        until(lambda: not any(alive(process.pid) for process in processes))
        future.cancel()


def test_without_the_plugin_dask_refuses() -> None:
    with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
        with annotate(wall_time=1):
            future = client.submit(abs, -3)
        with pytest.raises(ValueError, match="Invalid executor 'limits'"):
            future.result()
