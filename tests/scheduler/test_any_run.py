"""What holds whatever is submitted, and however a run ends."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import wait_for
from scheduled import fail

from dask_limits import ExitState, PynisherPlugin, Scheduler
from dask_limits.exceptions import SchedulerNotRunningError

Code = ExitState.Code


CALLS = st.lists(
    st.sampled_from(["return", "raise", "sleep", "cancel", "stop", "callback error"]), max_size=6
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    calls=CALLS,
    wait=st.booleans(),
    on_exception=st.sampled_from(["raise", "end", "continue"]),
    on_cancelled=st.sampled_from(["raise", "end", "continue"]),
    timeout=st.none() | st.just(0.02),
)
def test_every_call_ends_in_exactly_one_way_however_the_run_ends(
    calls, wait, on_exception, on_cancelled, timeout
):
    scheduler = Scheduler.with_threads(2)
    ends: dict[object, list[str]] = {}

    @scheduler.on_start
    def begin():
        for kind in calls:
            if not scheduler.running():
                return
            if kind == "stop":
                scheduler.stop()
                continue
            fn, args = {
                "raise": (fail, ()),
                "sleep": (time.sleep, (0.03,)),
                "callback error": (lambda: "callback error", ()),
            }.get(kind, (abs, (-1,)))
            future = scheduler.submit(fn, *args)
            ends[future] = []
            if kind == "cancel":
                future.cancel()

    for name in ("done", "result", "exception", "cancelled"):
        scheduler.on(f"on_future_{name}")(lambda future, *_, name=name: ends[future].append(name))

    @scheduler.on_future_result
    def fail_at_some(_, result):
        if result == "callback error":
            raise KeyError(result)

    try:
        state = scheduler.run(
            wait=wait, on_exception=on_exception, on_cancelled=on_cancelled, timeout=timeout
        )
        assert state.code in Code
    except (ValueError, KeyError):
        assert on_exception == "raise"
    except CancelledError:
        assert on_cancelled == "raise"
    allowed = (["done", "result"], ["done", "exception"], ["cancelled"])
    assert all(end in allowed for end in ends.values())
    counts = scheduler.event_counts
    assert counts["on_start"] == counts["on_finishing"] == counts["on_finished"] == 1
    assert counts["on_future_submitted"] == len(ends)
    assert all(future.done() for future in ends)


def test_a_done_callback_may_submit_more(scheduler):
    results = []
    scheduler.on_future_result(lambda _, result: results.append(result))

    def submit_next(n):
        if n < 20:
            future = scheduler.submit(abs, n)
            future.add_done_callback(lambda _: submit_next(n + 1))

    scheduler.on_start(lambda: submit_next(0))
    assert scheduler.run().code == Code.EXHAUSTED
    assert sorted(results) == list(range(20))


def test_a_done_callback_that_submits_when_the_run_is_ending_is_told_so(tmp_path):
    scheduler = Scheduler.with_processes(1)
    told = []

    def submit_again(_):
        try:
            scheduler.submit(abs, 1)
        except SchedulerNotRunningError as error:
            told.append(error)

    @scheduler.on_start
    def begin():
        scheduler.submit(wait_for, tmp_path / "gate").add_done_callback(submit_again)
        scheduler.stop()
        (tmp_path / "gate").touch()

    assert scheduler.run().code == Code.STOPPED
    assert len(told) == 1


@pytest.mark.parametrize("make", [Scheduler.with_processes, Scheduler.with_threads])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_done_callback_that_exits_leaves_no_call_open(make, error, tmp_path):
    scheduler = make(1)

    def leave(_):
        raise error

    @scheduler.on_start
    def begin():
        for _ in range(2):
            scheduler.submit(wait_for, tmp_path / "gate").add_done_callback(leave)
        (tmp_path / "gate").touch()

    assert scheduler.run(timeout=60).code == Code.EXHAUSTED
    assert scheduler.event_counts["on_future_result"] == 2


def test_two_threads_may_cancel_a_call_whose_done_callback_submits():
    scheduler = Scheduler.with_processes(1)
    entered, submitted = threading.Event(), []

    def submit_more(_):
        entered.set()
        submitted.append(scheduler.submit(abs, -1))

    @scheduler.on_start
    def begin():
        future = scheduler.submit(time.sleep, 60)
        future.add_done_callback(submit_more)
        thread = threading.Thread(target=future.cancel)
        thread.start()
        entered.wait()
        assert future.cancel()  # and does not wait for the callback, which waits for us

    scheduler.run(on_cancelled="continue")
    assert [future.result() for future in submitted] == [1]


def test_an_error_of_a_submitted_callback_does_not_lose_the_future(scheduler):
    task = scheduler.task(abs)
    task.on_submitted(lambda *_: fail())
    scheduler.on_future_submitted(lambda _: fail())
    submitted = []

    @scheduler.on_start
    def begin():
        submitted.extend(task.submit(n) for n in range(3))

    scheduler.run(on_exception="continue")
    assert [future.result() for future in submitted] == [0, 1, 2]
    assert task.emitter.counts["on-submitted"] == 3
    with pytest.raises(ValueError, match="failed"):
        scheduler.run()


@pytest.mark.parametrize("name", ["event", "fn", "self", "args", "future", "call", "run"])
def test_parameters_may_have_any_name(scheduler, name):
    results = []
    task = scheduler.task(lambda **kwargs: kwargs, plugins=PynisherPlugin(walltime_limit=30))
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(**{name: 1}) and None)
    scheduler.on_start(lambda: scheduler.submit(dict, **{name: 2}) and None)
    scheduler.on_start(lambda: scheduler.call_later(0, results.append, name) and None)
    scheduler.run()
    assert {name: 1} in results
    assert name in results
