"""The spans of calls that executors run: one for each, however it ends."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from processes import until
from traces import Spans, ids, parent, parent_of, spans_of_the_driver  # noqa: F401

from dask_limits import LimitedExecutor, Retry, Scheduler, SequentialExecutor, limit

trace = pytest.importorskip("opentelemetry.trace")


@pytest.mark.parametrize("limits", [{"wall_time": 60}, {}], ids=["limited", "unlimited"])
@pytest.mark.parametrize("where", ["processes", "threads", "pool", "sequential"])
def test_a_call_is_part_of_the_trace_of_its_submit(where: str, limits: dict, spans: Spans) -> None:
    pools = {
        "processes": lambda: 1,
        "threads": lambda: ThreadPoolExecutor(1),
        "pool": lambda: ProcessPoolExecutor(1, get_context("forkserver")),
        "sequential": SequentialExecutor,
    }
    with (
        LimitedExecutor(pools[where](), **limits) as executor,
        trace.get_tracer("user").start_as_current_span("outer") as outer,
    ):
        parents = [executor.submit(parent).result(), *executor.map(parent_again, range(2))]
    until(lambda: len(spans.all("run")) == len(spans.all()) == 3)
    assert parents == [ids(span) for span in spans.all()]
    assert {parent_of(span) for span in spans.all()} == {ids(outer)}


def parent_again(_: int) -> tuple[str, str]:
    return parent()


def test_what_is_mapped_belongs_to_the_span_around_map(spans: Spans) -> None:
    with LimitedExecutor(1, wall_time=60) as executor:
        with trace.get_tracer("user").start_as_current_span("outer") as outer:
            results = executor.map(abs, range(500))
        assert sum(results) == sum(range(500))
    until(lambda: len(spans.all()) == 500)
    assert {parent_of(span) for span in spans.all()} == {ids(outer)}


def test_a_cancel_ends_the_spans_of_a_call_that_runs(spans: Spans, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with LimitedExecutor(ThreadPoolExecutor(1), wall_time=600) as executor:
        future = executor.submit(say_so_and_wait, begun)
        waits = executor.submit(abs, 1)
        until(begun.exists)
        assert waits.cancel()
        assert future.cancel()
        until(lambda: len(spans.all()) == 2)
    ran, waited = spans.all()
    assert [span.attributes["dask_limits.ending"] for span in (ran, waited)] == ["cancelled"] * 2
    assert parent_of(spans.one("run")) == ids(ran)
    assert ran.status.status_code is trace.StatusCode.UNSET


def say_so_and_wait(file: Path) -> None:
    file.touch()
    time.sleep(600)


def test_a_call_that_cannot_be_submitted_has_a_span_that_says_why(spans: Spans) -> None:
    pool = ThreadPoolExecutor(1)
    with LimitedExecutor(pool) as executor:
        pool.shutdown()
        with pytest.raises(RuntimeError):
            executor.submit(abs, 1)
    assert spans.one().attributes["error.type"] == "RuntimeError"


def test_calls_within_a_call_are_part_of_its_trace(spans: Spans) -> None:
    with LimitedExecutor(1, wall_time=60) as executor:
        assert executor.submit(parent_in_a_call).result() == ids(spans_when(spans, 1)[0])


def parent_in_a_call() -> tuple[str, str]:
    return limit(parent, wall_time=60)()


def test_calls_within_a_call_of_this_process_have_spans_below_it(spans: Spans) -> None:
    with LimitedExecutor(SequentialExecutor()) as executor:
        assert executor.submit(lambda: executor.submit(abs, -2).result()).result() == 2
    outer, inner = spans.all()
    assert parent_of(inner) == ids(outer)


def test_a_call_that_one_executor_passes_on_to_another_has_one_span(spans: Spans) -> None:
    with LimitedExecutor(1, wall_time=60) as inner:
        with LimitedExecutor(inner) as outer:
            assert outer.submit(parent).result() == ids(spans_when(spans, 1)[0])
        scheduler = Scheduler(inner)
        task = scheduler.task(abs, plugins=Retry(max_retries=1))
        scheduler.on_start(lambda: task.submit(-1) and None)
        scheduler.run()
    assert len(spans.all("run")) == len(spans.all()) == 2


def spans_when(spans: Spans, number: int) -> list[Any]:
    until(lambda: len(spans.all()) >= number)
    return spans.all()
