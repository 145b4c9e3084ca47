"""The spans of a scheduler's calls: retries, calls that are held, and submits of other threads."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import pytest
from processes import wait_for
from traces import Spans, ids, parent, parent_of, spans_of_the_driver  # noqa: F401

from dask_limits import Limiter, PynisherPlugin, Retry, Scheduler

trace = pytest.importorskip("opentelemetry.trace")


def fail_once(file: Path) -> tuple[str, str]:
    if not file.exists():
        file.touch()
        raise ValueError("the first time")
    return parent()


def test_a_retry_is_an_event_of_one_span_and_each_attempt_has_its_run(
    spans: Spans, tmp_path: Path
) -> None:
    scheduler = Scheduler.with_processes(1)
    retry = Retry(max_retries=1, on=ValueError)
    task = scheduler.task(fail_once, plugins=[PynisherPlugin(wall_time=60), retry])
    futures = []
    scheduler.on_start(lambda: futures.append(task.submit(tmp_path / "file")))
    scheduler.run()
    call = spans.one()
    assert futures[0].result() == ids(call)
    assert call.attributes["dask_limits.attempts"] == 2
    assert call.attributes["dask_limits.ending"] == "returned"
    [event] = call.events
    assert event.name == "dask_limits.rerun"
    assert dict(event.attributes) == {
        "dask_limits.attempts": 2,
        "error.type": "ValueError",
        "exception.message": "ValueError: the first time",
    }
    first, second = spans.all("run")
    assert first.attributes["dask_limits.ending"] == "raised"
    assert second.attributes["dask_limits.ending"] == "returned"
    assert first.end_time <= event.timestamp <= second.start_time
    assert parent_of(first) == parent_of(second) == ids(call)


def test_the_span_of_a_call_that_is_held_begins_with_its_submit(
    spans: Spans, tmp_path: Path
) -> None:
    scheduler = Scheduler.with_processes(2)
    task = scheduler.task(wait_for, plugins=Limiter(max_concurrent=1, when_full="wait"))
    file = tmp_path / "both are submitted"

    @scheduler.on_start
    def submit() -> None:
        task.submit(file)
        task.submit(file)
        file.touch()

    scheduler.run()
    first, second = spans.all()
    assert second.start_time < first.end_time
    assert spans.all("run")[1].start_time >= spans.all("run")[0].end_time
    assert parent_of(spans.all("run")[1]) == ids(second)


def test_calls_belong_to_the_span_that_is_current_where_they_are_submitted(spans: Spans) -> None:
    scheduler = Scheduler.with_processes(1)
    tracer, outer = trace.get_tracer("user"), []

    def of_thread() -> None:
        with tracer.start_as_current_span("of thread") as span:
            outer.append(span)
            scheduler.submit(abs, 1)

    thread = threading.Thread(target=of_thread)

    @scheduler.on_start
    def submit() -> None:
        scheduler.submit(abs, 2)
        with tracer.start_as_current_span("of callback") as span:
            outer.append(span)
            scheduler.map(abs, [3, 4])
        with tracer.start_as_current_span("of timer") as span:
            outer.append(span)
            scheduler.call_later(0.1, partial(scheduler.submit, abs, 5))
        thread.start()

    with tracer.start_as_current_span("of run") as span:
        outer.append(span)
        scheduler.run()
    thread.join()
    assert {parent_of(span) for span in spans.all()} == {ids(span) for span in outer}
    assert len(spans.all()) == 5


def test_calls_that_the_end_of_a_run_cancels_have_ended_spans(spans: Spans) -> None:
    scheduler = Scheduler.with_processes(1)
    scheduler.on_start(lambda: [scheduler.submit(time.sleep, 600) for _ in range(2)] and None)
    scheduler.run(timeout=0.1, wait=False)
    endings = [span.attributes["dask_limits.ending"] for span in spans.all()]
    assert endings == ["cancelled", "cancelled"]
