"""A Dask scheduler that is lost, or the connection to it: a clear error at once, and no hanging."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import SETTINGS, Proxy, dask_program, nothing_is_left_behind  # noqa: F401
from distributed import Client, LocalCluster
from processes import until

from dask_limits import PynisherPlugin, Retry, Scheduler, limit
from dask_limits.exceptions import ClusterLostError
from dask_limits.executors.dask.executor import DaskExecutor

AT_ONCE_S = 20.0
"""Less than the 30 seconds that Dask takes to give up; its usual time is 0.2 s."""


LISTENING = {"dashboard_address": SETTINGS["dashboard_address"], "protocol": "tcp"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=4, processes=False, **LISTENING) as cluster:
        yield cluster


@pytest.fixture
def proxy(cluster: LocalCluster) -> Iterator[Proxy]:
    proxy = Proxy(cluster.scheduler_address)
    yield proxy
    proxy.close()


@pytest.fixture
def far(proxy: Proxy) -> Iterator[Client]:
    """A client whose connection can be cut."""
    with Client(proxy.address, set_as_default=False) as client:
        yield client


def in_flight(executor: DaskExecutor) -> list[concurrent.futures.Future[Any]]:
    """Three calls that run, and one that waits for its argument."""
    running = [executor.submit(limit(time.sleep, wall_time=60), 60) for _ in range(3)]
    until(lambda: any(executor.client.processing().values()))
    waiting = executor.submit(abs, executor.client.submit(time.sleep, 3))
    return [*running, waiting]


def all_are_lost(futures: list[concurrent.futures.Future[Any]], address: str) -> None:
    done, not_done = concurrent.futures.wait(futures, AT_ONCE_S)
    assert not not_done
    for future in done:
        error = future.exception()
        assert type(error) is ClusterLostError
        assert (error.address, error.running) == (address, ["sleep", "abs"])
        assert error.call in ("sleep", "abs")
        assert str(error).startswith(f"{error.call}() is lost. The connection")
        assert f"{address} was lost. Calls that were not done: sleep (3 times), abs." in str(error)


def ends_at_once(run: Callable[[], object]) -> ClusterLostError:
    """What a run has raised, which is to end soon after it begins."""
    start = time.monotonic()
    with pytest.raises(ClusterLostError) as caught:
        run()
    assert time.monotonic() - start < AT_ONCE_S
    return caught.value


def test_calls_fail_at_once_when_the_connection_is_cut(far: Client, proxy: Proxy) -> None:
    executor = DaskExecutor(far)
    futures = in_flight(executor)
    proxy.cut()
    all_are_lost(futures, proxy.address)
    with pytest.raises(ClusterLostError, match="abs"):
        executor.submit(abs, -1)
    start = time.monotonic()
    executor.shutdown()
    assert time.monotonic() - start < AT_ONCE_S


def test_the_error_can_be_pickled(far: Client, proxy: Proxy) -> None:
    executor = DaskExecutor(far)
    future = executor.submit(limit(time.sleep, wall_time=60), 60)
    proxy.cut()
    error = future.exception(AT_ONCE_S)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ClusterLostError
    assert vars(again) == vars(error)


def test_calls_whose_results_are_under_way_fail_at_once(far: Client, proxy: Proxy) -> None:
    executor = DaskExecutor(far)
    before = proxy.n_bytes
    future = executor.submit(bytes, 200_000_000)
    until(lambda: proxy.n_bytes - before > 1_000_000)
    proxy.cut()
    assert type(future.exception(AT_ONCE_S)) is ClusterLostError


def test_calls_that_are_submitted_just_then_do_not_hang(far: Client, proxy: Proxy) -> None:
    executor = DaskExecutor(far)
    futures = []

    def submit() -> None:
        try:
            while True:
                futures.append(executor.submit(abs, -1))
                time.sleep(0.0002)
        except ClusterLostError:
            pass

    submitting = [threading.Thread(target=submit) for _ in range(2)]
    for thread in submitting:
        thread.start()
    until(lambda: any(future.done() for future in futures))
    proxy.cut()
    for thread in submitting:
        thread.join(AT_ONCE_S)
        assert not thread.is_alive()
    assert not concurrent.futures.wait(futures, AT_ONCE_S).not_done
    ends = {type(future.exception()) for future in futures}
    assert ends <= {ClusterLostError, type(None)}


def test_an_executor_stays_lost_and_a_new_one_works_after_a_reconnect(
    far: Client, proxy: Proxy
) -> None:
    executor = DaskExecutor(far)
    futures = in_flight(executor)
    proxy.cut()
    all_are_lost(futures, proxy.address)
    proxy.mend()
    until(lambda: far.status == "running")
    with pytest.raises(ClusterLostError, match="abs"):
        executor.submit(abs, -1)
    assert DaskExecutor(far).submit(limit(abs, wall_time=20), -2).result() == 2


def test_a_run_that_has_lost_its_scheduler_ends_at_once(far: Client, proxy: Proxy) -> None:
    scheduler = Scheduler(far)
    task = scheduler.task(time.sleep, plugins=PynisherPlugin(walltime_limit=60))
    scheduler.on_start(lambda: [task.submit(60) for _ in range(3)])
    scheduler.on_start(lambda: scheduler.call_later(0.2, proxy.cut))
    errors: list[BaseException] = []
    task.on_exception(lambda _, error: errors.append(error))
    error = ends_at_once(scheduler.run)
    assert str(error).endswith("Calls that were not done: sleep (3 times).")
    assert [type(error) for error in errors] == [ClusterLostError] * 3


def test_a_run_that_goes_on_after_errors_ends_too(far: Client, proxy: Proxy) -> None:
    scheduler = Scheduler(far)
    plugins = [PynisherPlugin(walltime_limit=60), Retry(max_retries=2)]
    task = scheduler.task(time.sleep, plugins=plugins)
    scheduler.on_start(lambda: [task.submit(60) for _ in range(3)])
    scheduler.on_start(lambda: scheduler.call_later(0.2, proxy.cut))
    start = time.monotonic()
    assert scheduler.run(on_exception="continue").code == "exhausted"
    assert time.monotonic() - start < AT_ONCE_S
    assert task.emitter.counts["on-exception"] == 3


def test_a_run_does_not_begin_while_the_connection_is_lost(far: Client, proxy: Proxy) -> None:
    proxy.cut()
    until(lambda: far.status == "connecting")
    error = ends_at_once(Scheduler(far).run)
    assert error.address == proxy.address
    assert "lost" in str(error)


def test_a_run_ends_when_the_cluster_that_it_was_given_is_closed() -> None:
    with LocalCluster(n_workers=1, processes=False, **LISTENING) as cluster:
        scheduler = Scheduler(cluster)
        scheduler.on_start(lambda: scheduler.submit(time.sleep, 3))
        closing = threading.Thread(target=cluster.close)
        scheduler.on_start(lambda: scheduler.call_later(0.2, closing.start))
        ends_at_once(scheduler.run)
        closing.join()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A scheduler and a worker as programs of their own: its process, and where it listens."""
    file = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    with (
        dask_program("scheduler", "--host", "127.0.0.1", "--port", "0", *options) as scheduler,
        dask_program("worker", "--no-nanny", "--nthreads", "1", *options),
    ):
        until(file.exists)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(1)
            address = client.scheduler.address
        yield scheduler, address


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "closed"])
def test_a_run_ends_at_once_when_the_scheduler_ends(
    programs: tuple[subprocess.Popen[bytes], str], number: signal.Signals
) -> None:
    program, address = programs
    scheduler = Scheduler.with_dask(address)
    task = scheduler.task(time.sleep, plugins=PynisherPlugin(walltime_limit=60))
    scheduler.on_start(lambda: [task.submit(60) for _ in range(3)])
    end = lambda: os.kill(program.pid, number)  # noqa: E731
    scheduler.on_start(lambda: scheduler.call_later(0.5, end))
    error = ends_at_once(scheduler.run)
    assert error.address == address
    assert error.running == ["sleep"]
