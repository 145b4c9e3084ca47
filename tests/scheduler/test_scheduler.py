from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from processes import wait_for
from scheduled import fail, on_start

from dask_limits import Event, ExitState, Scheduler, SequentialExecutor
from dask_limits.events import SubscriberTo
from dask_limits.exceptions import EventNotKnownError

Code = ExitState.Code


def test_a_result_comes_back_with_its_future_and_its_usage(scheduler):
    on_start(scheduler, pow, 2, 10)
    got = []
    scheduler.on_future_result(lambda future, result: got.append((future.usage, result)))
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    [(usage, result)] = got
    assert result == 1024
    assert usage.wall_time >= 0


def test_events_come_in_the_documented_order(threads, seen):
    on_start(threads, abs, -1)
    threads.run()
    assert seen == [
        "on_start",
        "on_future_submitted",
        "on_future_done",
        "on_future_result",
        "on_empty",
        "on_finishing",
        "on_finished",
    ]


def test_the_schedulers_events_come_before_the_tasks(threads, seen):
    task = threads.task(fail)
    for event in task.emitter.events:
        task.on(event)(lambda *_, name=event.name: seen.append(name))
    threads.on_start(lambda: task.submit("x"))
    threads.run(on_exception="continue")
    assert seen[1:7] == [
        "on_future_submitted",
        "on-submitted",
        "on_future_done",
        "on_future_exception",
        "on-done",
        "on-exception",
    ]


def test_callbacks_run_one_at_a_time_in_the_thread_of_the_run(threads):
    on_start(threads, time.sleep, 0.001, times=20)
    inside, idents = [], set()

    @threads.on_future_done
    def watch(_):
        inside.append(1)
        time.sleep(0.002)
        idents.add(threading.get_ident())
        assert len(inside) == 1
        inside.pop()

    threads.run()
    assert idents == {threading.get_ident()}


def test_what_is_submitted_on_empty_keeps_the_run_going(scheduler):
    items = [1, 2, 3]
    scheduler.on_empty(lambda: scheduler.submit(abs, items.pop()), when=lambda: bool(items))
    assert scheduler.run().code == Code.EXHAUSTED
    assert scheduler.event_counts["on_empty"] == 4
    assert scheduler.event_counts["on_future_result"] == 3


def test_it_can_run_again_and_counts_on(scheduler):
    on_start(scheduler, abs, -1)
    for n in (1, 2, 3):
        assert scheduler.run().code == Code.EXHAUSTED
        assert scheduler.event_counts[Scheduler.FINISHED] == n
    assert scheduler.event_counts["on_future_result"] == 3
    assert scheduler.empty()
    assert not scheduler.running()


def test_the_queue_tells_what_was_submitted_until_it_is_done(threads, tmp_path):
    gate = tmp_path / "gate"
    looks = []

    @threads.on_start
    def begin():
        future = threads.submit(wait_for, path=str(gate))
        looks.append(dict(threads.queue))
        assert looks[0] == {future: (wait_for, (), {"path": str(gate)})}
        assert not threads.empty()
        gate.touch()

    threads.on_future_done(lambda _: looks.append(dict(threads.queue)))
    threads.run()
    assert looks[1:] == [{}]
    assert dict(threads.queue) == {}


def test_the_executor_is_what_was_given_or_what_runs_use():
    with ThreadPoolExecutor(1) as pool:
        assert Scheduler(pool).executor is pool
    scheduler, used = Scheduler.with_threads(1), []
    assert scheduler.executor is None
    scheduler.on_start(lambda: used.append(scheduler.executor))
    for _ in range(2):
        scheduler.run()
        assert scheduler.executor is used[-1]
    assert used[0] is not used[1]
    assert isinstance(used[0], Executor)


def test_events_that_a_subclass_declares_are_events_of_its_schedulers():
    class Saving(Scheduler):
        SAVED = Event("on_saved")
        on_saved = SubscriberTo(SAVED)

    scheduler, seen = Saving.with_sequential(), []
    scheduler.on_saved(seen.append)
    scheduler.on_start(lambda: scheduler.emit(Saving.SAVED, 3))
    scheduler.run()
    assert seen == [3]
    assert scheduler.event_counts["on_saved"] == 1
    with pytest.raises(EventNotKnownError, match="on_saved"):
        Scheduler.with_sequential().on("on_saved")


def test_a_pool_that_is_passed_in_stays_open():
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            scheduler = Scheduler(pool)
            on_start(scheduler, abs, -1)
            assert scheduler.run().code == Code.EXHAUSTED
        assert pool.submit(abs, -1).result() == 1


def test_a_process_pool_of_the_standard_library_takes_lambdas():
    with ProcessPoolExecutor(1) as pool:
        scheduler = Scheduler(pool)
        on_start(scheduler, lambda: os.getpid())
        pids = []
        scheduler.on_future_result(lambda _, pid: pids.append(pid))
        scheduler.run()
    assert pids != [os.getpid()]


def test_anything_else_is_refused_with_a_list_of_what_is_accepted():
    for bad in (print, 1.5, "dsk", ThreadPoolExecutor):
        with pytest.raises((TypeError, ValueError), match=r"Use a number .*Dask Client or Cluster"):
            Scheduler(bad)


@pytest.mark.parametrize("make", ["with_processes", "with_threads", "with_loky"])
@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_number_of_workers_below_one_is_refused(make, n):
    error = ValueError if type(n) is int else TypeError
    with pytest.raises(error, match=f"max_workers={n}"):
        getattr(Scheduler, make)(n)


def test_with_dask_checks_its_arguments_before_it_starts_anything():
    with pytest.raises(ValueError, match="n_workers=0"):
        Scheduler.with_dask(n_workers=0)
    with pytest.raises(ValueError, match="one or the other"):
        Scheduler.with_dask("tcp://127.0.0.1:1", n_workers=2)
    with pytest.raises(TypeError, match="Use any concurrent"):
        Scheduler.with_dask(3)


def test_a_sequential_executor_can_be_passed_in_as_any_other():
    scheduler = Scheduler(SequentialExecutor())
    on_start(scheduler, abs, -1)
    assert scheduler.run().code == scheduler.run().code == Code.EXHAUSTED


def test_loky_runs_calls_and_leaves_nothing():
    scheduler = Scheduler.with_loky(1)
    on_start(scheduler, pow, 2, 10)
    results = []
    scheduler.on_future_result(lambda _, result: results.append(result))
    scheduler.run()
    assert results == [1024]
