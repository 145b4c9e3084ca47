from __future__ import annotations

import itertools
import operator

import pytest

from dask_limits import ExitState, Limiter, Plugin, Scheduler, limit
from dask_limits.exceptions import SchedulerNotRunningError
from dask_limits.executors import Future
from dask_limits.limits import Usage
from dask_limits.scheduler.feed import Feed

Code = ExitState.Code


def mapped(scheduler, function, items, **options):
    """Have a scheduler map a function; the list that results will be in."""
    results = []
    scheduler.on_start(lambda: scheduler.map(function, items, **options))
    scheduler.on_future_result(lambda _, result: results.append(result))
    return results


def test_each_item_is_the_argument_of_one_call(scheduler):
    results = mapped(scheduler, limit(operator.neg, wall_time=60), range(50))
    assert scheduler.run() == ExitState(Code.EXHAUSTED)
    assert sorted(results) == list(range(-49, 1))


def test_calls_of_a_task_have_its_events_and_its_plugins(threads):
    task = threads.task(abs, plugins=Limiter(max_concurrent=1, when_full="wait"))
    running, results = [], []
    task.on_submitted(lambda *_: running.append(task.n_running))
    task.on_result(lambda _, result: results.append(result))
    threads.on_start(lambda: threads.map(task, range(-9, 0)))
    threads.run()
    assert sorted(results) == list(range(1, 10))
    assert max(running) == 1
    assert task.n_submitted == 9


def test_items_are_taken_when_there_is_room_for_their_calls(threads):
    taken = itertools.count()
    in_flight = []
    results = mapped(threads, abs, (next(taken) for _ in range(200)), max_in_flight=3)
    threads.on_future_submitted(lambda _: in_flight.append(len(threads.queue)))
    threads.run()
    assert sorted(results) == list(range(200))
    assert max(in_flight) == 3


def test_an_endless_generator_is_never_in_memory(threads):
    counter = itertools.count()
    results = mapped(threads, abs, counter)

    @threads.on_future_result
    def enough(_, result):
        if result == 500:
            threads.stop()

    assert threads.run(wait=False).code == Code.STOPPED
    assert len(results) >= 500 - 2000
    assert next(counter) < 500 + 2000


def test_a_run_goes_on_until_all_items_are_used_up(threads):
    emptied = []
    threads.on_empty(lambda: emptied.append(len(results)))
    results = mapped(threads, abs, range(30), max_in_flight=1)
    threads.run()
    assert emptied == [30]


def test_several_functions_are_mapped_at_the_same_time(threads):
    results = mapped(threads, abs, range(20))
    threads.on_start(lambda: threads.map(str, range(20)))
    threads.run()
    assert sorted(map(str, results)) == sorted(2 * [*map(str, range(20))])


def test_what_the_items_raise_is_handled_as_what_a_callback_raises(threads):
    def items():
        yield from range(3)
        raise LookupError("no more")

    results = mapped(threads, abs, items())
    with pytest.raises(LookupError, match="no more"):
        threads.run()
    assert sorted(results) == [0, 1, 2]


def test_a_generator_is_closed_when_the_run_ends_before(threads):
    closed = []

    def items():
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    mapped(threads, abs, items())
    threads.on_future_result(lambda *_: threads.stop())
    threads.run(wait=False)
    assert closed == [True]


def test_a_timeout_ends_items_whose_calls_a_plugin_refuses(threads):
    task = threads.task(abs, plugins=Limiter(max_calls=1))
    threads.on_start(lambda: threads.map(task, itertools.count()))
    assert threads.run(timeout=0.2).code == Code.TIMEOUT


def test_more_short_calls_are_in_flight():
    futures = []

    def submit(_):
        futures.append(Future())
        return futures[-1]

    feed = Feed(itertools.count(), submit, None, lambda: 2)
    feed.refill(lambda: True)
    assert len(futures) == 4
    for seconds, most in ((0.001, 200), (10.0, 4)):
        for _ in range(300):
            futures[0].usage = Usage(wall_time=seconds, cpu_time=0.0)
            feed.note_end(futures.pop(0))
            feed.refill(lambda: True)
        assert feed._size._seconds == pytest.approx(seconds, rel=0.1)
        assert len(futures) >= most


def test_a_run_that_is_stopped_while_an_item_is_made_ends_as_stopped(threads):
    def items():
        yield 1
        threads.stop()
        yield 2

    mapped(threads, abs, items())
    assert threads.run().code == Code.STOPPED


def test_a_run_goes_on_with_other_things_while_a_plugin_drops_all(threads):
    task = threads.task(abs, plugins=Limiter(max_calls=1))
    threads.on_start(lambda: threads.map(task, itertools.count()))
    threads.on_start(lambda: threads.call_later(0.05, threads.stop))
    assert threads.run(timeout=60).code == Code.STOPPED


def test_items_that_a_plugin_raises_for_do_not_keep_the_others_from_running(threads):
    class Picky(Plugin):
        def pre_submit(self, fn, n):
            if n < 0:
                raise ValueError(n)
            return fn, (n,), {}

    task = threads.task(abs, plugins=Picky())
    results = mapped(threads, task, [-1, -2, -3, 4, -5, 6, -7], max_in_flight=1)
    assert threads.run(on_exception="continue", timeout=60).code == Code.EXHAUSTED
    assert results == [4, 6]


def test_a_generator_is_closed_when_a_run_is_interrupted(threads):
    closed = []

    def items():
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    def interrupt(*_):
        raise KeyboardInterrupt

    kept = items()
    mapped(threads, abs, kept)
    threads.on_future_result(interrupt)
    with pytest.raises(KeyboardInterrupt):
        threads.run()
    assert closed == [True]


@pytest.mark.parametrize(
    ("function", "items", "options", "error", "words"),
    [
        (abs, 5, {}, TypeError, "not iterable"),
        (5, [], {}, TypeError, "needs a task or a function"),
        ("gzip {}", ["a"], {}, TypeError, r"type str\. For a command .*: command\('gzip \{\}'\)"),
        (abs, [], {"max_in_flight": 0}, ValueError, "max_in_flight=0"),
        (abs, [], {"max_in_flight": "5"}, TypeError, "max_in_flight='5'"),
    ],
    ids=["items", "function", "command line", "none in flight", "text in flight"],
)
def test_wrong_arguments(threads, function, items, options, error, words):
    threads.on_start(lambda: threads.map(function, items, **options))
    with pytest.raises(error, match=words):
        threads.run()


def test_a_task_of_another_scheduler(threads):
    task = Scheduler.with_threads(1).task(abs)
    threads.on_start(lambda: threads.map(task, [1]))
    with pytest.raises(ValueError, match="belongs to another scheduler"):
        threads.run()


def test_map_before_a_run(threads):
    with pytest.raises(SchedulerNotRunningError):
        threads.map(abs, [1])


def test_as_many_are_in_flight_as_have_ended_in_a_tenth_of_a_second(monkeypatch):
    now, places, futures = [100.0], [3], []

    def submit(_):
        futures.append(Future())
        return futures[-1]

    def end(number):
        for future in futures[:number]:
            feed.note_end(future)
        del futures[:number]
        feed.refill(lambda: True)
        return len(futures)

    monkeypatch.setattr("dask_limits.executors.in_flight.time.monotonic", lambda: now[0])
    feed = Feed(itertools.count(), submit, None, lambda: places[0])
    assert end(0) == 2 * 3
    for _ in range(10):
        end(6)
    assert len(futures) == 60
    places[0] = 500  # workers have come
    assert end(0) == 2 * 500
    places[0] = 1  # they have gone
    for _ in range(3):
        now[0] += 0.15
        end(0)
    for left in range(999, 1, -1):  # the calls have become long
        now[0] += 0.15
        assert end(1) == left
    assert end(1) == 2
