"""The spans of calls on Dask, whose context comes with each call of a batch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import SETTINGS, nothing_is_left_behind  # noqa: F401
from distributed import Client, LocalCluster
from noting import count_run
from processes import start_sleeping, until, written_pid
from traces import Spans, ids, inner, parent, parent_of, spans_of_the_driver, trace_into, written  # noqa: F401

from dask_limits import LimitedExecutor, Scheduler, exceptions, limit
from dask_limits.executors.dask import batching

trace = pytest.importorskip("opentelemetry.trace")
pytestmark = pytest.mark.dask


@pytest.fixture
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("limits", [{"wall_time": 60}, {"isolation": "thread"}, {}], ids=str)
def test_each_call_of_a_batch_is_part_of_its_own_trace(
    limits: dict, client: Client, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_BATCH_S", 1000)  # all calls count as short
    monkeypatch.setattr(batching, "_HOLD_UNKNOWN_S", 1000)  # however long the first one takes
    with (
        LimitedExecutor(client, **limits) as executor,
        trace.get_tracer("user").start_as_current_span("outer") as outer,
    ):
        futures = [executor.submit(parent) for _ in range(20)]
        parents = [future.result() for future in futures]
    assert len({future.task_key for future in futures}) < 20 or "wall_time" not in limits
    until(lambda: len(spans.all("run")) == len(spans.all()) == 20)
    assert parents == [ids(span) for span in spans.all()]
    assert {parent_of(span) for span in spans.all()} == {ids(outer)}
    workers = {span.attributes["dask_limits.worker"] for span in spans.all("run")}
    assert workers == {futures[0].worker}


def test_spans_that_a_function_makes_on_a_worker_are_below_its_call(
    client: Client, spans: Spans, tmp_path: Path
) -> None:
    file = tmp_path / "spans"
    scheduler = Scheduler.with_dask(client, initializer=trace_into, initargs=(file,))
    scheduler.on_start(lambda: scheduler.map(limit(inner, wall_time=60), range(5)))
    scheduler.run()
    below = {(one["context"]["trace_id"][2:], one["parent_id"][2:]) for one in written(file)}
    assert below == {ids(span) for span in spans.all()}
    assert len(below) == 5


def test_a_breach_on_a_worker_is_an_error(client: Client, spans: Spans, tmp_path: Path) -> None:
    with LimitedExecutor(client, wall_time=0.5) as executor:
        error = executor.submit(start_sleeping, tmp_path / "pid").exception()
        assert isinstance(error, exceptions.WallTimeBreach)
    until(lambda: len(spans.all()) == 1)
    for span in (spans.one(), spans.one("run")):
        assert span.attributes["dask_limits.ending"] == "wall_time"
        assert span.status.status_code is trace.StatusCode.ERROR
    assert spans.one("run").end_time - spans.one("run").start_time >= 0.5e9


def test_a_rerun_after_the_loss_of_a_worker_is_an_event(
    client: Client, spans: Spans, tmp_path: Path
) -> None:
    scheduler = Scheduler(client)
    futures = []

    @scheduler.on_start
    def submit() -> None:
        futures.append(scheduler.submit(limit(count_run, wall_time=600), tmp_path / "runs", 600))
        scheduler.call_later(0, kill)

    def kill() -> None:
        until((tmp_path / "runs").exists)
        (worker,) = client.run(os.getpid).values()
        os.kill(worker, signal.SIGKILL)

    scheduler.run()
    assert futures[0].attempts == 2
    call = spans.one()
    [event] = call.events
    assert event.name == "dask_limits.rerun"
    assert event.attributes["error.type"] == "dask_limits.exceptions.WorkerLostError"
    assert call.attributes["dask_limits.attempts"] == 2
    assert spans.one("run").attributes["dask_limits.ending"] == "returned"


def test_a_call_that_is_cancelled_on_a_worker_has_ended_spans(
    client: Client, spans: Spans, tmp_path: Path
) -> None:
    with LimitedExecutor(client, wall_time=600) as executor:
        futures = [executor.submit(start_sleeping, tmp_path / "pid", 600) for _ in range(2)]
        written_pid(tmp_path / "pid")
        until(futures[0].running)
        for future in futures:
            assert future.cancel()
        until(lambda: len(spans.all()) == 2)
    assert [s.attributes["dask_limits.ending"] for s in spans.all()] == ["cancelled"] * 2
    assert parent_of(spans.one("run")) == ids(spans.all()[0])
