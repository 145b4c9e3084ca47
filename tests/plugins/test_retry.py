"""A failed call that is submitted again stays one call: one future, one end."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import alive, start_sleeping, until, written_pid

from dask_limits import (
    ExitState,
    Limiter,
    Limits,
    Plugin,
    PynisherPlugin,
    Scheduler,
    exceptions,
    limit,
)
from dask_limits.plugins import Retry
from dask_limits.plugins.retry import LostWorker

# Importing this module takes time, in each of many task processes.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class FlakyError(Exception):
    pass


class Flaky:
    """Fails the first so many times, in the process that it is called in."""

    def __init__(self, n_failures=10**6, error=FlakyError):
        self.n_failures = n_failures
        self.n_calls = 0
        self.error = error

    def __call__(self, *_):
        self.n_calls += 1
        if self.n_calls <= self.n_failures:
            raise self.error(f"failure {self.n_calls}")
        return self.n_calls


@pytest.fixture
def scheduler():
    return Scheduler.with_threads(2)


def flaky_retry(max_retries=3, **options):
    return Retry(max_retries=max_retries, on=FlakyError, **options)


def events_of(task, scheduler):
    seen = []
    for emitter in (scheduler.emitter, task.emitter):
        for event in emitter.events:
            emitter.on(event)(lambda *args, name=event.name: seen.append((name, *args)))
    return seen


def submitted(task, *args):
    """Has the task called once at the start of the next run; the future comes in a list."""
    futures = []
    task.scheduler.on_start(lambda: futures.append(task.submit(*args)), max_calls=1)
    return futures


# -- one future, one end ---------------------------------------------------------------------


def test_a_call_that_succeeds_in_the_end_has_one_result_and_one_of_each_event(scheduler):
    task = scheduler.task(Flaky(2), plugins=flaky_retry())
    seen = events_of(task, scheduler)
    futures, results = submitted(task), []
    task.on_result(lambda *args: results.append(args))
    assert scheduler.run().code == ExitState.EXHAUSTED
    [future] = futures
    assert results == [(future, 3)]
    assert [name for name, *_ in seen] == [
        "on_start",
        "on_future_submitted",
        "on-submitted",
        "retry",
        "retry",
        "on_future_done",
        "on_future_result",
        "on-done",
        "on-result",
        "on_empty",
        "on_finishing",
        "on_finished",
    ]
    assert [args for name, *args in seen if name == "retry"] == [
        [future, future.earlier[0], 2],
        [future, future.earlier[1], 3],
    ]
    assert [str(error) for error in future.earlier] == ["failure 1", "failure 2"]
    assert (future.attempts, task.n_submitted) == (3, 1)
    assert future.usage is not None


def test_a_call_that_never_succeeds_ends_as_its_last_attempt_and_tells_of_the_others(scheduler):
    function = Flaky()
    task = scheduler.task(function, plugins=flaky_retry(2))
    futures, errors = submitted(task), []
    task.on_exception(lambda _, error: errors.append(error))
    with pytest.raises(FlakyError, match="failure 3") as raised:
        scheduler.run()
    assert errors == [raised.value]
    assert function.n_calls == 3
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert [str(e) for e in error.earlier] == ["failure 1", "failure 2"]
        assert error.__notes__ == [
            "Attempt 1 failed with FlakyError: failure 1",
            "Attempt 2 failed with FlakyError: failure 2",
        ]
    assert futures[0].exception() is raised.value


def test_what_comes_before_survives_pickling_with_an_exception_of_ours():
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(
        time.sleep, plugins=[PynisherPlugin(walltime_limit=0.1), Retry(max_retries=1)]
    )
    futures = submitted(task, 60)
    scheduler.run(on_exception="continue")
    error = pickle.loads(pickle.dumps(futures[0].exception()))
    assert isinstance(error, exceptions.WallTimeBreach)
    assert [type(e) for e in error.earlier] == [exceptions.WallTimeBreach]
    assert error.__notes__[0].startswith("Attempt 1 failed with WallTimeBreach: sleep() went over")


class StubbornError(FlakyError):
    """An exception that takes no attributes, and says nothing."""

    def __setattr__(self, name, value):
        raise TypeError("frozen")

    def __str__(self):
        raise TypeError("speechless")


def test_an_exception_that_takes_no_attributes_is_passed_on_as_it_is(scheduler):
    task = scheduler.task(Flaky(error=StubbornError), plugins=flaky_retry(1))
    futures = submitted(task)
    scheduler.run(on_exception="continue")
    assert isinstance(futures[0].exception(), StubbornError)
    assert len(futures[0].earlier) == 1


def test_an_exception_that_is_raised_again_and_again_does_not_come_before_itself(scheduler):
    error = FlakyError("always this one")

    def fail():
        raise error

    futures = submitted(scheduler.task(fail, plugins=flaky_retry()))
    scheduler.run(on_exception="continue")
    assert futures[0].exception() is error
    assert not hasattr(error, "earlier")
    assert not hasattr(error, "__notes__")
    assert futures[0].earlier == (error,) * 3


@pytest.mark.parametrize("plugins", [[], [Retry(max_retries=0)]])
def test_without_retries_the_first_failure_is_the_end(scheduler, plugins):
    function = Flaky()
    task = scheduler.task(function, plugins=[plugin.copy() for plugin in plugins])
    submitted(task)
    scheduler.run(on_exception="continue")
    assert function.n_calls == 1


def test_failures_that_are_not_named_end_the_call_and_tell_of_those_that_were(scheduler):
    def fail():
        function()
        raise LookupError("another one")

    function = Flaky(1)
    futures = submitted(scheduler.task(fail, plugins=flaky_retry()))
    scheduler.run(on_exception="continue")
    error = futures[0].exception()
    assert isinstance(error, LookupError)
    assert [str(e) for e in error.earlier] == ["failure 1"]


def test_the_queue_and_the_counts_are_right_between_attempts(scheduler):
    task = scheduler.task(Flaky(1), plugins=flaky_retry())
    futures, seen = submitted(task), []

    @task.on("retry")
    def look(future, *_):
        seen.append((list(scheduler.queue), task.futures(), task.n_running, task.n_held))
        assert not future.running()
        assert not scheduler.empty()

    scheduler.run()
    assert seen == [(futures, futures, 1, 0)]
    assert task.futures() == []
    assert not scheduler.queue


@given(
    ends=st.lists(st.sampled_from([None, FlakyError, LookupError]), max_size=6),
    max_retries=st.integers(0, 4),
)
def test_a_call_has_as_many_attempts_as_its_failures_and_retries_allow(ends, max_retries):
    def attempt():
        end = ends[len(begun)] if len(begun) < len(ends) else None
        begun.append(end)
        if end is not None:
            raise end(len(begun))
        return len(begun)

    begun = []
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(attempt, plugins=flaky_retry(max_retries))
    futures = submitted(task)
    scheduler.run(on_exception="continue")
    [future] = futures
    failed = list(itertools.takewhile(lambda end: end is FlakyError, ends))[:max_retries]
    assert future.attempts == len(begun) == len(failed) + 1
    assert [error.args for error in future.earlier] == [(n + 1,) for n in range(len(failed))]
    if begun[-1] is None:
        assert future.result() == len(begun)
    else:
        assert type(future.exception()) is begun[-1]
        assert getattr(future.exception(), "earlier", ()) == future.earlier
    assert task.emitter.counts["retry"] == len(failed)
    assert task.emitter.counts["on-done"] == 1
    assert not task.plugins[0]._n_retries


# -- what is usually retried -----------------------------------------------------------------


def crash_at_first(mark: str):
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    return "done"


def test_a_crash_is_retried_without_being_asked_for(tmp_path):
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(crash_at_first, plugins=Retry(max_retries=1))
    futures = submitted(task, str(tmp_path / "mark"))
    scheduler.run()
    assert futures[0].result() == "done"
    assert isinstance(futures[0].earlier[0], exceptions.CrashError)


def test_an_exception_of_the_function_is_not_retried_without_being_asked_for(scheduler):
    function = Flaky()
    submitted(scheduler.task(function, plugins=Retry(max_retries=3)))
    scheduler.run(on_exception="continue")
    assert function.n_calls == 1


def test_a_worker_that_was_lost_is_known_whosever_it_was():
    from concurrent.futures.process import BrokenProcessPool

    import loky.process_executor
    from distributed import KilledWorker

    for kind in (
        BrokenExecutor,
        BrokenProcessPool,
        loky.process_executor.TerminatedWorkerError,
        KilledWorker,
        exceptions.WorkerLostError,
        exceptions.ClusterLostError,
    ):
        assert issubclass(kind, LostWorker)
        assert issubclass(kind, Retry.USUAL)
    for kind in (
        RuntimeError,
        exceptions.ExitError,
        exceptions.CallPicklingError,
        exceptions.CallCancelledError,
        exceptions.LimitRefusedError,
        OSError,
    ):
        assert not issubclass(kind, Retry.USUAL)


def test_a_pool_that_has_broken_is_tried_as_often_as_was_said():
    with ProcessPoolExecutor(1) as pool:
        scheduler = Scheduler(pool)
        task = scheduler.task(os._exit, plugins=Retry(max_retries=2))
        futures = submitted(task, 3)
        scheduler.run(on_exception="continue")
    assert isinstance(futures[0].exception(), BrokenExecutor)
    assert futures[0].attempts == 3


def kill_the_worker_at_first(mark: str):
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@pytest.mark.dask
def test_a_call_whose_dask_worker_dies_is_retried_on_another(tmp_path):
    import dask
    from distributed import Client

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        Client(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client,
    ):
        scheduler = Scheduler(client)
        task = scheduler.task(kill_the_worker_at_first, plugins=Retry(max_retries=1))
        futures = submitted(task, str(tmp_path / "mark"))
        scheduler.run(timeout=50)
    assert futures[0].result() == "done"
    assert isinstance(futures[0].earlier[0], LostWorker)
    assert type(futures[0].earlier[0]).__name__ == "WorkerLostError"


# -- raising the limits ----------------------------------------------------------------------


@pytest.mark.parametrize("retry_first", [True, False])
def test_each_retry_multiplies_the_limits_in_whatever_order_the_plugins_are(retry_first):
    scheduler = Scheduler.with_processes(1)
    limits = PynisherPlugin(
        memory_limit=100_000, cputime_limit=10, walltime_limit=0.1, process_limit=4
    )
    retry = Retry(max_retries=2, memory_factor=1.5, cpu_time_factor=3, on=exceptions.CallError)
    task = scheduler.task(time.sleep, plugins=[retry, limits] if retry_first else [limits, retry])
    futures, queued = submitted(task, 60), []
    task.on("retry")(lambda future, *_: queued.append(scheduler.queue[future][0].limits))
    scheduler.run(on_exception="continue")
    ran_with = [error.limits for error in (*futures[0].earlier, futures[0].exception())]
    assert queued == ran_with[1:]
    assert ran_with == [
        Limits(memory=memory, cpu_time=cpu_time, wall_time=0.1, num_processes=4)
        for memory, cpu_time in ((100_000, 10), (150_000, 30), (225_000, 90))
    ]


def hog(n_bytes: int):
    data = b"x" * n_bytes
    time.sleep(1)
    return len(data)


def test_a_call_gets_the_memory_that_it_needs_at_last():
    scheduler = Scheduler.with_processes(1)
    retry = Retry(max_retries=5, memory_factor=2)
    task = scheduler.task(hog, plugins=[PynisherPlugin(memory_limit="100 MiB"), retry])
    futures = submitted(task, 250 * 2**20)
    breaches = []
    task.on("pynisher-memory-limit")(breaches.append)
    scheduler.run()
    assert futures[0].result() == 250 * 2**20
    assert futures[0].attempts == 3
    assert [type(error) for error in futures[0].earlier] == [exceptions.MemoryBreach] * 2
    assert futures[0].usage.peak_memory > 240 * 2**20  # some pages were there before the call
    assert not breaches  # of that call there was none in the end


def test_events_of_a_breach_come_once_for_the_last_attempt():
    scheduler = Scheduler.with_processes(1)
    limits = PynisherPlugin(walltime_limit=0.05)
    task = scheduler.task(time.sleep, plugins=[limits, Retry(max_retries=2)])
    submitted(task, 600)
    seen = []
    for event in ("retry", "on-exception", "pynisher-timeout", "pynisher-walltime-limit"):
        task.on(event)(lambda *_, name=event: seen.append(name))
    scheduler.run(on_exception="continue")
    assert seen == ["retry"] * 2 + ["on-exception", "pynisher-timeout", "pynisher-walltime-limit"]


def test_limits_that_came_with_the_function_are_raised_too_and_none_is_made_up(scheduler):
    fn = limit(time.sleep, wall_time=0.1)
    retry = Retry(max_retries=1, wall_time_factor=100, memory_factor=2)
    task = scheduler.task(fn, plugins=retry)
    futures = submitted(task, 0.3)
    scheduler.run()
    assert futures[0].attempts == 2
    assert fn.limits == futures[0].earlier[0].limits == Limits(wall_time=0.1)


def test_limits_are_raised_to_what_can_be_counted_and_no_further():
    retry = Retry(max_retries=3, memory_factor=1e308, wall_time_factor=1e308)
    limits = Limits(memory=100_000, wall_time=1e300)
    for _ in range(3):
        limits = retry._raised(limits)
    assert limits == Limits(memory=2**62, wall_time=1e300)


# -- delay -----------------------------------------------------------------------------------


def test_a_delay_holds_up_nothing_but_its_own_call(scheduler):
    task = scheduler.task(Flaky(1), plugins=flaky_retry(delay="3 s"))
    other = scheduler.task(abs)
    order = []
    submitted(task)
    task.on_result(lambda *_: order.append("retried"))
    task.on("retry")(lambda *_: other.submit(-1) and None)
    other.on_result(lambda *_: order.append("other"))
    began = time.monotonic()
    assert scheduler.run().code == ExitState.EXHAUSTED
    assert time.monotonic() - began >= 3
    assert order == ["other", "retried"]
    assert scheduler.event_counts["on_empty"] == 1


def in_its_delay(scheduler, then, **options):
    """A call that has failed, and would be retried in ten minutes, but for `then`."""
    function = Flaky()
    task = scheduler.task(function, plugins=flaky_retry(delay=600))
    futures = submitted(task)
    task.on("retry")(lambda future, *_: then(future))
    state = scheduler.run(on_cancelled="continue", on_exception="raise", **options)
    assert futures[0].cancelled()
    assert function.n_calls == 1
    assert not scheduler.queue
    assert task.futures() == []
    assert scheduler.event_counts["on_future_cancelled"] == 1
    assert not task.plugins[0]._n_retries
    return state


def test_cancelling_in_the_delay_ends_the_call_and_nobody_waits_for_the_rest(scheduler):
    assert in_its_delay(scheduler, lambda future: future.cancel()).code == ExitState.EXHAUSTED


def test_cancelling_in_the_delay_from_another_thread_does_too(scheduler):
    def later(future):
        scheduler.call_later(0.05, lambda: threads[0].start())
        threads.append(threading.Thread(target=future.cancel))

    threads = []
    assert in_its_delay(scheduler, later).code == ExitState.EXHAUSTED
    threads[0].join()


@pytest.mark.parametrize("wait", [True, False])
def test_a_stop_in_the_delay_cancels_the_call(scheduler, wait):
    state = in_its_delay(scheduler, lambda _: scheduler.stop(), wait=wait)
    assert state.code == ExitState.STOPPED


@pytest.mark.parametrize("wait", [True, False])
def test_a_timeout_in_the_delay_cancels_the_call(scheduler, wait):
    state = in_its_delay(scheduler, lambda _: None, timeout=0.2, wait=wait)
    assert state.code == ExitState.TIMEOUT


def test_ctrl_c_in_the_delay_cancels_the_call(scheduler):
    def interrupt():
        raise KeyboardInterrupt  # as Python does on the signal, between any two steps

    with pytest.raises(KeyboardInterrupt):
        in_its_delay(scheduler, lambda _: scheduler.call_later(0, interrupt))
    assert scheduler.event_counts["on_future_cancelled"] == 1
    assert not scheduler.queue


def test_a_coroutine_can_wait_for_a_delay(scheduler):
    import asyncio

    task = scheduler.task(Flaky(2), plugins=flaky_retry(delay=0.05))
    futures = submitted(task)
    state = asyncio.run(scheduler.async_run(timeout=30))
    assert state.code == ExitState.EXHAUSTED
    assert futures[0].result() == 3


# -- while it runs ---------------------------------------------------------------------------


def breach_then_sleep(mark: str, pid_file: str):
    if not Path(mark).exists():
        Path(mark).touch()
        subprocess.run(["sleep", "60"], check=True)
    start_sleeping(Path(pid_file))


def test_cancelling_any_attempt_ends_the_whole_call(tmp_path):
    scheduler = Scheduler.with_processes(1)
    plugins = [PynisherPlugin(process_limit=1), Retry(max_retries=5)]
    task = scheduler.task(breach_then_sleep, plugins=plugins)
    futures = submitted(task, str(tmp_path / "mark"), str(tmp_path / "pid"))

    @task.on("retry")
    def cancel_what_comes(future, exception, attempt):
        def cancel():
            written_pid(tmp_path / "pid")
            assert future.running()
            future.cancel()

        threading.Thread(target=cancel).start()

    scheduler.run(on_cancelled="continue")
    assert futures[0].cancelled()
    assert futures[0].attempts == 2
    assert task.emitter.counts["retry"] == 1
    until(lambda: not alive(written_pid(tmp_path / "pid")))


def test_an_attempt_that_fails_while_the_run_is_ending_is_the_last(scheduler, tmp_path):
    def fail():
        until((tmp_path / "gate").exists)
        raise FlakyError

    task = scheduler.task(fail, plugins=flaky_retry())
    futures = submitted(task)
    scheduler.on_start(scheduler.stop)
    scheduler.on_finishing((tmp_path / "gate").touch)
    assert scheduler.run(on_exception="continue").code == ExitState.STOPPED
    assert isinstance(futures[0].exception(), FlakyError)
    assert futures[0].attempts == 1


def test_a_run_that_does_not_wait_leaves_no_attempt_behind(tmp_path):
    scheduler = Scheduler.with_processes(1)
    plugins = [PynisherPlugin(process_limit=1), Retry(max_retries=5)]
    task = scheduler.task(breach_then_sleep, plugins=plugins)
    futures = submitted(task, str(tmp_path / "mark"), str(tmp_path / "pid"))

    def stop_when_it_runs():
        written_pid(tmp_path / "pid")
        scheduler.stop()

    task.on("retry")(lambda *_: threading.Thread(target=stop_when_it_runs).start())
    assert scheduler.run(wait=False).code == ExitState.STOPPED
    assert futures[0].cancelled()
    until(lambda: not alive(written_pid(tmp_path / "pid")))


# -- beside other plugins --------------------------------------------------------------------


def test_a_retry_is_no_new_call_to_a_limiter(scheduler):
    task = scheduler.task(Flaky(2), plugins=[Limiter(max_calls=2), flaky_retry()])
    futures = submitted(task)
    task.on("call-limit-reached")(lambda *_: pytest.fail("a retry was counted"))
    task.on_result(lambda *_: task.submit() and None, max_calls=1)
    scheduler.run()
    assert futures[0].attempts == 3
    assert task.n_submitted == 2


@pytest.mark.parametrize("delay", [0, 0.05])
def test_no_more_than_max_concurrent_run_when_held_calls_are_retried_too(scheduler, delay):
    running, most, failed = [], [], set()

    def call(n):
        running.append(n)
        most.append(len(running))
        time.sleep(0.005)
        running.remove(n)
        if n % 2 and n not in failed:
            failed.add(n)
            raise FlakyError
        return n

    limiter = Limiter(max_concurrent=1, when_full="wait")
    task = scheduler.task(call, plugins=[flaky_retry(delay=delay), limiter])
    results = []
    task.on_result(lambda _, n: results.append(n))
    scheduler.on_start(lambda: [task.submit(n) for n in range(6)] and None)
    scheduler.run()
    assert results == list(range(6))
    assert max(most) == 1


def test_a_call_keeps_others_from_running_between_its_attempts(scheduler):
    task = scheduler.task(Flaky(1), plugins=flaky_retry(delay=0.05))
    other = scheduler.task(abs, plugins=Limiter(not_while_running=task, when_full="wait"))
    order = []
    task.on_result(lambda *_: order.append("retried"))
    other.on_result(lambda *_: order.append("other"))
    submitted(task)
    task.on("retry")(lambda *_: other.submit(-1) and None)
    scheduler.run()
    assert order == ["retried", "other"]


def test_several_retries_each_count_their_own(scheduler):
    def fail():
        errors = [FlakyError, LookupError, LookupError, FlakyError, LookupError]
        function.n_calls += 1
        raise errors[function.n_calls - 1]

    function = Flaky()
    plugins = [flaky_retry(2), Retry(max_retries=2, on=LookupError)]
    task = scheduler.task(fail, plugins=plugins)
    futures = submitted(task)
    scheduler.run(on_exception="continue")
    assert isinstance(futures[0].exception(), LookupError)
    assert futures[0].attempts == 5
    assert task.emitter.counts["retry"] == 4


def test_two_copies_on_one_task_each_count_their_own(scheduler):
    retry = flaky_retry(2)
    scheduler.task(abs, plugins=retry)
    task = scheduler.task(Flaky(9), plugins=[retry.copy(), retry.copy()])
    futures = submitted(task)
    scheduler.run(on_exception="continue")
    assert futures[0].attempts == 5


def test_a_plugin_of_ones_own_may_ask_a_retry(scheduler):
    class Twice(Plugin):
        def __init__(self):
            self.retry = flaky_retry(1)

        def next_attempt(self, future, exception, call):
            return self.retry.next_attempt(future, exception, call)

    task = scheduler.task(Flaky(9), plugins=Twice())
    futures = submitted(task)
    scheduler.run(on_exception="continue")
    assert futures[0].attempts == 2
    assert isinstance(futures[0].exception(), FlakyError)


def test_a_retry_of_ones_own_may_attach_itself(scheduler):
    class Loud(Retry):
        def attach_task(self, task):
            self.task = task

    task = scheduler.task(Flaky(9), plugins=Loud(max_retries=1, on=FlakyError))
    futures = submitted(task)
    scheduler.run(on_exception="continue")
    assert futures[0].attempts == 2


def test_a_plugin_of_ones_own_may_submit_something_else(scheduler):
    class Smaller(Plugin):
        def next_attempt(self, future, exception, call):
            fn, (n,), kwargs = call
            return ((fn, (n // 2,), kwargs), 0) if n > 1 else None

    def only_small(n):
        if n > 10:
            raise ValueError(n)
        return n

    task = scheduler.task(only_small, plugins=Smaller())
    futures = submitted(task, 50)
    scheduler.run()
    assert futures[0].result() == 6
    assert task.emitter.counts["retry"] == 3


@pytest.mark.parametrize(
    "answer",
    [
        lambda: 1 // 0,
        lambda: "nonsense",
        lambda: (None, "soon"),
        lambda: (None, float("nan")),
        lambda: (None, float("inf")),
    ],
)
def test_a_plugin_that_fails_to_decide_fails_as_a_callback_does_and_the_call_ends(
    scheduler, answer
):
    class Broken(Plugin):
        def next_attempt(self, future, exception, call):
            return answer()

    futures = submitted(scheduler.task(Flaky(), plugins=Broken()))
    scheduler.run(on_exception="continue", timeout=30)
    assert isinstance(futures[0].exception(), FlakyError)


def test_a_callback_of_the_event_that_raises_keeps_no_call_from_its_retry(scheduler):
    task = scheduler.task(Flaky(1), plugins=flaky_retry())
    futures = submitted(task)
    task.on("retry")(lambda *_: 1 // 0)
    scheduler.run(on_exception="continue")
    assert futures[0].result() == 2


# -- what it is given ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("max_retries", -1, ValueError),
        ("max_retries", 1.0, TypeError),
        ("max_retries", True, TypeError),
        ("max_retries", None, TypeError),
        ("memory_factor", 0.5, ValueError),
        ("memory_factor", float("nan"), ValueError),
        ("wall_time_factor", float("inf"), ValueError),
        ("wall_time_factor", -2, ValueError),
        ("wall_time_factor", 10**400, ValueError),
        ("cpu_time_factor", "2", TypeError),
        ("cpu_time_factor", True, TypeError),
        ("delay", -1, ValueError),
        ("delay", float("nan"), ValueError),
        ("delay", "1 parsec", ValueError),
        ("delay", False, TypeError),
        ("delay", None, TypeError),
        ("on", "memory", TypeError),
        ("on", int, TypeError),
        ("on", (ValueError, "crash"), TypeError),
        ("on", ValueError("an instance"), TypeError),
        ("on", (), ValueError),
        ("on", None, TypeError),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(name, value, kind):
    with pytest.raises(kind, match=name):
        Retry(**{"max_retries": 1, name: value})


def test_its_copy_does_the_same_on_another_task(scheduler):
    retry = Retry(
        max_retries=2,
        on=[FlakyError, OSError],
        memory_factor=2,
        cpu_time_factor=3,
        wall_time_factor=1.5,
        delay=(20, "ms"),
    )
    task = scheduler.task(abs, plugins=retry)
    other = scheduler.task(Flaky(2), plugins=retry.copy())
    assert task.plugins[0] is not other.plugins[0]
    for name in ("max_retries", "on", "delay"):
        assert getattr(other.plugins[0], name) == getattr(retry, name)
    assert other.plugins[0]._factors() == {"memory": 2, "cpu_time": 3, "wall_time": 1.5}
    futures = submitted(other)
    scheduler.run()
    assert futures[0].attempts == 3


def test_it_renders_itself(scheduler):
    import io

    from rich.console import Console

    text = io.StringIO()
    task = scheduler.task(abs, plugins=Retry(max_retries=2, memory_factor=1.5, delay=3))
    Console(file=text, width=80).print(task)
    for part in ("At most 2 times", "memory x 1.5", "After 3 s", "Breach, CrashError"):
        assert part in text.getvalue()
