"""The spans of OpenTelemetry that a call makes, and the context that it gets."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
from overdoing import wait_on
from traces import Spans, ids, inner, parent, parent_of, spans_of_the_driver, trace_into, written  # noqa: F401

from dask_limits import LimitedExecutor, exceptions, limit
from dask_limits.limits import call_span

trace = pytest.importorskip("opentelemetry.trace")
sampling = pytest.importorskip("opentelemetry.sdk.trace.sampling")


def fail(text: str) -> None:
    raise ValueError(text)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def fail_silently() -> None:
    raise UnprintableError


def test_a_call_is_a_span_below_the_current_one_with_its_run_as_a_child(spans: Spans) -> None:
    with trace.get_tracer("user").start_as_current_span("outer") as outer:
        outcome = limit(abs, wall_time=60, memory="1 GiB").run(-1)
    call, run = spans.one(), spans.one("run")
    assert (call.name, run.name) == ("dask_limits.call abs", "dask_limits.run abs")
    assert (parent_of(call), parent_of(run)) == (ids(outer), ids(call))
    assert call.start_time <= run.start_time <= run.end_time <= call.end_time
    seconds = (run.end_time - run.start_time) / 1e9
    assert seconds == pytest.approx(outcome.usage.wall_time, abs=0.001)
    assert call.status.status_code is run.status.status_code is trace.StatusCode.UNSET
    assert dict(call.attributes) == {
        "code.function.name": "builtins.abs",
        "dask_limits.limit.wall_time_s": 60,
        "dask_limits.limit.memory_bytes": 2**30,
        "dask_limits.ending": "returned",
        "dask_limits.usage.wall_time_s": outcome.usage.wall_time,
        "dask_limits.usage.cpu_time_s": outcome.usage.cpu_time,
        "dask_limits.usage.peak_memory_bytes": outcome.usage.peak_memory,
        "dask_limits.usage.processes": outcome.usage.num_processes,
    }


@pytest.mark.parametrize("isolation", ["clean", "warm", "fresh", "thread"])
def test_the_function_is_part_of_the_trace_of_its_call(isolation: str, spans: Spans) -> None:
    parents = [limit(parent, wall_time=60, isolation=isolation)() for _ in range(2)]
    assert parents == [ids(span) for span in spans.all()]


def test_spans_that_a_function_makes_are_below_its_call(spans: Spans, tmp_path: Path) -> None:
    file = tmp_path / "spans"
    with LimitedExecutor(1, wall_time=60, initializer=trace_into, initargs=(file,)) as executor:
        assert list(executor.map(inner, range(20))) == [*range(20)]
    below = [(one["context"]["trace_id"][2:], one["parent_id"][2:]) for one in written(file)]
    assert below == [ids(span) for span in spans.all()]


@pytest.mark.parametrize("isolation", ["clean", "thread"])
def test_a_breach_is_an_error_of_both_and_an_exception_of_the_call(
    isolation: str, spans: Spans
) -> None:
    outcome = limit(wait_on, wall_time=0.2, isolation=isolation).run()
    for span in (spans.one(), spans.one("run")):
        assert span.attributes["dask_limits.ending"] == "wall_time"
        assert span.attributes["error.type"] == "dask_limits.exceptions.WallTimeBreach"
        assert span.status.status_code is trace.StatusCode.ERROR
        assert span.status.description.startswith("wait_on() went over its wall_time limit")
        assert "\n" not in span.status.description
    [event] = spans.one().events
    assert event.name == "exception"
    assert event.attributes["exception.message"] == str(outcome.exception)
    assert spans.one("run").events == ()


def test_what_a_function_raises_has_its_traceback_there(spans: Spans) -> None:
    limit(fail, wall_time=60).run("no luck")
    [event] = spans.one().events
    assert event.attributes["exception.type"] == "ValueError"
    assert "raise ValueError(text)" in event.attributes["exception.stacktrace"]
    assert spans.one().attributes["error.type"] == "ValueError"


def test_an_exception_that_cannot_be_printed_ends_its_span_too(spans: Spans) -> None:
    with pytest.raises(UnprintableError):
        limit(fail_silently, wall_time=60)()
    assert spans.one().attributes["error.type"].endswith(".UnprintableError")


def test_a_call_that_is_refused_has_a_span_and_no_run(spans: Spans) -> None:
    with pytest.raises(exceptions.LimitRefusedError):
        limit(abs, memory="9 PiB")(1)
    assert spans.one().attributes["dask_limits.ending"] == "refused"
    assert spans.all("run") == []


def test_a_call_that_is_awaited_and_cancelled_is_no_error(spans: Spans, tmp_path: Path) -> None:
    @limit(wall_time=600)
    async def wait(file: Path) -> None:
        file.touch()
        await asyncio.sleep(600)

    async def cancel() -> None:
        waiting = asyncio.create_task(wait(tmp_path / "begun"))
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(cancel())  # which waits for the thread that waits for the call
    assert spans.one().attributes["dask_limits.ending"] == "cancelled"
    assert spans.one().status.status_code is trace.StatusCode.UNSET


def test_a_trace_that_is_not_sampled_is_passed_on_and_nothing_else(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace.get_tracer_provider().sampler = sampling.ALWAYS_OFF
    monkeypatch.setattr(call_span, "_tracer", (None, None))
    assert limit(is_sampled, wall_time=60)() == (True, False)
    assert spans.all() == spans.all("run") == []


def is_sampled() -> tuple[bool, bool]:
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return context.is_valid, context.trace_flags.sampled


IMPORTED = """
import sys
import threading
import weakref
from dask_limits import LimitedExecutor, Scheduler, limit

def imported():
    import sys
    return [name for name in sys.modules if name.startswith("opentelemetry")]

found = limit(imported, wall_time=60)()
with LimitedExecutor(1, wall_time=60) as executor:
    found += executor.submit(imported).result()
scheduler = Scheduler.with_processes(1)
scheduler.on_start(lambda: scheduler.submit(limit(imported, wall_time=60)) and None)
scheduler.on_future_result(lambda _, result: found.extend(result))
scheduler.run()
print(found + imported())
"""


def test_without_a_provider_nothing_of_it_is_imported_anywhere() -> None:
    assert printed(IMPORTED) == "[]"


def test_where_only_the_api_is_imported_calls_get_no_context() -> None:
    begin = "import opentelemetry.trace\n"
    assert printed(begin + IMPORTED.replace("+ imported()", "")) == "[]"


def printed(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    return done.stdout.strip()


def test_a_call_runs_where_the_package_is_missing(spans: Spans) -> None:
    with LimitedExecutor(1, wall_time=60, initializer=hide_it) as executor:
        assert executor.submit(is_missing).result()


def hide_it() -> None:
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]


def is_missing() -> bool:
    return sys.modules["opentelemetry"] is None


class Faulty:
    """Raises in whatever the SDK asks it."""

    def __getattr__(self, name: str):
        def refuse(*_, **__):
            raise RuntimeError(f"no {name}")

        return refuse


class Raising(trace.TracerProvider):
    def get_tracer(self, *_, **__):
        raise RuntimeError("no tracer")


class AllRaising(trace.TracerProvider):
    def get_tracer(self, *_, **__):
        return Faulty()


@pytest.mark.parametrize("provider", [Raising(), AllRaising()], ids=["provider", "tracer"])
def test_a_call_does_not_fail_because_its_trace_does(monkeypatch, caplog, provider) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    assert limit(abs, wall_time=60)(-1) == 1
    with LimitedExecutor(1) as executor:
        assert executor.submit(abs, -2).result() == 2
    assert "Cannot trace a call: RuntimeError('no " in caplog.text


def test_a_processor_that_raises_takes_no_value(spans: Spans, monkeypatch) -> None:
    processor = trace.get_tracer_provider()._active_span_processor
    for name in ("on_start", "on_end"):
        with monkeypatch.context() as patch:
            patch.setattr(processor, name, getattr(Faulty(), name))
            assert limit(abs, wall_time=60)(-1) == 1
            with LimitedExecutor(1) as executor:
                assert executor.submit(abs, -2).result() == 2


@pytest.mark.parametrize("carried", [threading.Lock(), None], ids=["lock", "raises"])
def test_a_propagator_of_the_users_keeps_no_call_from_its_process(
    spans: Spans, monkeypatch, carried
) -> None:
    from opentelemetry import propagate

    def inject(carrier):
        if carried is None:
            raise RuntimeError("no")
        carrier["lock"] = carried

    monkeypatch.setattr(propagate, "inject", inject)
    with trace.get_tracer("user").start_as_current_span("outer"):
        assert limit(abs, wall_time=60)(-1) == 1


def test_a_future_that_is_done_has_no_span_any_more(spans: Spans) -> None:
    with LimitedExecutor(1) as executor:
        future = executor.submit(abs, -1)
        span = weakref.ref(future._span)
        assert future.result() == 1
    gc.collect()
    assert span() is None
