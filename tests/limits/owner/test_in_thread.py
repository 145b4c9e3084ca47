"""Calls in their caller's own process, and that they cannot do what they are said not to."""

import asyncio
import collections
import functools
import os
import subprocess
import sys
import threading
import time
import traceback

import pytest
from isolations import CANNOT, THREAD
from overdoing import SPIN, wait_on

from dask_limits import exceptions
from dask_limits.limits import CancelToken, Limits, Outcome, Usage, run_call
from dask_limits.limits.owner import in_thread
from dask_limits.limits.owner.guardian import default_guardian


def refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is not supported with isolation='thread'"):
        Limits(**{"isolation": "thread", name: value})


def children_are_not_counted():
    def start():
        child = subprocess.Popen(SPIN)
        time.sleep(0.5)
        return child

    outcome = THREAD(start, cpu_time=0.3).run()
    child = outcome.result()
    assert child.poll() is None
    child.kill()
    child.wait()


def a_call_in_c_is_interrupted_when_it_returns():
    outcome = THREAD(time.sleep, wall_time=0.1).run(0.7)
    assert isinstance(outcome.exception, exceptions.WallTimeBreach)
    assert outcome.usage.wall_time > 0.7


def an_interrupt_can_be_swallowed():
    def swallow():
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            try:
                time.sleep(0.01)
            except Exception:
                pass

    outcome = THREAD(swallow, wall_time=0.1).run()
    assert isinstance(outcome.exception, exceptions.WallTimeBreach)
    assert outcome.usage.wall_time > 0.7


def its_caller_ends_with_it():
    code = "import os; from dask_limits import limit; limit(os._exit, isolation='thread')(3)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3


def what_it_changes_stays():
    before = os.umask(0o77)
    try:
        THREAD(os.umask, wall_time=5).run(0o123)
        assert os.umask(0o77) == 0o123
    finally:
        os.umask(before)


def it_cannot_be_cancelled():
    token = CancelToken()
    timer = threading.Timer(0.1, token.cancel)
    timer.start()
    assert run_call(THREAD(time.sleep), (0.4,), {}, cancel=token).ok
    timer.join()


def its_memory_is_not_known():
    assert THREAD(bytes, memory="1 GiB").run(50_000_000).usage.peak_memory == 0


def only_its_own_stack_is_shown():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    error = THREAD(wait_on, wall_time=0.1).run().exception
    stop.set()
    thread.join()
    assert "in wait_on" in error.stacks
    assert error.stacks.count("most recent call first") == 1


PROOFS = {
    "num_processes": lambda: refused("num_processes", 3),
    "grace_period": lambda: refused("grace_period", 1),
    "capture_output": lambda: refused("capture_output", True),
    "children": children_are_not_counted,
    "calls in C": a_call_in_c_is_interrupted_when_it_returns,
    "swallowed": an_interrupt_can_be_swallowed,
    "crash": its_caller_ends_with_it,
    "clean": what_it_changes_stays,
    "cancel": it_cannot_be_cancelled,
    "peak_memory": its_memory_is_not_known,
    "stacks of all threads": only_its_own_stack_is_shown,
}


@pytest.mark.parametrize(("level", "what"), CANNOT, ids=str)
def test_what_it_is_said_not_to_give_it_does_not_give(level, what):
    assert level == "thread"
    PROOFS[what]()


def test_it_runs_in_the_thread_of_its_caller_and_starts_nothing():
    default_guardian().close()
    assert THREAD(threading.get_ident, wall_time=5)() == threading.get_ident()
    assert default_guardian()._connection is None


def test_what_cannot_be_pickled_can_be_passed_and_returned():
    lock = threading.Lock()
    assert THREAD(lambda it: it, wall_time=5)(lock) is lock


def test_a_call_that_was_cancelled_before_it_starts_never_runs(tmp_path):
    token = CancelToken()
    token.cancel()
    outcome = run_call(THREAD((tmp_path / "made").touch), (), {}, cancel=token)
    assert isinstance(outcome.exception, exceptions.CallCancelledError)
    assert not (tmp_path / "made").exists()


def test_an_exit_is_the_calls_alone():
    error = THREAD(sys.exit, wall_time=5).run(3).exception
    assert isinstance(error, exceptions.ExitError)
    assert error.exit_code == 3


def test_calls_in_many_threads_are_limited_each_by_itself():
    outcomes = {}

    def call(n):
        outcomes[n] = THREAD(wait_on if n % 2 else abs, wall_time=0.3).run(*[] if n % 2 else [-n])

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, outcome in outcomes.items():
        if n % 2:
            assert isinstance(outcome.exception, exceptions.WallTimeBreach)
        else:
            assert outcome.result() == n


async def sleep_in_a_coroutine():
    await asyncio.sleep(60)


async def spin_in_a_coroutine():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        await asyncio.sleep(0)


async def look_around():
    await asyncio.sleep(0.01)
    thread = threading.current_thread()
    return thread, asyncio.get_running_loop(), asyncio.current_task(), len(asyncio.all_tasks())


def in_a_cell(fn):
    """Call a function as a cell of a notebook does: in a task of a loop that runs already."""

    async def cell():
        await asyncio.sleep(0)
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        result = fn()
        assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)
        await asyncio.sleep(0)
        return result

    return asyncio.run(cell())


def anywhere(fn):
    return fn()


AROUND = pytest.mark.parametrize("call", [anywhere, in_a_cell])


@AROUND
@pytest.mark.parametrize(
    ("fn", "limits", "breach"),
    [
        (sleep_in_a_coroutine, {"wall_time": 0.2}, exceptions.WallTimeBreach),
        (spin_in_a_coroutine, {"wall_time": 0.2}, exceptions.WallTimeBreach),
        (spin_in_a_coroutine, {"cpu_time": 0.2}, exceptions.CpuTimeBreach),
        (lambda: spin_in_a_coroutine(), {"cpu_time": 0.2}, exceptions.CpuTimeBreach),
    ],
    ids=["sleep wall", "spin wall", "spin cpu", "returned"],
)
def test_a_coroutine_function_is_held_to_its_limits(call, fn, limits, breach):
    outcome = call(THREAD(fn, **limits).run)
    assert isinstance(outcome.exception, breach)
    assert outcome.usage.wall_time < 30
    assert "_in_a_coroutine" in outcome.exception.stacks


async def lose_a_step_in_a_coroutine():
    class Ready(collections.deque):
        def popleft(self):
            super().popleft()
            loop._ready = collections.deque(self)
            spin()

    loop = asyncio.get_running_loop()
    loop._ready = Ready(loop._ready)
    await asyncio.sleep(0)


async def call_back_in_a_coroutine():
    asyncio.get_running_loop().call_soon(spin)
    await asyncio.sleep(60)


def spin():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass


# In the callback of a weak reference, Python prints an interrupt and goes on until the next one.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@AROUND
@pytest.mark.parametrize("fn", [lose_a_step_in_a_coroutine, call_back_in_a_coroutine])
def test_the_loop_of_a_coroutine_may_be_interrupted_anywhere(call, fn, caplog):
    outcome = call(THREAD(fn, wall_time=0.2).run)
    assert isinstance(outcome.exception, exceptions.WallTimeBreach)
    assert fn.__name__ in outcome.exception.stacks
    assert {record.name for record in caplog.records} == {"dask_limits.calls"}


async def clean_up_in_a_coroutine(cleaned_up):
    async def clean_up(name):
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned_up.add(name)

    other = asyncio.create_task(clean_up("task"))
    await clean_up("coroutine")
    await other


@AROUND
def test_a_coroutine_and_its_tasks_clean_up_when_it_is_interrupted(call):
    cleaned_up = set()
    outcome = call(
        functools.partial(THREAD(clean_up_in_a_coroutine, wall_time=0.2).run, cleaned_up)
    )
    assert isinstance(outcome.exception, exceptions.WallTimeBreach)
    assert cleaned_up == {"task", "coroutine"}


@AROUND
def test_a_coroutine_function_runs_in_the_thread_of_its_caller_and_has_a_loop_to_itself(call):
    def look():
        try:
            outer = asyncio.get_running_loop()
        except RuntimeError:
            outer = None
        thread, loop, task, tasks = THREAD(look_around, wall_time=30)()
        assert thread is threading.current_thread()
        assert loop is not outer
        assert loop.is_closed()
        assert task.get_coro().cr_code is look_around.__code__
        assert tasks == 1

    call(look)


def test_a_call_that_its_guard_interrupts_has_breached_by_whichever_clock():
    """The guard was there before the function, whose own CPU time may be just below the limit."""
    limits = Limits(cpu_time=1, isolation="thread")
    usage = Usage(wall_time=1.1, cpu_time=0.999)
    interrupted = Outcome(exception=in_thread._CpuTimeExceeded(1.0), usage=usage)
    outcome = in_thread._judged("spin", limits, interrupted, last_step=0.0)
    assert type(outcome.exception) is exceptions.CpuTimeBreach
    assert outcome.usage.cpu_time == 1
    other = Limits(cpu_time=2, isolation="thread")  # the guard is that of a call around this one
    assert in_thread._judged("spin", other, interrupted, last_step=0.0) is interrupted


@AROUND
def test_the_cpu_time_of_a_coroutine_function_is_counted(call):
    async def spin():
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            await asyncio.sleep(0)

    assert call(THREAD(spin, wall_time=30).run).usage.cpu_time >= 0.05


def test_a_loop_goes_on_after_many_interrupted_calls():
    async def cell():
        for n in range(100):
            outcome = THREAD(spin_in_a_coroutine, wall_time=0.001 + n / 50_000).run()
            assert isinstance(outcome.exception, exceptions.WallTimeBreach)
            assert asyncio.current_task() is task
            await asyncio.sleep(0)
        return "done"

    async def main():
        nonlocal task
        task = asyncio.create_task(cell())
        return await task

    task = None
    assert asyncio.run(main()) == "done"


@AROUND
def test_the_traceback_of_a_coroutine_function_begins_with_it(call):
    async def fail():
        await asyncio.sleep(0)
        raise LookupError("lost")

    error = call(THREAD(fail, wall_time=30).run).exception
    assert traceback.extract_tb(error.__traceback__)[0].name == "fail"
    assert error.__context__ is None
