"""The futures of executors."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import threading
import tracemalloc
from types import SimpleNamespace

import pytest
from lines import at_line

from dask_limits.future import DeferredFuture, Future


def test_a_signals_handler_can_cancel_what_it_interrupts_the_cancelling_of():
    for n in itertools.count(1):
        ended, told = [], []
        future = Future(on_cancel=lambda ended=ended: ended.append(1))
        future.when_settled(told.append)
        reached = at_line(n, future.cancel, future.cancel, "future.py")
        assert future.cancelled()
        assert (ended, told) == ([1], [future])
        if not reached:
            break
    assert n > 5


def test_a_call_is_ended_whatever_a_done_callback_raises_when_it_is_cancelled():
    ended, told = [], []
    future = Future(on_cancel=lambda: ended.append(1))
    future.when_settled(told.append)
    future.add_done_callback(lambda _: exit())
    with pytest.raises(SystemExit):
        future.cancel()
    assert future.cancelled()
    assert (ended, told) == ([1], [future])


@pytest.mark.parametrize("wait_for", [Future.result, Future.exception])
def test_a_wait_ends_whenever_a_signals_handler_cancels_what_it_waits_for(wait_for):
    errors = []

    def wait(future, n):
        try:
            at_line(n, future.cancel, lambda: wait_for(future), "future.py")
        except BaseException as error:
            errors.append(error)

    for n in range(1, 20):
        future = Future()
        thread = threading.Thread(target=wait, args=(future, n), daemon=True)
        thread.start()
        thread.join(0.1)
        future.cancel()  # those are lines of the end of the wait
        thread.join(60)
        assert not thread.is_alive(), n
    assert {type(error) for error in errors} == {concurrent.futures.CancelledError}


class SlowToSettle(DeferredFuture):
    """One whose cancelling takes a while after it has ended what it knew of."""

    def __init__(self):
        super().__init__()
        self.is_settling, self.goes_on = threading.Event(), threading.Event()

    def _say_settled(self):
        self.is_settling.set()
        assert self.goes_on.wait(60)
        super()._say_settled()


def test_an_attempt_that_starts_while_its_call_is_cancelled_is_cancelled():
    for n in itertools.count(1):
        future, attempt = SlowToSettle(), Future()
        cancelling = threading.Thread(target=future.cancel)
        cancelling.start()
        assert future.is_settling.wait(60)

        def settle(future=future, cancelling=cancelling):
            future.goes_on.set()
            cancelling.join(60)

        executor = SimpleNamespace(submit=lambda fn, attempt=attempt: attempt)
        start = functools.partial(future.start, executor, (abs, (), {}), future.end_as)
        reached = at_line(n, settle, start, "future.py", "limits/cancel.py")
        settle()
        assert attempt.cancelled(), n
        if not reached:
            break
    assert n > 5


def bytes_of_each(make):
    kept = [make() for _ in range(100)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept += [make() for _ in range(1000)]
        return (tracemalloc.get_traced_memory()[0] - before) / 1000
    finally:
        tracemalloc.stop()


def test_a_future_that_nobody_waits_for_takes_less_than_half_of_the_standard_librarys():
    assert bytes_of_each(Future) < bytes_of_each(concurrent.futures.Future) / 2


def test_a_future_has_all_attributes_of_the_standard_librarys():
    assert vars(concurrent.futures.Future()).keys() <= vars(Future()).keys()


WAYS_TO_WAIT = {
    "result": lambda future: future.result(60),
    "exception": lambda future: future.exception(60),
    "wait": lambda future: concurrent.futures.wait([future, Future()], 60, "FIRST_COMPLETED"),
    "as_completed": lambda future: next(concurrent.futures.as_completed([future], 60)),
}
ENDS = {
    "result": lambda future: future.set_result(1),
    "exception": lambda future: future.set_exception(ValueError()),
    "cancel": lambda future: future.cancel(),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("wait_for", WAYS_TO_WAIT)
def test_any_number_of_threads_can_wait_for_a_future(wait_for, end):
    future, seen = Future(), []

    def wait():
        try:
            WAYS_TO_WAIT[wait_for](future)
        except (ValueError, concurrent.futures.CancelledError):
            pass
        seen.append(future.done())

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    ENDS[end](future)
    for thread in threads:
        thread.join(60)
    assert seen == [True] * 3


def test_a_wait_that_was_too_short_can_be_repeated():
    future = Future()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            future.result(0.001)
    future.set_result(1)
    assert future.result(60) == 1
