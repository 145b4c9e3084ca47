"""What Dask itself shows of limited calls: task stream, counts, workers, logs, `/metrics`."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import SETTINGS, nothing_is_left_behind  # noqa: F401
from distributed import Client, LocalCluster
from failing import fails_at_seven, killed, without_limits
from noting import run_until
from overdoing import spin, wait_on
from processes import until
from required import need

from dask_limits import LimitsWorkerPlugin, Scheduler, annotate, limit
from dask_limits.exceptions import CrashError, LimitRefusedError, WallTimeBreach
from dask_limits.executors.dask import batching
from dask_limits.executors.dask.executor import DaskExecutor
from dask_limits.limits import call_metrics

MIB = 2**20


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, memory_limit="4 GiB", **SETTINGS
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        client.get_task_stream()  # from here on it is kept
        yield client


@pytest.fixture
def executor(client: Client) -> Iterator[DaskExecutor]:
    with DaskExecutor(client) as executor:
        yield executor


class Shown:
    """The status of each task of a function in the task stream, from now on."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._before = len(self._all())

    def _all(self) -> list[str]:
        records = self._client.get_task_stream()
        of_it = re.compile(rf"{self._name}( x \d+)?-")
        return [one["status"] for one in records if of_it.match(one["key"])]

    def statuses(self) -> list[str]:
        return self._all()[self._before :]


def works() -> bytes:
    return bytes(200_000)  # more than is told


def note_and_fail(path: Path) -> None:
    with path.open("a") as lines:
        lines.write("ran\n")
    raise LookupError


def hold(n_bytes: int, go: Path, runs: Path) -> None:
    held = b"x" * n_bytes
    run_until(go, runs)
    del held


# -- the task stream ---------------------------------------------------------------------------


def test_a_call_that_breaches_is_an_error_and_the_driver_gets_the_breach(client, executor) -> None:
    shown = Shown(client, "wait_on")
    future = executor.submit(limit(wait_on, wall_time=0.5))
    error = future.exception(timeout=60)
    assert type(error) is WallTimeBreach
    assert error.usage is future.usage
    assert future.usage.wall_time >= 0.5
    assert "wait_on" in error.stacks
    assert shown.statuses() == ["error"]


def test_so_is_one_that_crashes_or_raises_with_limits_or_without(client, executor) -> None:
    of_both = Shown(client, "killed"), Shown(client, "without_limits")
    crashed = executor.submit(limit(killed, wall_time=60))
    raised = executor.submit(without_limits)
    assert isinstance(crashed.exception(timeout=60), CrashError)
    assert isinstance(raised.exception(timeout=60), LookupError)
    assert [shown.statuses() for shown in of_both] == [["error"], ["error"]]


def test_one_that_returns_is_none_however_large_its_result(client, executor) -> None:
    shown = Shown(client, "works")
    assert len(executor.submit(limit(works, wall_time=60)).result(timeout=60)) == 200_000
    assert shown.statuses() == ["OK"]


def test_of_a_batch_each_call_ends_as_it_did_and_one_failure_shows(client, monkeypatch) -> None:
    monkeypatch.setattr(batching, "_BATCH_S", 1000)  # all calls count as short
    monkeypatch.setattr(batching, "_HOLD_UNKNOWN_S", 1000)  # however long the first one takes
    shown = Shown(client, "fails_at_seven")
    scheduler = Scheduler(client)
    ended: dict[int, Any] = {}
    task = scheduler.task(limit(fails_at_seven, wall_time=60))
    task.on_result(lambda _, value: ended.update({-value: value}))
    task.on_exception(lambda _, error: ended.update({error.args[0]: type(error)}))
    scheduler.on_start(lambda: [task.submit(number) for number in range(300)])
    scheduler.run(on_exception="continue")
    expected = {n: LookupError if n % 10 == 7 else -n for n in range(300)}
    assert ended == expected
    statuses = Counter(shown.statuses())
    assert statuses["error"] >= 1
    assert sum(statuses.values()) < 200  # many went together


def test_dask_does_not_run_a_call_again_that_has_failed(client, tmp_path) -> None:
    runs = tmp_path / "runs"
    with DaskExecutor(client, annotations={"retries": 3}) as executor:
        future = executor.submit(limit(note_and_fail, wall_time=60), runs)
        assert isinstance(future.exception(timeout=60), LookupError)
        assert executor.submit(limit(abs, wall_time=60), -1).result(timeout=60) == 1
    assert runs.read_text() == "ran\n"


def test_nothing_is_kept_of_calls_that_have_failed(client, executor) -> None:
    for _ in range(3):
        executor.submit(limit(fails_at_seven, wall_time=60), 7).exception(timeout=60)

    def left(dask_scheduler: Any) -> list[str]:
        return [key for key in dask_scheduler.tasks if str(key).startswith("fails_at_seven")]

    until(lambda: client.run_on_scheduler(left) == [])


def test_the_log_of_dasks_worker_leaves_them_out_and_has_those_of_others(client, executor) -> None:
    executor.submit(limit(fails_at_seven, wall_time=60), 7).exception(timeout=60)
    assert isinstance(client.submit(without_limits, pure=False).exception(timeout=60), LookupError)

    def failed() -> list[str]:
        logs = client.get_worker_logs()
        return [text for its in logs.values() for _, text in its if "Compute Failed" in text]

    until(failed)
    assert not any("fails_at_seven" in text for text in failed())


# -- workers -----------------------------------------------------------------------------------


def reported(client: Client, name: str) -> float:
    """What the worker has last reported to the scheduler."""

    def of_worker(dask_scheduler: Any) -> float:
        [worker] = dask_scheduler.workers.values()
        return worker.metrics[name]

    return client.run_on_scheduler(of_worker)


def test_the_memory_of_a_call_is_that_of_its_worker(client, executor, tmp_path) -> None:
    go, runs = tmp_path / "go", tmp_path / "runs"

    def memory() -> float:
        return reported(client, "memory")

    before = memory()
    future = executor.submit(limit(hold, memory="1 GiB"), 500 * MIB, go, runs)
    until(lambda: memory() > before + 400 * MIB)
    go.touch()
    future.result(timeout=60)
    until(lambda: memory() < before + 300 * MIB)


def test_so_is_its_cpu(client, executor) -> None:
    future = executor.submit(limit(spin, wall_time="10 m"))
    until(lambda: reported(client, "cpu") > 30)  # of 100, on a machine that is busy
    future.cancel()


# -- our log -----------------------------------------------------------------------------------


def log_to(path: str) -> None:
    handler = logging.FileHandler(path)
    handler.set_name("of a test")
    logging.getLogger("dask_limits").addHandler(handler)


def log_no_more() -> None:
    logger = logging.getLogger("dask_limits")
    for handler in [one for one in logger.handlers if one.get_name() == "of a test"]:
        logger.removeHandler(handler)
        handler.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    of_calls = [one for one in caplog.records if one.name == "dask_limits.calls"]
    return [one.getMessage() for one in of_calls if one.levelno >= logging.WARNING]


def test_a_breach_is_logged_where_it_was_and_where_it_is_heard_of(
    client, executor, tmp_path, caplog
) -> None:
    client.run(log_to, str(tmp_path / "worker.log"))
    executor.submit(limit(time.sleep, wall_time=0.5), 61).exception(timeout=60)
    with annotate(wall_time=0.5):
        client.submit(time.sleep, 62, pure=False).exception(timeout=60)
    log = tmp_path / "worker.log"
    until(lambda: len(log.read_text().splitlines()) == 2)  # once the outcome is on its way
    client.run(log_no_more)
    of_call, of_task = log.read_text().splitlines()
    [address] = client.run(os.getpid)
    assert re.fullmatch(
        rf"sleep\(61\) went over its wall_time limit of 0.5 s: .*; worker 0 at {address}\]",
        of_call,
    )
    assert of_task.startswith("sleep(62) went over its wall_time limit")
    assert warnings(caplog) == [of_call]


def test_in_one_process_it_is_logged_once(caplog) -> None:
    dashboard = SETTINGS["dashboard_address"]
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=dashboard) as cluster,
        Client(cluster, set_as_default=False) as client,
        DaskExecutor(client) as executor,
    ):
        executor.submit(limit(wait_on, wall_time=0.5)).exception(timeout=60)
        until(lambda: warnings(caplog))
    assert len(warnings(caplog)) == 1


def test_a_refusal_is_logged_once(client, executor, caplog) -> None:
    future = executor.submit(limit(abs, memory="8 GiB"), -1)
    assert isinstance(future.exception(timeout=60), LimitRefusedError)
    until(lambda: warnings(caplog))  # it is logged once the future has ended
    [line] = warnings(caplog)
    assert line.startswith("abs(-1) reserves 8.0 GiB of memory, but no worker")


def test_a_lost_worker_and_what_runs_again_are_logged_once_each(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, "dask_limits")
    go, runs = tmp_path / "go", tmp_path / "runs"
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        [pid] = client.run(os.getpid).values()
        scheduler = Scheduler(client)
        task = scheduler.task(limit(run_until, wall_time=60))
        scheduler.on_start(lambda: task.submit(go, runs))
        task.on_rerun(lambda *_: go.touch())

        def kill() -> None:
            if runs.exists():
                time.sleep(0.2)  # the start is reported after 0.1 s
                os.kill(pid, signal.SIGKILL)
            else:
                scheduler.call_later(0.05, kill)

        scheduler.on_start(kill)
        scheduler.run()
    [again] = warnings(caplog)
    assert re.match(r"run_until\(\) runs again, attempt 2: worker 0 at .* was lost: ", again)
    of_workers = [o.getMessage() for o in caplog.records if o.name == "dask_limits.workers"]
    assert [
        re.sub(r" at tcp://[\d.:]+", "", line).partition(":")[0] for line in of_workers[:3]
    ] == [
        "worker 0 has come",
        "worker 0 has gone",
        "worker 0 has come",
    ]


# -- /metrics ----------------------------------------------------------------------------------


@pytest.fixture
def counts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler counts calls in this process, which has counted those of other tests."""
    monkeypatch.setattr(call_metrics, "_kept", call_metrics.CallMetrics())


def metrics_of(link: str) -> dict[str, float]:
    """What `/metrics` has, by name and labels."""
    with urllib.request.urlopen(f"{link}/metrics") as page:
        text = page.read().decode()
    lines = [line for line in text.splitlines() if line.startswith("dask_limits_")]
    assert len({line.rpartition(" ")[0] for line in lines}) == len(lines), "each is there once"
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def of_worker(client: Client) -> dict[str, float]:
    def port_of(dask_worker: Any) -> int:
        return dask_worker.http_server.port

    [port] = client.run(port_of).values()
    return metrics_of(f"http://127.0.0.1:{port}")


def of_scheduler(client: Client) -> dict[str, float]:
    return metrics_of(client.dashboard_link.removesuffix("/status"))


@pytest.mark.usefixtures("counts_anew")
def test_metrics_have_calls_by_function_and_ending(client, executor) -> None:
    need(importlib.util.find_spec("prometheus_client"), "prometheus_client")
    before = Counter(of_worker(client))
    executor.submit(limit(wait_on, wall_time=0.5)).exception(timeout=60)
    with annotate(wall_time=0.5):
        client.submit(wait_on, pure=False).exception(timeout=60)
    executor.submit(limit(wait_on, memory="8 GiB")).exception(timeout=60)
    n_calls = 'dask_limits_calls_total{ending="wall_time",function="wait_on"}'

    def more_than_before() -> Counter[str]:
        return Counter(of_worker(client)) - before

    until(lambda: more_than_before()[n_calls] == 2)  # once the outcome is on its way
    more, metrics = more_than_before(), Counter(of_worker(client))
    wall_time = "dask_limits_call_wall_time_seconds"
    assert more[wall_time + '_bucket{function="wait_on",le="0.1"}'] == 0
    assert more[wall_time + '_bucket{function="wait_on",le="+Inf"}'] == 2
    assert more[wall_time + '_count{function="wait_on"}'] == 2
    assert more[wall_time + '_sum{function="wait_on"}'] >= 1.0
    assert more['dask_limits_call_peak_memory_bytes_count{function="wait_on"}'] == 2
    assert "dask_limits_reruns_total" in metrics
    refused = 'dask_limits_calls_total{ending="refused",function="wait_on"}'
    assert of_scheduler(client)[refused] == 1
    assert refused not in metrics


def test_metrics_have_what_is_reserved_free_and_waits(client, executor, tmp_path) -> None:
    need(importlib.util.find_spec("prometheus_client"), "prometheus_client")
    go = tmp_path / "go"
    futures = [
        executor.submit(limit(run_until, memory="3 GiB"), go, tmp_path / f"runs{n}")
        for n in range(2)
    ]
    until(lambda: (tmp_path / "runs0").exists() or (tmp_path / "runs1").exists())
    gib = 2**30
    worker, cluster = of_worker(client), of_scheduler(client)
    assert worker["dask_limits_worker_reserved_memory_bytes"] == 3 * gib
    assert worker["dask_limits_worker_free_memory_bytes"] == 1 * gib
    assert worker["dask_limits_worker_task_processes"] >= 1
    assert cluster["dask_limits_cluster_reserved_memory_bytes"] == 3 * gib
    assert cluster["dask_limits_cluster_free_memory_bytes"] == 1 * gib
    assert cluster["dask_limits_cluster_workers"] == 1
    until(lambda: of_scheduler(client)["dask_limits_cluster_waiting_tasks"] == 1)
    until(lambda: of_worker(client)["dask_limits_worker_processes_memory_bytes"] > 10 * MIB)
    go.touch()
    for future in futures:
        future.result(timeout=60)
    until(lambda: of_worker(client)["dask_limits_worker_reserved_memory_bytes"] == 0)
