"""How a run ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from contextlib import nullcontext

import pytest
from processes import all_gone, below, wait_for
from scheduled import fail, on_start

from dask_limits import ExitState, PynisherPlugin, Scheduler, exceptions
from dask_limits.exceptions import CallPicklingError, SchedulerNotRunningError

Code = ExitState.Code


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


def test_a_result_that_is_waited_for_is_emitted_between_finishing_and_finished(
    threads, seen, tmp_path
):
    on_start(threads, wait_for, tmp_path / "gate")
    threads.on_finishing((tmp_path / "gate").touch)
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
    on_start(scheduler, time.sleep, 600)
    scheduler.on_future_submitted(scheduler.stop)
    assert scheduler.run(wait=False).code == Code.STOPPED
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


class UnspeakableError(Exception):
    def __repr__(self):
        raise RuntimeError("no words")

    __str__ = __repr__


def fail_unspeakably():
    raise UnspeakableError


@pytest.mark.parametrize("on_exception", ["raise", "end", "continue"])
@pytest.mark.parametrize("where", ["call", "callback", "two callbacks"])
def test_an_exception_that_cannot_be_printed_does_as_any_other(threads, where, on_exception):
    if where == "call":
        on_start(threads, fail_unspeakably)
    for _ in range({"call": 0, "callback": 1, "two callbacks": 2}[where]):
        threads.on_start(fail_unspeakably)
    with pytest.raises(UnspeakableError) if on_exception == "raise" else nullcontext():
        state = threads.run(on_exception=on_exception)
        ends = on_exception == "end"
        assert state.code == (Code.EXCEPTION if ends else Code.EXHAUSTED)
        assert isinstance(state.exception, UnspeakableError if ends else type(None))


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
    threads.on_future_exception(lambda *_: 1 // 0)
    threads.on_future_exception(lambda *_: threads.submit(abs, -1))
    assert threads.run(on_exception="continue") == ExitState(Code.EXHAUSTED)
    assert threads.event_counts["on_future_result"] == 1
    [record, at_the_end] = caplog.records
    assert record.exc_info[0] is ZeroDivisionError
    assert "of callbacks that the run did not raise: 1." in at_the_end.getMessage()


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


@pytest.mark.parametrize("event", ["on_stop", "on_finishing", "on_future_cancelled"])
def test_a_callback_that_exits_while_all_is_ended_leaves_no_call(event):
    scheduler = Scheduler.with_processes(1)
    on_start(scheduler, abs, 1)
    futures = []
    scheduler.on_start(lambda: futures.extend(scheduler.submit(time.sleep, 60) for _ in range(2)))
    scheduler.on_future_result(lambda *_: signal.raise_signal(signal.SIGINT))
    getattr(scheduler, event)(lambda *_: sys.exit(3))
    with pytest.raises(SystemExit):
        scheduler.run()
    assert all(future.cancelled() for future in futures)
    assert scheduler.event_counts["on_finished"] == 1
    with pytest.raises(RuntimeError, match="shutdown"):
        scheduler.executor.submit(abs, 1)


CTRL_C = """
import os, sys, time
from dask_limits import Scheduler

if __name__ == "__main__":
    scheduler = Scheduler.with_{kind}(2)
    scheduler.on_start(lambda: [scheduler.submit(time.sleep, 600) for _ in range(4)] and None)
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
        family = below(program.pid)
        program.send_signal(signal.SIGINT)
        output = program.communicate()[0]
    assert program.returncode == 7
    assert "'on_finished': 1" in output
    assert "'on_future_cancelled': 4" in output
    all_gone(family)


def test_a_breach_that_ends_a_run_says_how_to_go_on() -> None:
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(time.sleep, plugins=PynisherPlugin(wall_time=0.1))
    scheduler.on_start(lambda: task.submit(60))
    for _ in range(2):
        with pytest.raises(exceptions.WallTimeBreach) as raised:
            scheduler.run()
        (note,) = raised.value.__notes__
        assert 'run(on_exception="continue")' in note
    scheduler = Scheduler.with_processes(1)
    scheduler.on_start(lambda: scheduler.submit(int, "no number"))
    with pytest.raises(ValueError, match="no number") as other:
        scheduler.run()
    assert not hasattr(other.value, "__notes__")
