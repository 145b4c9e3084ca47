from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import wait_for

from dask_limits import ExitState, PynisherPlugin, Scheduler, SequentialExecutor
from dask_limits.exceptions import CallPicklingError, SchedulerNotRunningError

Code = ExitState.Code


def fail(text: str = "failed"):
    raise ValueError(text)


def on_start(scheduler, *call, times=1, **kwargs):
    scheduler.on_start(lambda: scheduler.submit(*call, **kwargs) and None, repeat=times)


@pytest.fixture(params=["sequential", "threads", "processes"])
def scheduler(request):
    make = getattr(Scheduler, f"with_{request.param}")
    return make() if request.param == "sequential" else make(2)


@pytest.fixture
def seen(threads):
    """Every event of a scheduler in the order of its emission."""
    names = []
    for event in threads.emitter.events:
        threads.on(event)(lambda *_, name=event.name: names.append(name))
    return names


@pytest.fixture
def threads():
    return Scheduler.with_threads(2)


# -- results and order -----------------------------------------------------------------------


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


# -- how a run ends --------------------------------------------------------------------------


def test_a_timeout_waits_for_what_runs_and_then_ends(scheduler):
    on_start(scheduler, time.sleep, 0.03)

    @scheduler.on_future_done
    def again(_):
        if scheduler.running():
            scheduler.submit(time.sleep, 0.03)

    assert scheduler.run(timeout="200 ms").code == Code.TIMEOUT
    counts = scheduler.event_counts
    assert counts["on_timeout"] == counts["on_finishing"] == counts["on_finished"] == 1
    assert counts["on_empty"] == counts["on_stop"] == 0
    assert counts["on_future_submitted"] == counts["on_future_result"] >= 1


def test_a_result_that_is_waited_for_is_emitted_between_finishing_and_finished(threads, seen):
    on_start(threads, time.sleep, 0.1)
    threads.run(timeout=0.01)
    assert seen[2:] == [
        "on_timeout",
        "on_finishing",
        "on_future_done",
        "on_future_result",
        "on_finished",
    ]


def test_a_stop_without_waiting_ends_a_call_that_runs():
    scheduler = Scheduler.with_processes(1)
    on_start(scheduler, time.sleep, 60)
    scheduler.on_future_submitted(scheduler.stop)
    began = time.monotonic()
    assert scheduler.run(wait=False).code == Code.STOPPED
    assert time.monotonic() - began < 20
    assert scheduler.event_counts == {
        "on_start": 1,
        "on_future_submitted": 1,
        "on_stop": 1,
        "on_finishing": 1,
        "on_future_cancelled": 1,
        "on_finished": 1,
    }


def test_stop_tells_its_callbacks_and_the_exit_state_why(threads):
    why, told = ValueError("enough"), []
    threads.on_start(lambda: threads.stop(stop_msg="that is it", exception=why))
    threads.on_stop(lambda message, exception: told.append((message, exception)))
    assert threads.run() == ExitState(Code.STOPPED, why)
    assert told == [("that is it", why)]


def test_stop_can_be_called_from_another_thread_while_nothing_happens(threads):
    stopper = threading.Thread(target=threads.stop)
    threads.on_empty(stopper.start)
    assert threads.run(end_on_empty=False).code == Code.STOPPED
    stopper.join()


def test_after_a_stop_nothing_can_be_submitted(threads):
    @threads.on_start
    def stop():
        assert threads.running()
        threads.stop()
        assert not threads.running()
        with pytest.raises(SchedulerNotRunningError, match=r"scheduler\.running\(\)"):
            threads.submit(abs, 1)

    assert threads.run().code == Code.STOPPED


def test_a_submit_while_not_running_says_what_to_do(threads):
    for submit in (lambda: threads.submit(abs, 1), lambda: threads.task(abs).submit(1)):
        with pytest.raises(SchedulerNotRunningError, match="on_start"):
            submit()
    with pytest.raises(SchedulerNotRunningError):
        threads.call_later(1, print)


def test_a_run_inside_a_run_is_refused(threads):
    @threads.on_start
    def again():
        with pytest.raises(RuntimeError, match="already"):
            threads.run()

    threads.run()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": "1 lightyear"}, "timeout="),
        ({"on_exception": "ignore"}, "on_exception='ignore'"),
        ({"on_exception": {ValueError: "ignore"}}, "ValueError"),
        ({"on_cancelled": {}}, "on_cancelled={}"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_starts(threads, options, named):
    with pytest.raises(ValueError, match=named):
        threads.run(**options)
    assert not threads.event_counts


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (BaseException, ValueError),
        (KeyboardInterrupt, ValueError),
        ("ValueError", TypeError),
        (ValueError("x"), TypeError),
        (int, TypeError),
    ],
)
def test_a_mapping_names_types_of_exceptions_other_than_ctrl_c(threads, key, error):
    with pytest.raises(error, match="Invalid key"):
        threads.run(on_exception={key: "end"})
    assert not threads.event_counts


# -- exceptions ------------------------------------------------------------------------------


def test_an_exception_of_a_call_is_raised_with_the_users_traceback(scheduler):
    on_start(scheduler, fail, "from the call")
    with pytest.raises(ValueError, match="from the call") as error:
        scheduler.run()
    local = any(entry.name == "fail" for entry in error.traceback)
    assert local or "in fail" in str(error.value.__cause__)
    assert scheduler.event_counts["on_future_exception"] == 1
    assert scheduler.event_counts["on_finished"] == 1


def test_an_exception_of_a_callback_is_raised_with_its_traceback(scheduler):
    scheduler.on_start(fail)
    with pytest.raises(ValueError, match="failed") as error:
        scheduler.run()
    assert error.traceback[-1].name == "fail"
    assert scheduler.event_counts["on_finished"] == 1


@pytest.mark.parametrize("where", ["call", "callback"])
def test_an_exception_can_end_the_run_without_raising(threads, where):
    if where == "call":
        on_start(threads, fail)
    else:
        threads.on_start(fail)
    state = threads.run(on_exception="end")
    assert state.code == Code.EXCEPTION
    assert isinstance(state.exception, ValueError)


@pytest.mark.parametrize("on_exception", ["raise", "end"])
@pytest.mark.parametrize("where", ["call", "callback"])
def test_a_run_that_an_exception_ends_emits_stop_and_empty(threads, seen, where, on_exception):
    told = []
    threads.on_stop(lambda *why: told.append(why))
    if where == "call":
        on_start(threads, fail)
    else:
        threads.on_start(fail)
    with pytest.raises(ValueError) if on_exception == "raise" else nullcontext():
        threads.run(on_exception=on_exception)
    assert seen[-4:] == ["on_empty", "on_stop", "on_finishing", "on_finished"]
    [(message, exception)] = told
    assert message == f"A {where} raised ValueError('failed')"
    assert isinstance(exception, ValueError)


def test_a_run_that_an_exception_ends_is_not_empty_while_calls_run(threads, seen, tmp_path):
    on_start(threads, wait_for, str(tmp_path / "gate"))
    on_start(threads, fail)
    threads.on_finishing((tmp_path / "gate").touch)
    threads.run(on_exception="end")
    assert "on_empty" not in seen
    assert seen[-5:] == [
        "on_stop",
        "on_finishing",
        "on_future_done",
        "on_future_result",
        "on_finished",
    ]


def test_of_a_stop_and_an_exception_the_first_is_told(threads):
    told = []
    threads.on_stop(lambda *why: told.append(why))

    @threads.on_start
    def stop_and_fail():
        threads.stop(stop_msg="enough")
        fail()

    assert threads.run(on_exception="end").code == Code.EXCEPTION
    assert told == [("enough", None)]


def test_an_exception_can_be_passed_over_and_one_of_a_callback_is_logged(threads, caplog):
    on_start(threads, fail)
    threads.on_future_exception(fail)
    threads.on_future_exception(lambda *_: threads.submit(abs, -1))
    assert threads.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    assert threads.event_counts["on_future_result"] == 1
    [record] = caplog.records
    assert record.exc_info[0] is TypeError  # fail() was called with two arguments


def test_a_mapping_is_looked_through_in_order_and_what_it_does_not_name_is_raised(threads):
    rules = {ZeroDivisionError: "continue", ArithmeticError: "end"}
    on_start(threads, lambda: 1 // 0)
    assert threads.run(on_exception=rules).code == Code.EXHAUSTED
    with pytest.raises(ZeroDivisionError):
        threads.run(on_exception={ArithmeticError: "raise", ZeroDivisionError: "continue"})
    threads = Scheduler.with_threads(1)
    on_start(threads, fail)
    with pytest.raises(ValueError, match="failed"):
        threads.run(on_exception=rules)


def test_the_last_calls_exception_callback_may_stop_and_empty_is_emitted_too(threads):
    on_start(threads, fail)
    threads.on_future_exception(lambda *_: threads.stop())
    assert threads.run(on_exception="continue").code == Code.STOPPED
    assert threads.event_counts["on_empty"] == threads.event_counts["on_stop"] == 1


def test_a_call_that_someone_cancels_raises_ends_or_is_passed_over(tmp_path):
    def cancel_one(**options):
        scheduler = Scheduler.with_processes(1)
        scheduler.on_start(lambda: scheduler.submit(time.sleep, 60).cancel())
        return scheduler, scheduler.run(**options)

    with pytest.raises(CancelledError, match=r"sleep.*on_cancelled='continue'"):
        cancel_one()
    scheduler, state = cancel_one(on_cancelled="end")
    assert state.code == Code.CANCELLED
    assert scheduler.event_counts["on_stop"] == scheduler.event_counts["on_empty"] == 1
    scheduler, state = cancel_one(on_cancelled="continue")
    assert state.code == Code.EXHAUSTED
    assert scheduler.event_counts["on_future_cancelled"] == 1
    assert scheduler.event_counts["on_future_done"] == 0


def test_what_cannot_be_pickled_is_the_futures_exception():
    scheduler = Scheduler.with_processes(1)
    on_start(scheduler, print, threading.Lock())
    with pytest.raises(CallPicklingError, match="print"):
        scheduler.run()
    assert scheduler.event_counts["on_future_exception"] == 1


def test_a_system_exit_in_a_callback_ends_all_at_once(threads):
    on_start(threads, abs, 1)
    threads.on_future_done(lambda _: sys.exit(3))
    told = []
    threads.on_stop(lambda *why: told.append(why))
    with pytest.raises(SystemExit):
        threads.run()
    assert told[0][0] == "SystemExit(3) was raised"
    assert threads.event_counts["on_finished"] == 1
    assert not threads.running()


# -- Ctrl-C ----------------------------------------------------------------------------------

CTRL_C = """
import os, sys, time
from dask_limits import Scheduler

if __name__ == "__main__":
    scheduler = Scheduler.with_{kind}(2)
    scheduler.on_start(lambda: [scheduler.submit(time.sleep, 60) for _ in range(4)] and None)
    scheduler.on_start(lambda: print("up", flush=True))
    try:
        scheduler.run()
    except KeyboardInterrupt:
        print({{str(e): n for e, n in scheduler.event_counts.items()}}, flush=True)
        os._exit(7) if "{kind}" == "threads" else sys.exit(7)
"""


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_ctrl_c_ends_everything_at_once_and_is_raised(tmp_path, kind):
    script = tmp_path / "program.py"
    script.write_text(CTRL_C.format(kind=kind))
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout.readline() == "up\n"
        family = psutil.Process(program.pid).children(recursive=True)
        began = time.monotonic()
        program.send_signal(signal.SIGINT)
        output = program.communicate(timeout=30)[0]
        assert time.monotonic() - began < 5
    assert program.returncode == 7
    assert "'on_finished': 1" in output
    assert "'on_future_cancelled': 4" in output
    psutil.wait_procs(family, timeout=5)
    assert not [p for p in family if p.is_running()]


# -- timers and other threads ----------------------------------------------------------------


def test_a_timer_is_waited_for_and_may_submit_more(scheduler):
    scheduler.on_start(lambda: scheduler.call_later(0.05, scheduler.submit, abs, -7) and None)
    results = []
    scheduler.on_future_result(lambda _, result: results.append(result))
    assert scheduler.run().code == Code.EXHAUSTED
    assert results == [7]
    assert scheduler.event_counts["on_empty"] == 1


def test_timers_are_called_in_the_order_of_their_time(threads):
    calls = []

    @threads.on_start
    def begin():
        threads.call_later("60 ms", calls.append, 3)
        threads.call_later(0.01, calls.append, 1)
        threads.call_later((20, "ms"), calls.append, 2)
        threads.call_later(0, calls.append, 0)

    threads.run()
    assert calls == [0, 1, 2, 3]


def test_a_cancelled_timer_is_not_called_and_not_waited_for(threads):
    @threads.on_start
    def begin():
        timer = threads.call_later(3600, print, "never")
        threads.call_later(0.01, lambda: timer.cancel() and None)

    began = time.monotonic()
    assert threads.run().code == Code.EXHAUSTED
    assert time.monotonic() - began < 30


def test_a_timer_that_is_pending_at_the_end_is_dropped(threads):
    threads.on_start(lambda: threads.call_later(3600, print, "never") and None)
    assert threads.run(timeout=0.05).code == Code.TIMEOUT


def test_an_error_in_a_timer_is_one_of_a_callback(threads):
    threads.on_start(lambda: threads.call_later(0, fail) and None)
    with pytest.raises(ValueError, match="failed"):
        threads.run()


def test_submitting_from_another_thread_still_calls_back_in_the_runs_thread(threads):
    idents, results = [], []
    threads.on_future_submitted(lambda _: idents.append(threading.get_ident()))

    def work():
        results.extend(threads.submit(abs, -n).result(timeout=30) for n in range(5))
        threads.stop()

    worker = threading.Thread(target=work)
    threads.on_start(worker.start)
    threads.run(end_on_empty=False)
    worker.join()
    assert results == [0, 1, 2, 3, 4]
    assert set(idents) == {threading.get_ident()}


def test_a_thread_that_submits_to_a_run_that_ends_is_told_so(threads):
    refused = threading.Event()

    def work():
        try:
            while True:
                threads.submit(abs, 1)
        except SchedulerNotRunningError:
            refused.set()

    worker = threading.Thread(target=work)
    threads.on_start(worker.start)
    threads.run(end_on_empty=False, timeout=0.1)
    assert refused.wait(30)
    worker.join()


# -- event loops -----------------------------------------------------------------------------


def test_run_works_where_an_event_loop_runs_already(scheduler):
    on_start(scheduler, abs, -1)

    async def cell():
        return scheduler.run()

    assert asyncio.run(cell()).code == Code.EXHAUSTED
    assert scheduler.event_counts["on_future_result"] == 1


def test_async_run_lets_other_coroutines_run_meanwhile(threads):
    on_start(threads, time.sleep, 0.05, times=3)
    ticks = []

    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0.005)

    async def main():
        other = asyncio.create_task(tick())
        state = await threads.async_run()
        other.cancel()
        return state

    assert asyncio.run(main()).code == Code.EXHAUSTED
    assert threads.event_counts["on_future_result"] == 3
    assert len(ticks) >= 3


def test_a_coroutine_can_submit_await_and_stop(threads):
    async def main():
        running = asyncio.create_task(threads.async_run(end_on_empty=False, timeout=30))
        while not threads.running():
            await asyncio.sleep(0)
        threads.call_later(0.01, print, end="")
        result = await threads.submit(pow, 2, 10)
        threads.stop()
        return result, await running

    result, state = asyncio.run(main())
    assert result == 1024
    assert state.code == Code.STOPPED


def test_cancelling_the_coroutine_ends_what_runs():
    scheduler = Scheduler.with_processes(1)
    on_start(scheduler, time.sleep, 60)

    async def main():
        running = asyncio.create_task(scheduler.async_run())
        while not scheduler.queue:
            await asyncio.sleep(0.01)
        running.cancel()
        await running

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert scheduler.event_counts["on_future_cancelled"] == 1
    assert scheduler.event_counts["on_finished"] == 1


# -- executors -------------------------------------------------------------------------------


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
    for bad in (3, None, "tcp://127.0.0.1:1", ThreadPoolExecutor):
        with pytest.raises(TypeError, match=r"Accepted are.*Dask Client.*Cluster"):
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
    with pytest.raises(TypeError, match="Accepted are"):
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


# -- looks -----------------------------------------------------------------------------------


def test_it_renders_whatever_callables_it_is_given(threads):
    from rich.console import Console

    class Odd:
        __name__ = 3
        __signature__ = "nonsense"

        def __call__(self, *_): ...

    threads.on_start(Odd())
    threads.on_timeout(min)
    task = threads.task(lambda x, *, y=1: x)
    task.on_result(Odd())
    threads.task(abs, plugins=[])
    named = threads.task(Odd())
    threads.run()
    text = io.StringIO()
    Console(file=text, width=80).print(threads)
    for part in ("Executor Queue: (0)", "@on_start 1", "Task <lambda>(x, *, y=1)", "Odd"):
        assert part in text.getvalue()
    assert named.unique_ref in text.getvalue()
    assert "Executor Queue" in threads._repr_mimebundle_()["text/html"]
    assert repr(threads) == "Scheduler(ThreadPoolExecutor(max_workers=2), 0 not done)"


def test_names_are_not_read_as_markup(threads):
    from rich.console import Console

    def plain(): ...

    plain.__name__ = "[/bold]odd[red]"
    threads.on_start(plain)
    text = io.StringIO()
    Console(file=text, width=80).print(threads)
    assert "[/bold]odd[red]()" in text.getvalue()


def test_a_live_display_ends_with_what_came_of_it(threads, capsys):
    on_start(threads, time.sleep, 0.2)
    assert threads.run(display=True).code == Code.EXHAUSTED
    assert "@on_finished 1" in capsys.readouterr().out


# -- properties ------------------------------------------------------------------------------

CALLS = st.lists(
    st.sampled_from(["return", "raise", "sleep", "cancel", "stop", "callback error"]), max_size=6
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    calls=CALLS,
    wait=st.booleans(),
    on_exception=st.sampled_from(["raise", "end", "continue"]),
    on_cancelled=st.sampled_from(["raise", "end", "continue"]),
    timeout=st.none() | st.just(0.02),
)
def test_every_call_ends_in_exactly_one_way_however_the_run_ends(
    calls, wait, on_exception, on_cancelled, timeout
):
    scheduler = Scheduler.with_threads(2)
    ends: dict[object, list[str]] = {}

    @scheduler.on_start
    def begin():
        for kind in calls:
            if not scheduler.running():
                return
            if kind == "stop":
                scheduler.stop()
                continue
            fn, args = {
                "raise": (fail, ()),
                "sleep": (time.sleep, (0.03,)),
                "callback error": (lambda: "callback error", ()),
            }.get(kind, (abs, (-1,)))
            future = scheduler.submit(fn, *args)
            ends[future] = []
            if kind == "cancel":
                future.cancel()

    for name in ("done", "result", "exception", "cancelled"):
        scheduler.on(f"on_future_{name}")(lambda future, *_, name=name: ends[future].append(name))

    @scheduler.on_future_result
    def fail_at_some(_, result):
        if result == "callback error":
            raise KeyError(result)

    try:
        state = scheduler.run(
            wait=wait, on_exception=on_exception, on_cancelled=on_cancelled, timeout=timeout
        )
        assert state.code in Code
    except (ValueError, KeyError):
        assert on_exception == "raise"
    except CancelledError:
        assert on_cancelled == "raise"
    allowed = (["done", "result"], ["done", "exception"], ["cancelled"])
    assert all(end in allowed for end in ends.values())
    counts = scheduler.event_counts
    assert counts["on_start"] == counts["on_finishing"] == counts["on_finished"] == 1
    assert counts["on_future_submitted"] == len(ends)
    assert all(future.done() for future in ends)


# -- what callbacks of futures may do --------------------------------------------------------


def test_a_done_callback_may_submit_more(scheduler):
    results = []
    scheduler.on_future_result(lambda _, result: results.append(result))

    def submit_next(n):
        if n < 20:
            future = scheduler.submit(abs, n)
            future.add_done_callback(lambda _: submit_next(n + 1))

    scheduler.on_start(lambda: submit_next(0))
    assert scheduler.run().code == Code.EXHAUSTED
    assert sorted(results) == list(range(20))


def test_a_done_callback_that_submits_when_the_run_is_ending_is_told_so():
    scheduler = Scheduler.with_processes(1)
    told = []

    def submit_again(_):
        try:
            scheduler.submit(abs, 1)
        except SchedulerNotRunningError as error:
            told.append(error)

    @scheduler.on_start
    def begin():
        scheduler.submit(time.sleep, 0.2).add_done_callback(submit_again)
        scheduler.stop()

    assert scheduler.run().code == Code.STOPPED
    assert len(told) == 1


def test_two_threads_may_cancel_a_call_whose_done_callback_submits():
    scheduler = Scheduler.with_processes(1)
    entered, submitted = threading.Event(), []

    def submit_more(_):
        entered.set()
        submitted.append(scheduler.submit(abs, -1))

    @scheduler.on_start
    def begin():
        future = scheduler.submit(time.sleep, 60)
        future.add_done_callback(submit_more)
        thread = threading.Thread(target=future.cancel)
        thread.start()
        entered.wait()
        assert future.cancel()  # and does not wait for the callback, which waits for us

    scheduler.run(on_cancelled="continue")
    assert [future.result() for future in submitted] == [1]


def test_an_error_of_a_submitted_callback_does_not_lose_the_future(scheduler):
    task = scheduler.task(abs)
    task.on_submitted(lambda *_: fail())
    scheduler.on_future_submitted(lambda _: fail())
    submitted = []

    @scheduler.on_start
    def begin():
        submitted.extend(task.submit(n) for n in range(3))

    scheduler.run(on_exception="continue")
    assert [future.result() for future in submitted] == [0, 1, 2]
    assert task.emitter.counts["on-submitted"] == 3
    with pytest.raises(ValueError, match="failed"):
        scheduler.run()


@pytest.mark.parametrize("name", ["event", "fn", "self", "args", "future", "call", "run"])
def test_parameters_may_have_any_name(scheduler, name):
    results = []
    task = scheduler.task(lambda **kwargs: kwargs, plugins=PynisherPlugin(walltime_limit=30))
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(**{name: 1}) and None)
    scheduler.on_start(lambda: scheduler.submit(dict, **{name: 2}) and None)
    scheduler.on_start(lambda: scheduler.call_later(0, results.append, name) and None)
    scheduler.run()
    assert {name: 1} in results
    assert name in results
