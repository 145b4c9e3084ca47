"""Timers, other threads and other event loops."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from processes import until
from scheduled import fail, on_start

from dask_limits import ExitState, Scheduler
from dask_limits.exceptions import SchedulerNotRunningError

Code = ExitState.Code


def test_a_timer_is_waited_for_and_may_submit_more(scheduler):
    scheduler.on_start(lambda: scheduler.call_later(0.05, scheduler.submit, abs, -7) and None)
    results = []
    scheduler.on_future_result(lambda _, result: results.append(result))
    assert scheduler.run().code == Code.EXHAUSTED
    assert results == [7]
    assert scheduler.event_counts["on_empty"] == 1


def test_timers_are_called_in_the_order_of_their_time(threads, monkeypatch):
    calls = []
    now = time.monotonic()

    @threads.on_start
    def begin():
        with monkeypatch.context() as patch:  # all in one moment
            patch.setattr(time, "monotonic", lambda: now)
            threads.call_later("60 ms", calls.append, 3)
            threads.call_later(0.01, calls.append, 1)
            threads.call_later((20, "ms"), calls.append, 2)
            threads.call_later(0, calls.append, 0)

    threads.run()
    assert calls == [0, 1, 2, 3]


def test_a_cancelled_timer_is_not_called_and_not_waited_for(threads):
    @threads.on_start
    def begin():
        timer = threads.call_later(3600, print, "never")
        threads.call_later(0.01, lambda: timer.cancel() and None)

    assert threads.run().code == Code.EXHAUSTED


def test_a_timer_that_is_pending_at_the_end_is_dropped(threads):
    threads.on_start(lambda: threads.call_later(3600, print, "never") and None)
    assert threads.run(timeout=0.05).code == Code.TIMEOUT


def test_an_error_in_a_timer_is_one_of_a_callback(threads):
    threads.on_start(lambda: threads.call_later(0, fail) and None)
    with pytest.raises(ValueError, match="failed"):
        threads.run()


def test_submitting_from_another_thread_still_calls_back_in_the_runs_thread(threads):
    idents, results = [], []
    threads.on_future_submitted(lambda _: idents.append(threading.get_ident()))

    def work():
        results.extend(threads.submit(abs, -n).result(timeout=30) for n in range(5))
        threads.stop()

    worker = threading.Thread(target=work)
    threads.on_start(worker.start)
    threads.run(end_on_empty=False)
    worker.join()
    assert results == [0, 1, 2, 3, 4]
    assert set(idents) == {threading.get_ident()}


def test_a_thread_that_submits_to_a_run_that_ends_is_told_so(threads):
    refused = threading.Event()

    def work():
        try:
            while True:
                threads.submit(abs, 1)
        except SchedulerNotRunningError:
            refused.set()

    worker = threading.Thread(target=work)
    threads.on_start(worker.start)
    threads.run(end_on_empty=False, timeout=0.1)
    assert refused.wait(30)
    worker.join()


def test_run_works_where_an_event_loop_runs_already(scheduler):
    on_start(scheduler, abs, -1)

    async def cell():
        return scheduler.run()

    assert asyncio.run(cell()).code == Code.EXHAUSTED
    assert scheduler.event_counts["on_future_result"] == 1


def test_async_run_lets_other_coroutines_run_meanwhile(threads):
    ticks = []
    on_start(threads, until, lambda: len(ticks) >= 3, times=3)

    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0.005)

    async def main():
        other = asyncio.create_task(tick())
        state = await threads.async_run()
        other.cancel()
        return state

    assert asyncio.run(main()).code == Code.EXHAUSTED
    assert threads.event_counts["on_future_result"] == 3


def test_a_coroutine_can_submit_await_and_stop(threads):
    async def main():
        running = asyncio.create_task(threads.async_run(end_on_empty=False, timeout=30))
        while not threads.running():
            await asyncio.sleep(0)
        threads.call_later(0.01, print, end="")
        result = await threads.submit(pow, 2, 10)
        threads.stop()
        return result, await running

    result, state = asyncio.run(main())
    assert result == 1024
    assert state.code == Code.STOPPED


def test_cancelling_the_coroutine_ends_what_runs():
    scheduler = Scheduler.with_processes(1)
    on_start(scheduler, time.sleep, 60)

    async def main():
        running = asyncio.create_task(scheduler.async_run())
        while not scheduler.queue:
            await asyncio.sleep(0.01)
        running.cancel()
        await running

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert scheduler.event_counts["on_future_cancelled"] == 1
    assert scheduler.event_counts["on_finished"] == 1
