from __future__ import annotations

import time

import pytest
from processes import wait_for
from scheduled import plugin_events

from dask_limits import (
    ExitState,
    Limiter,
    Scheduler,
)


def test_no_more_than_max_calls_are_submitted_in_all(scheduler):
    task = scheduler.task(abs, plugins=Limiter(max_calls=2))
    seen, submitted = plugin_events(task), []
    scheduler.on_start(lambda: submitted.extend(task.submit(n) for n in range(4)))
    scheduler.run()
    assert [future is None for future in submitted] == [False, False, True, True]
    assert seen == [("call-limit-reached", task, 2), ("call-limit-reached", task, 3)]
    assert scheduler.event_counts["on_future_submitted"] == 2


def test_max_calls_holds_also_for_a_submit_in_the_callback_of_a_submit(scheduler):
    task = scheduler.task(abs)
    task.on_submitted(lambda *_: task.submit(1) and None)
    task.attach_plugin(Limiter(max_calls=3))
    scheduler.on_start(lambda: task.submit(1) and None)
    scheduler.run()
    assert task.n_submitted == 3


def test_no_more_than_max_concurrent_run_and_more_are_dropped(scheduler, tmp_path):
    task = scheduler.task(wait_for, plugins=Limiter(max_concurrent=2))
    seen = plugin_events(task)

    @scheduler.on_start
    def begin():
        for n in range(4):
            task.submit(str(tmp_path / "gate"), n)
        (tmp_path / "gate").touch()

    again = task.on_result(lambda *_: task.submit(str(tmp_path / "gate")) and None, max_calls=1)
    assert callable(again)
    scheduler.run()
    assert [name for name, *_ in seen] == ["concurrent-limit-reached"] * 2
    assert task.n_submitted == 3


def test_a_task_is_refused_while_another_one_runs(scheduler, tmp_path):
    other = scheduler.task(wait_for)
    task = scheduler.task(abs, plugins=Limiter(not_while_running=other))
    seen, results = plugin_events(task), []
    task.on_result(lambda _, result: results.append(result))

    @scheduler.on_start
    def begin():
        other.submit(str(tmp_path / "gate"))
        assert task.submit(-1) is None
        (tmp_path / "gate").touch()

    other.on_done(lambda _: task.submit(-2) and None)
    scheduler.run()
    assert seen == [("disabled-due-to-running-task", task, -1)]
    assert results == [2]


def test_held_calls_start_first_come_first_served_and_never_too_many_at_once(scheduler):
    task = scheduler.task(lambda n: n, plugins=Limiter(max_concurrent=1, when_full="wait"))
    order, most = [], []
    task.on_result(lambda _, result: order.append(result))
    task.on_result(lambda *_: most.append(task.n_running))
    task.on_result(lambda *_: task.submit(20) and None, max_calls=1)

    @scheduler.on_start
    def begin():
        futures = [task.submit(n) for n in range(20)]
        assert None not in futures
        assert (task.n_running, task.n_held) == (1, 19)
        assert task.futures() == futures
        assert not futures[5].running()

    scheduler.run()
    assert order == list(range(21))
    assert max(most) <= 1
    assert scheduler.event_counts["on_empty"] == 1
    assert not plugin_events(task)


def test_held_calls_keep_the_run_from_being_empty(scheduler, tmp_path):
    other = scheduler.task(wait_for)
    task = scheduler.task(abs, plugins=Limiter(not_while_running=[other], when_full="wait"))
    held = []

    @scheduler.on_start
    def begin():
        other.submit(str(tmp_path / "gate"))
        held.append(task.submit(-1))
        assert task.n_held == 1
        assert not task.running()
        assert held[0] in scheduler.queue
        (tmp_path / "gate").touch()

    scheduler.run()
    assert held[0].result() == 1
    assert held[0].usage is not None
    assert scheduler.event_counts["on_empty"] == 1


def test_a_held_call_starts_when_the_other_task_was_cancelled():
    scheduler = Scheduler.with_processes(2)
    other = scheduler.task(time.sleep)
    task = scheduler.task(abs, plugins=Limiter(not_while_running=other, when_full="wait"))
    held = []

    @scheduler.on_start
    def begin():
        running = other.submit(60)
        held.append(task.submit(-1))
        running.cancel()

    scheduler.run(on_cancelled="continue")
    assert held[0].result() == 1


def test_a_held_call_can_be_cancelled_and_those_behind_it_move_up(scheduler):
    task = scheduler.task(abs, plugins=Limiter(max_concurrent=1, when_full="wait"))
    futures = []

    @scheduler.on_start
    def begin():
        futures.extend(task.submit(n) for n in range(4))
        assert futures[2].cancel()

    cancelled = []
    task.on_cancelled(cancelled.append)
    scheduler.run(on_cancelled="continue")
    assert cancelled == [futures[2]]
    assert [f.result() for n, f in enumerate(futures) if n != 2] == [0, 1, 3]
    assert task.n_running == task.n_held == 0


def test_a_cancelled_call_that_was_held_ends_although_it_runs_now():
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(time.sleep, plugins=Limiter(max_concurrent=1, when_full="wait"))
    futures = []

    @scheduler.on_start
    def begin():
        futures.extend(task.submit(seconds) for seconds in (0, 600))

    task.on_result(lambda *_: scheduler.call_later(0.05, lambda: futures[1].cancel() and None))
    scheduler.run(on_cancelled="continue")
    assert futures[1].cancelled()


@pytest.mark.parametrize("wait", [True, False])
def test_calls_that_are_held_when_the_run_ends_are_cancelled(scheduler, tmp_path, wait):
    task = scheduler.task(wait_for, plugins=Limiter(max_concurrent=1, when_full="wait"))
    futures = []

    @scheduler.on_start
    def begin():
        futures.extend(task.submit(str(tmp_path / "gate")) for _ in range(3))
        scheduler.stop()

    scheduler.on_finishing((tmp_path / "gate").touch)
    assert scheduler.run(wait=wait).code == ExitState.STOPPED
    assert [f.cancelled() for f in futures] == [not wait, True, True]
    assert scheduler.event_counts["on_future_cancelled"] == sum(f.cancelled() for f in futures)


def test_a_limiter_counts_from_when_it_was_attached_and_its_copy_anew(scheduler):
    limiter = Limiter(max_calls=1)
    task, other = scheduler.task(abs, plugins=limiter), scheduler.task(abs)
    scheduler.on_start(lambda: [t.submit(1) for t in (task, other, other)] and None, max_calls=1)
    scheduler.run()
    other.attach_plugin(limiter.copy())
    got = []
    scheduler.on_start(lambda: got.extend(t.submit(1) for t in (task, other, other)))
    scheduler.run()
    assert [future is not None for future in got] == [False, True, False]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_calls": 0}, ValueError),
        ({"max_concurrent": 0}, ValueError),
        ({"max_calls": 1.5}, TypeError),
        ({"max_concurrent": True}, TypeError),
        ({"when_full": "hold"}, ValueError),
    ],
)
def test_a_limiter_refuses_what_makes_no_sense(options, error):
    with pytest.raises(error, match=next(iter(options))):
        Limiter(**options)
    with pytest.raises(TypeError, match="not_while_running"):
        Limiter(not_while_running=[abs])


def test_a_held_call_that_was_cancelled_never_starts():
    scheduler = Scheduler.with_sequential()
    ran = []
    task = scheduler.task(ran.append, plugins=Limiter(max_concurrent=1, when_full="wait"))
    blocker = []

    @task.on_result
    def cancel_the_next(future, _):
        if future is blocker[0]:
            assert blocker[2].cancel()

    scheduler.on_start(lambda: blocker.extend(task.submit(n) for n in range(4)))
    scheduler.run(on_cancelled="continue")
    assert ran == [0, 1, 3]
