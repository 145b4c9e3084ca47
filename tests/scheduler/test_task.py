from __future__ import annotations

import gc
import re
import time
import tracemalloc
import weakref

import numpy as np
import pytest
from processes import until, wait_for

from dask_limits import Event, Limiter, Plugin, PynisherPlugin, Retry, Scheduler, Task
from dask_limits.exceptions import EventNotKnownError
from dask_limits.scheduler.run_loop import RunLoop


def fail():
    raise ValueError("failed")


@pytest.fixture
def scheduler():
    return Scheduler.with_threads(2)


def test_its_events_are_named_as_documented():
    names = [Task.SUBMITTED, Task.DONE, Task.RESULT, Task.EXCEPTION, Task.CANCELLED]
    assert names == ["on-submitted", "on-done", "on-result", "on-exception", "on-cancelled"]


def test_submitted_callbacks_get_the_future_and_the_arguments(scheduler):
    task, got = scheduler.task(pow), []
    task.on_submitted(lambda future, *args, **kwargs: got.append((future, args, kwargs)))
    futures = []
    scheduler.on_start(lambda: futures.append(task.submit(2, exp=3)))
    scheduler.run()
    assert got == [(futures[0], (2,), {"exp": 3})]
    assert futures[0].result() == 8


def test_each_end_has_its_events(scheduler, tmp_path):
    ends = []
    for name, task in {"good": scheduler.task(abs), "bad": scheduler.task(fail)}.items():
        for event in ("on-done", "on-result", "on-exception", "on-cancelled"):
            task.on(event)(lambda *_, what=(name, event): ends.append(what))
        scheduler.on_start(task.submit if name == "bad" else lambda t=task: t.submit(1) and None)
    scheduler.run(on_exception="continue")
    assert sorted(ends) == [
        ("bad", "on-done"),
        ("bad", "on-exception"),
        ("good", "on-done"),
        ("good", "on-result"),
    ]


def test_it_answers_as_its_emitter_does(scheduler):
    saved, seen = Event("saved"), []
    task = scheduler.task(abs)
    task.add_event(saved)
    task.on(saved)(seen.append)
    task.emit("saved", 3)
    scheduler.on_start(lambda: [task.submit(-1), task.submit(-2)])
    scheduler.run()
    assert seen == [3]
    assert task.event_counts == {saved: 1, Task.SUBMITTED: 2, "on-done": 2, "on-result": 2}
    assert task.RESULT is Task.RESULT


def test_it_knows_its_futures_until_they_are_done(scheduler, tmp_path):
    gate = tmp_path / "gate"
    task = scheduler.task(wait_for)

    @scheduler.on_start
    def begin():
        assert not task.running()
        futures = [task.submit(str(gate)) for _ in range(3)]
        assert task.futures() == futures
        assert task.n_running == 3
        assert task.running()
        gate.touch()

    task.on_done(lambda future: future not in task.futures() or fail())
    scheduler.run()
    assert task.futures() == []
    assert (task.n_running, task.n_submitted) == (0, 3)


def test_a_decorator_makes_a_task_with_or_without_plugins(scheduler):
    @scheduler.task
    def plain(x):
        return x

    @scheduler.task(plugins=[Limiter(max_calls=1)])
    def limited(x):
        return -x

    results = []
    for task in (plain, limited):
        task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: [t.submit(n) for n in (1, 2) for t in (plain, limited)] and None)
    scheduler.run()
    assert sorted(results) == [-1, 1, 2]


def test_a_decorated_function_can_be_sent_to_another_process():
    scheduler = Scheduler.with_processes(1)

    @scheduler.task
    def double(x):
        return 2 * x

    results = []
    double.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: double.submit(21) and None)
    scheduler.run()
    assert results == [42]


def test_a_misspelt_event_names_the_nearest(scheduler):
    with pytest.raises(EventNotKnownError, match="Did you mean 'on-result'"):
        scheduler.task(abs).on("on-reslt")


def test_what_cannot_be_called_cannot_be_a_task(scheduler):
    with pytest.raises(TypeError, match="A task needs a function, but"):
        scheduler.task(3)
    with pytest.raises(TypeError, match=r"command\(\['sleep', '1'\]\)"):
        scheduler.task(["sleep", "1"])
    with pytest.raises(TypeError, match="3 must be a plugin"):
        scheduler.task(abs, plugins=3)


def test_a_plugin_belongs_to_one_task_and_its_copy_to_another(scheduler):
    plugin = Limiter(max_calls=1)
    scheduler.task(abs, plugins=plugin)
    with pytest.raises(ValueError, match=r"plugin.copy\(\)"):
        scheduler.task(abs, plugins=plugin)
    scheduler.task(abs, plugins=plugin.copy())


def test_a_plugin_can_change_refuse_and_follow_calls(scheduler):
    seen = []

    class Positive(Plugin):
        def pre_submit(self, fn, x):
            return None if x == 0 else (fn, (abs(x),), {})

        def post_done(self, future):
            seen.append(future.result())

    task = scheduler.task(lambda x: x, plugins=Positive())
    task.on_result(lambda _, result: seen.append([result]))
    submitted = []
    scheduler.on_start(lambda: submitted.extend(task.submit(x) for x in (0, -5)))
    scheduler.run()
    assert submitted[0] is None
    assert seen == [[5], 5]


def test_plugins_see_a_call_in_the_order_in_which_they_were_attached(scheduler):
    class Times(Plugin):
        def __init__(self, factor):
            self.factor = factor

        def pre_submit(self, fn, x):
            return fn, (10 * x + self.factor,), {}

    task = scheduler.task(lambda x: x, plugins=[Times(1), Times(2)])
    task.attach_plugin(Times(3))
    results = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(0) and None)
    scheduler.run()
    assert results == [123]


def test_references_tell_tasks_apart_and_unused_tasks_are_let_go(scheduler):
    one, other = scheduler.task(abs), scheduler.task(abs)
    assert one.unique_ref != other.unique_ref
    assert all(re.fullmatch(r"Task-abs-\w{8}", scheduler.task(abs).unique_ref) for _ in range(99))
    del other
    assert len(scheduler.tasks) == 1


def test_a_task_that_nobody_holds_still_gets_its_events(scheduler):
    results = []

    @scheduler.on_start
    def begin():
        task = scheduler.task(abs)
        task.on_result(lambda _, result: results.append(result))
        task.submit(-3)

    scheduler.run()
    assert results == [3]


def test_a_call_costs_the_same_however_many_wait():
    def cost(n_waiting):
        scheduler = Scheduler.with_threads(1)
        task = scheduler.task(abs, plugins=Limiter(max_concurrent=1, when_full="wait"))
        times = []

        @scheduler.on_start
        def begin():
            for _ in range(n_waiting):
                task.submit(-1)

        @task.on_result(max_calls=300)
        def again(*_):
            began = time.thread_time()
            task.submit(-1)
            times.append(time.thread_time() - began)
            if len(times) == 300:
                scheduler.stop()

        scheduler.run()
        return sorted(times)[len(times) // 2]

    assert cost(20_000) < 5 * cost(20) + 50e-6


def test_a_loop_that_has_ended_answers_who_still_asks():
    loop = RunLoop()
    loop.put(None)
    loop.close()
    assert loop.ask(lambda: 3) == 3  # in its own thread there is nothing to wait for


@pytest.mark.parametrize(
    "plugin",
    [None, Retry(max_retries=1), Limiter(max_concurrent=1, when_full="wait")],
    ids=["at once", "may be retried", "held"],
)
@pytest.mark.parametrize("keeps", [False, True], ids=["alone", "journal"])
def test_a_result_goes_when_nobody_has_it(tmp_path, plugin, keeps):
    scheduler, results = Scheduler.with_processes(1), []
    limits = PynisherPlugin(walltime_limit=60, memory_limit="1 GiB")
    task = scheduler.task(np.zeros, plugins=[limits, plugin.copy()] if plugin else limits)
    task.on_result(lambda _, result: results.append(weakref.ref(result)))

    @scheduler.on_start
    def start():
        task.submit(10)
        task.submit(20)

    gc.disable()
    try:
        scheduler.run(**({"journal": tmp_path / "run.sqlite"} if keeps else {}))
        assert len(results) == 2
        until(lambda: all(result() is None for result in results))
    finally:
        gc.enable()


def test_a_limited_call_that_waits_takes_less_than_2_kib_of_the_driver():
    scheduler, taken = Scheduler.with_processes(1), []
    task = scheduler.task(abs, plugins=PynisherPlugin(walltime_limit=60, memory_limit="1 GiB"))

    def submit(calls):
        for number in range(calls):
            task.submit(number)

    @scheduler.on_start
    def measure():
        submit(100)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        submit(20_000)  # so many that what else this process takes meanwhile does not count
        taken.append(tracemalloc.get_traced_memory()[0] - before)
        tracemalloc.stop()
        scheduler.stop()

    scheduler.run(wait=False)
    assert taken[0] / 20_000 < 2048
