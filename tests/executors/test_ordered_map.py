"""`ProcessExecutor.map` is that of the standard library, but takes items when there is room."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
from processes import until

from dask_limits import exceptions, limit
from dask_limits.executors.processes import ProcessExecutor

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


@pytest.fixture
def pool():
    with ProcessExecutor(2) as executor:
        yield executor


def numbers_from(seen):
    for number in itertools.count():
        seen.append(number)
        yield number


@pytest.fixture(params=["ours", "standard"])
def executor(request):
    """Ours, and one of the standard library, which says what is right."""
    make = ProcessExecutor if request.param == "ours" else ThreadPoolExecutor
    with make(2) as executor:
        yield executor


def test_results_come_in_the_order_of_the_items(executor):
    assert list(executor.map(pow, [2, 3, 4], [5, 2, 3, 9])) == [32, 9, 64]
    assert list(executor.map(abs, range(-500, 0), chunksize=7)) == list(range(500, 0, -1))
    assert list(executor.map(abs, [])) == []


def test_a_list_may_change_meanwhile(executor):
    items = list(range(2000))
    results = executor.map(abs, items)
    items.clear()
    assert len(list(results)) == 2000


def wait_a_little(number):
    time.sleep(0.2 if number == 0 else 0)
    return number


def test_a_slow_call_delays_results_and_not_calls(executor):
    assert list(executor.map(wait_a_little, range(50))) == list(range(50))


class Made:
    pass


def test_a_result_is_the_callers_alone(executor):
    gc.disable()  # nothing is left for it
    try:
        for made in executor.map(lambda _: Made(), range(10)):
            ref = weakref.ref(made)
            del made
            until(lambda gone=ref: gone() is None)
    finally:
        gc.enable()


class Given:
    pass


def there(*names):
    """What there is here of these classes; those of results have come by value."""
    return [type(one).__name__ for one in gc.get_objects() if type(one).__name__ in names]


@pytest.mark.parametrize("ends", ["is closed", "raises"])
def test_a_map_that_ends_early_keeps_neither_items_nor_results(pool, ends):
    def make(_, number):
        if number == 1 and ends == "raises":
            raise ValueError
        return Made()

    gc.collect()
    gc.disable()
    try:
        results = pool.map(make, [Given() for _ in range(100)], range(100))
        next(results)
        until(lambda: there("Made"))  # those that wait for their turn
        if ends == "is closed":
            results.close()
        else:
            with pytest.raises(ValueError):
                next(results)
        until(lambda: not there("Made", "Given"), instead=lambda: there("Made", "Given"))
    finally:
        gc.enable()


def fail_at(number, bad):
    if number == bad:
        raise ValueError(number)
    return number


def test_an_error_comes_in_its_place_and_ends_the_results(executor):
    results = executor.map(fail_at, range(100), itertools.repeat(3))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert list(results) == []


def test_a_result_that_is_late_is_a_timeout(executor, tmp_path):
    def wait(number):
        while number and not (tmp_path / "go on").exists():
            time.sleep(0.01)
        return number

    assert list(executor.map(abs, [-1])) == [1]  # all that it starts, it has started now
    results = executor.map(wait, range(3), timeout=5)
    try:
        assert next(results) == 0
        with pytest.raises(TimeoutError):
            next(results)
    finally:
        (tmp_path / "go on").touch()


def note(folder, number):
    (folder / str(number)).touch()


def test_all_calls_run_if_nobody_asks_for_results(tmp_path):
    for make in (ProcessExecutor, ThreadPoolExecutor):
        folder = tmp_path / make.__name__
        folder.mkdir()
        with make(2) as executor:
            executor.map(note, itertools.repeat(folder), range(300))
        assert len(list(folder.iterdir())) == 300


def test_the_function_raises_before_anything_is_submitted(executor):
    with pytest.raises(TypeError):
        executor.map(abs, 5)
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.map(abs, [5])


def test_an_item_that_raises_ends_the_results(pool):
    def items():
        yield -1
        yield -2
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(pool.map(abs, items()))
    assert pool.submit(abs, -3).result() == 3


def test_a_generator_without_end_never_lies_in_memory(pool):
    seen = []
    results = pool.map(limit(abs, wall_time=60), numbers_from(seen))
    assert list(itertools.islice(results, 2000)) == list(range(2000))
    assert len(seen) < 2000 + 3000
    results.close()
    taken = len(seen)
    assert pool.submit(abs, -3).result() == 3
    assert len(seen) == taken


def test_a_shutdown_that_cancels_takes_no_more_items(tmp_path):
    seen = []
    pool = ProcessExecutor(2)
    pool.map(abs, numbers_from(seen))
    pool.shutdown(cancel_futures=True)
    taken = len(seen)
    assert taken < 3000


def test_items_are_taken_in_the_thread_that_asks(pool):
    threads = set()

    def items():
        for number in range(500):
            threads.add(threading.current_thread())
            yield number

    assert sum(pool.map(abs, items())) == sum(range(500))
    assert threads == {threading.current_thread()}


def test_results_that_are_not_asked_for_cancel_their_calls(pool, tmp_path):
    def wait(number):
        if number:
            Path(tmp_path / str(number)).touch()
            time.sleep(60)
        return number

    results = pool.map(wait, range(3))
    assert next(results) == 0
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    results.close()
    start = time.monotonic()
    assert pool.submit(abs, -3).result() == 3
    assert time.monotonic() - start < 50  # of the 60 s of each


def test_calls_are_under_limits(pool):
    results = pool.map(limit(time.sleep, wall_time=5), [0, 60])
    assert next(results) is None  # though a process may wait for a second or two to begin
    with pytest.raises(exceptions.WallTimeBreach):
        next(results)


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_chunk_has_at_least_one_call(pool, wrong):
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(abs, [1], chunksize=wrong)


def test_an_item_that_raises_costs_no_other_map_its_calls(tmp_path):
    def items():
        yield from range(20)
        raise LookupError("no more")

    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    pool = ProcessExecutor(2)
    pool.map(note, itertools.repeat(tmp_path / "bad"), items())
    for start in range(0, 200, 40):
        pool.map(note, itertools.repeat(tmp_path / "good"), range(start, start + 40))
    with pytest.raises(LookupError, match="no more"):
        pool.shutdown()
    assert len(list((tmp_path / "bad").iterdir())) == 20
    assert len(list((tmp_path / "good").iterdir())) == 200
    with pytest.raises(RuntimeError):
        pool.submit(abs, -1)


def test_results_come_before_the_error_of_a_later_item(pool):
    def items():
        yield from range(100)
        raise LookupError("no more")

    results = pool.map(abs, items())
    assert [next(results) for _ in range(100)] == list(range(100))
    with pytest.raises(LookupError, match="no more"):
        next(results)


def test_a_signals_handler_may_shut_down_while_an_item_is_made(tmp_path):
    pool = ProcessExecutor(2)

    def items():
        yield from range(10)
        pool.shutdown()  # as a handler that interrupts this would
        yield from range(10, 20)

    results = list(pool.map(abs, items()))
    assert results == list(range(10))


def test_who_waits_for_a_result_is_woken_by_a_shutdown_that_takes_the_last_item(pool):
    found = []
    results = pool.map(wait_a_little, [0, 0, 0, 0])
    thread = threading.Thread(target=lambda: found.extend(results))
    thread.start()
    pool.shutdown()
    thread.join(60)
    assert found == [0, 0, 0, 0]
