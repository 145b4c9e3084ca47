"""Schedulers that run at the same time, in several threads, and submit to each other."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
import time

import pytest
from clusters import SETTINGS

from dask_limits import ExitState, Scheduler
from dask_limits.exceptions import SchedulerNotRunningError

Code = ExitState.Code


@pytest.fixture(params=["sequential", "threads", "processes", "dask"])
def make(request):
    """Makes schedulers of one kind, all those of Dask on one client."""
    if request.param != "dask":
        made = getattr(Scheduler, f"with_{request.param}")
        yield made if request.param == "sequential" else lambda: made(1)
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, **SETTINGS) as cluster,
        Client(cluster) as client,
    ):
        yield lambda: Scheduler(client)


class InThreads:
    """Runs schedulers, each in a thread of its own, that a failed test does not wait for."""

    def __init__(self, *schedulers, **options):
        self.states = [concurrent.futures.Future() for _ in schedulers]
        for scheduler, state in zip(schedulers, self.states, strict=True):
            threading.Thread(
                target=self._run, args=(scheduler, state), kwargs=options, daemon=True
            ).start()

    def _run(self, scheduler, state, **options):
        try:
            state.set_result(scheduler.run(**options))
        except BaseException as error:
            state.set_exception(error)

    def codes(self):
        return [state.result(timeout=30).code for state in self.states]


@pytest.mark.parametrize("n", [2, 3])
def test_schedulers_whose_callbacks_submit_to_each_other_do_not_block_each_other(make, n):
    schedulers = [make() for _ in range(n)]
    meet, submitted = threading.Barrier(n), []
    for one, following in zip(schedulers, [*schedulers[1:], schedulers[0]], strict=True):

        @one.on_start
        def begin(following=following):
            meet.wait(30)
            submitted.append(following.submit(abs, -1))
            if len(submitted) == n:  # all of them run until now
                for each in schedulers:
                    each.stop()

    assert InThreads(*schedulers, end_on_empty=False).codes() == [Code.STOPPED] * n
    assert [one.event_counts["on_future_result"] for one in schedulers] == [1] * n


def test_schedulers_that_submit_to_each_other_all_the_time_hold_their_timeouts(make):
    schedulers = [make(), make()]
    for one, other in (schedulers, reversed(schedulers)):
        one.on_start(lambda one=one: one.submit(abs, -1) and None)

        @one.on_future_result
        def again(*_, other=other):
            try:
                other.submit(abs, -1)
            except SchedulerNotRunningError:
                pass  # it has ended, or has not begun

        one.on_empty(lambda one=one: one.submit(abs, -1) and None)

    running = InThreads(*schedulers, timeout=0.5)
    assert running.codes() == [Code.TIMEOUT] * 2


def test_schedulers_of_one_event_loop_and_another_thread_do_not_block_each_other(threads):
    """The callback of the one waits for the thread, whose callback waits for the other."""
    one, other = Scheduler.with_threads(1), Scheduler.with_threads(1)
    ready = threading.Event()

    @one.on_start
    def submit_to_the_thread():
        assert ready.wait(30)
        threads.submit(abs, -1)

    @threads.on_start
    def submit_to_the_event_loop():
        while not other.running():
            time.sleep(0.001)
        ready.set()
        other.submit(abs, -1)

    async def main():
        second = asyncio.create_task(other.async_run(end_on_empty=False))
        while not other.running():
            await asyncio.sleep(0)
        running = InThreads(threads)
        state = await one.async_run()
        other.stop()
        return [state.code, (await second).code, *running.codes()]

    assert asyncio.run(main()) == [Code.EXHAUSTED, Code.STOPPED, Code.EXHAUSTED]
    assert other.event_counts["on_future_submitted"] == 1


def test_another_thread_can_submit_while_a_callback_runs_another_scheduler(threads):
    inner = Scheduler.with_threads(1)
    submitted = threading.Event()

    def submit_to_both():
        threads.submit(abs, -1)
        inner.submit(abs, -1)
        inner.stop()
        submitted.set()

    @inner.on_start
    def begin():
        threading.Thread(target=submit_to_both, daemon=True).start()

    threads.on_start(lambda: inner.run(end_on_empty=False, timeout=60))
    assert InThreads(threads).codes() == [Code.EXHAUSTED]
    assert submitted.is_set()
    assert threads.event_counts["on_future_result"] == 1


def test_a_callback_that_waits_for_another_run_ends_at_the_timeout_of_its_own(threads):
    busy, release = Scheduler.with_threads(1), threading.Event()
    inside = threading.Event()

    @busy.on_start
    def work():
        inside.set()
        release.wait(60)

    running = InThreads(busy)
    assert inside.wait(30)
    threads.on_start(lambda: busy.submit(abs, -1) and None)
    try:
        assert threads.run(timeout=0.2, end_on_empty=False).code == Code.TIMEOUT
    finally:
        release.set()
    assert running.codes() == [Code.EXHAUSTED]
    assert busy.event_counts["on_future_submitted"] == 0


def test_a_callback_that_waits_for_another_run_is_told_when_that_run_ends(threads):
    other, told = Scheduler.with_threads(1), []
    inside, waits = threading.Event(), threading.Event()

    @other.on_start
    def work():
        inside.set()
        assert waits.wait(30)
        time.sleep(0.05)
        other.stop()

    @threads.on_start
    def submit():
        waits.set()
        try:
            other.submit(abs, -1)
        except SchedulerNotRunningError as error:
            told.append(error)

    running = InThreads(other)
    assert inside.wait(30)
    assert threads.run().code == Code.EXHAUSTED
    assert running.codes() == [Code.STOPPED]
    assert len(told) == 1


def test_ctrl_c_while_another_thread_submits_ends_the_run_and_not_that_thread(threads):
    told = concurrent.futures.Future()

    def submit():
        try:
            told.set_result(threads.submit(abs, -1))
        except BaseException as error:
            told.set_exception(error)

    threads.on_start(lambda: threading.Thread(target=submit, daemon=True).start())
    threads.on_future_submitted(lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        threads.run(end_on_empty=False)
    assert isinstance(told.exception(timeout=30), SchedulerNotRunningError)
