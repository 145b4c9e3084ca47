"""A time guard interrupts what runs for too long, and nothing else."""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_limits.guards import (
    ExecutionTimeout,
    GuardException,
    InterruptType,
    TimeGuard,
    mem_guard,
    progress,
    time_guard,
)
from dask_limits.guards.entry import here, inside

SOON = 0.02  # seconds: a timeout that is meant to run out
LONG = 100.0  # seconds: one that is not
OFTEN = 3  # seconds: one that is put off again and again, by a busy machine, too


def spin(seconds: float = 30) -> None:
    """Python code that could be interrupted at any time, and at last gives up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_block_that_runs_for_too_long_is_interrupted(in_a_thread):
    def block():
        with time_guard(SOON):
            spin()

    with pytest.raises(ExecutionTimeout):
        in_a_thread(block)


def test_a_block_that_ends_in_time_is_not(in_a_thread):
    def block():
        with time_guard(LONG):
            return "value"

    assert in_a_thread(block) == "value"
    assert not inside


def test_a_function_that_runs_for_too_long_is_interrupted(in_a_thread):
    @time_guard(timeout=SOON)
    def slow():
        spin()

    with pytest.raises(ExecutionTimeout):
        in_a_thread(slow)


def test_a_sleep_in_pieces_is_interrupted_between_two():
    with pytest.raises(ExecutionTimeout), time_guard(SOON):
        while True:
            time.sleep(0.001)


def test_it_waits_for_the_whole_timeout():
    begun = time.monotonic()
    with pytest.raises(ExecutionTimeout) as caught, time_guard(0.2):
        spin()
    assert time.monotonic() - begun >= 0.2
    assert caught.value.elapsed >= 0.2


def test_the_message_says_what_and_how_much():
    with pytest.raises(ExecutionTimeout) as caught, time_guard(SOON):
        spin()
    assert __file__ in str(caught.value)
    assert "timeout of 0.02 s" in str(caught.value)
    assert "interrupt 1 of 3" in str(caught.value)
    assert caught.value.timeout == SOON

    @time_guard(SOON)
    def slow():
        spin()

    with pytest.raises(ExecutionTimeout, match=r"slow\(\) went over its timeout"):
        slow()


def test_the_exception_can_be_pickled_and_caught_by_its_base():
    with pytest.raises(GuardException) as caught, time_guard(SOON):
        spin()
    assert type(caught.value) is ExecutionTimeout
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (ExecutionTimeout, str(caught.value))
    assert (again.timeout, again.elapsed) == (caught.value.timeout, caught.value.elapsed)


def test_it_may_strike_while_another_exception_is_handled():
    with pytest.raises(ExecutionTimeout) as caught:
        try:
            raise KeyError("first")
        except KeyError:
            with time_guard(SOON):
                spin()
    assert str(caught.value).startswith("The block")
    assert isinstance(caught.value.__context__, KeyError)


def test_what_the_block_raises_goes_through(in_a_thread):
    def block():
        with time_guard(LONG):
            raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        in_a_thread(block)
    assert not inside


def go_on_for_too_long(tell: Callable[[], bool]) -> None:
    end = time.monotonic() + OFTEN * 1.3
    while time.monotonic() < end:
        time.sleep(0.02)
        assert tell()


def test_progress_puts_the_timeout_off(in_a_thread):
    def block():
        with time_guard(OFTEN):
            go_on_for_too_long(progress)
        return "done"

    assert in_a_thread(block) == "done"


def test_progress_of_the_guard_puts_it_off_too():
    with time_guard(OFTEN) as guard:
        go_on_for_too_long(guard.progress)


def test_progress_of_a_decorated_function_puts_it_off_too():
    @time_guard(OFTEN)
    def bar():
        go_on_for_too_long(bar.progress)
        return "done"

    assert bar() == "done"


def test_after_progress_the_timeout_counts_in_full():
    with pytest.raises(ExecutionTimeout) as caught, time_guard(0.2):
        time.sleep(0.1)
        progress()
        reported = time.monotonic()
        spin()
    assert time.monotonic() - reported >= 0.2
    assert caught.value.elapsed >= 0.2


def test_progress_is_for_the_innermost_time_guard_and_passes_over_memory_guards():
    with time_guard(LONG), time_guard(LONG), mem_guard(1e12):
        memory = here.innermost
        began = memory.outer.began, memory.outer.outer.began
        assert progress()
        assert memory.outer.began > began[0]
        assert memory.outer.outer.began == began[1]


def test_progress_without_a_guard_does_nothing():
    assert progress() is False
    assert time_guard(LONG).progress() is False
    with mem_guard(1e12):
        assert progress() is False


def test_progress_of_a_guard_can_be_reported_by_a_thread_that_the_block_started():
    with time_guard(LONG) as guard:
        began = here.innermost.began
        thread = threading.Thread(target=guard.progress)
        thread.start()
        thread.join()
        assert here.innermost.began > began


def test_a_thread_that_is_inside_itself_reports_for_itself_only():
    guard = time_guard(LONG)
    with guard:
        mine = here.innermost
        began = mine.began

        def other():
            with guard:
                assert guard.progress()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert mine.began == began


def test_the_inner_of_two_guards_interrupts_the_inner_block_only():
    with time_guard(LONG):
        with pytest.raises(ExecutionTimeout) as caught, time_guard(SOON):
            spin()
        assert caught.value.timeout == SOON
        assert len(inside) == 1
        spin(0.05)
    assert not inside


def test_the_outer_of_two_guards_interrupts_the_inner_block_too():
    with pytest.raises(ExecutionTimeout) as caught, time_guard(SOON), time_guard(LONG):
        spin()
    assert caught.value.timeout == SOON
    assert not inside


def test_a_guard_inside_does_not_keep_the_outer_one_from_interrupting():
    with pytest.raises(ExecutionTimeout) as caught, time_guard(0.1):
        while True:
            with contextlib.suppress(OSError), time_guard(LONG):
                pass
    assert caught.value.timeout == 0.1


def test_two_that_are_due_while_nothing_can_be_raised_both_interrupt():
    with pytest.raises(ExecutionTimeout) as outer, time_guard(1):
        with pytest.raises(ExecutionTimeout) as inner, time_guard(0.3):
            time.sleep(1.2)
            spin()  # the watcher may be late
        spin()
    assert (inner.value.timeout, outer.value.timeout) == (0.3, 1)


def test_the_outer_of_two_that_are_due_ends_both_blocks():
    with pytest.raises(ExecutionTimeout) as caught, time_guard(0.05), time_guard(0.1):
        time.sleep(0.2)
        spin()  # the watcher may be late
    assert caught.value.timeout == 0.05
    assert not inside


def test_a_guard_can_be_entered_again_after_it_was_left():
    guard = time_guard(SOON)
    for _ in range(3):
        with pytest.raises(ExecutionTimeout), guard:
            spin()
        with guard:
            pass
    assert not inside


def test_a_guard_can_be_entered_inside_itself():
    guard = time_guard(LONG)
    with guard, guard:
        assert len(inside) == 2
    assert not inside
    assert here.innermost is None


def test_a_guarded_function_can_call_itself():
    @time_guard(LONG)
    def factorial(n):
        assert factorial.progress()
        return n * factorial(n - 1) if n else 1

    assert factorial(20) == 2432902008176640000
    assert not inside


def test_one_guard_serves_several_threads_each_with_its_own_clock():
    guard = time_guard(OFTEN)
    start = threading.Barrier(4)
    ended = {}

    def run(n):
        start.wait()
        try:
            with guard:
                while n % 2 == 0:
                    time.sleep(0.01)
            ended[n] = "in time"
        except ExecutionTimeout:
            ended[n] = "too late"

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == {0: "too late", 1: "in time", 2: "too late", 3: "in time"}


def test_guards_that_are_not_left_in_order_are_all_left():
    first, second = time_guard(LONG), time_guard(LONG)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert [entry.guard for entry in inside] == [second]
    assert progress()
    second.__exit__(None, None, None)
    assert not inside
    assert progress() is False
    with time_guard(LONG):
        assert here.innermost.outer is None  # nothing of them is kept


def test_it_works_in_an_exit_stack_and_in_a_context_manager_of_ones_own():
    @contextlib.contextmanager
    def patient():
        with time_guard(SOON):
            yield

    with pytest.raises(ExecutionTimeout), contextlib.ExitStack() as stack:
        stack.enter_context(patient())
        stack.enter_context(time_guard(LONG))
        spin()
    assert not inside


def test_a_generator_that_was_suspended_inside_may_be_closed_by_another_thread():
    def suspended():
        with time_guard(LONG):
            yield

    generator = suspended()
    next(generator)
    thread = threading.Thread(target=generator.close)
    thread.start()
    thread.join()
    assert not inside
    assert progress() is False


def test_an_interrupted_block_leaves_its_objects_at_once():
    class Big:
        freed = False

        def __del__(self):
            Big.freed = True

    import gc

    def slow():
        big = Big()
        with time_guard(SOON):
            spin()
        return big

    gc.disable()
    try:
        with contextlib.suppress(ExecutionTimeout):
            slow()
        assert Big.freed
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"timeout": 0}, ValueError, "timeout=0 must be more than 0 and finite, in seconds"),
        ({"timeout": -1}, ValueError, "timeout=-1"),
        ({"timeout": float("nan")}, ValueError, "timeout=nan"),
        ({"timeout": float("inf")}, ValueError, "timeout=inf"),
        ({"timeout": 10**400}, ValueError, "finite, in seconds"),
        ({"timeout": True}, TypeError, r"timeout=True \(bool\) is not a number of seconds"),
        ({"timeout": "10"}, TypeError, r"timeout='10' \(str\) is not"),
        ({"timeout": None}, TypeError, "timeout=None"),
        ({"timeout": print}, TypeError, r"write @time_guard\(timeout=10\)"),
        ({"grace_period": -1}, ValueError, "grace_period=-1 must be 0 or more and finite"),
        ({"grace_period": False}, TypeError, "grace_period=False"),
        ({"check_interval": 0}, ValueError, "check_interval=0.*milliseconds"),
        ({"interrupt_type": "signal"}, TypeError, "is not one of InterruptType.exception, "),
        (
            {"interrupt_type": InterruptType.exception, "send_kill": True},
            ValueError,
            "sends no signals",
        ),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(wrong, error, says):
    with pytest.raises(error, match=says):
        time_guard(**{"timeout": 10, **wrong})


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False), st.floats(0, 1e9))
def test_any_positive_number_of_seconds_is_a_timeout(timeout, grace_period):
    guard = time_guard(timeout, grace_period)
    again = pickle.loads(pickle.dumps(guard))
    assert isinstance(again, TimeGuard)
    assert (again.timeout_s, again.grace_period_s) == (timeout, grace_period)


def test_an_enormous_timeout_is_one():
    with time_guard(1e300):
        assert progress()
