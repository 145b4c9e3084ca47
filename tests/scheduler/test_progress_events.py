"""What calls report by `progress(value)`, told by events while they run."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest
from isolations import CLEAN, FORKSERVER, FRESH, SPAWN, THREAD, WARM
from processes import wait_for

from dask_limits import Limiter, PynisherPlugin, Retry, Scheduler, exceptions, limit, progress

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

ANYWHERE = pytest.mark.parametrize(
    "isolated", [CLEAN, WARM, FRESH, SPAWN, FORKSERVER, THREAD], ids=str
)
IN_PROCESSES = pytest.mark.parametrize("isolated", [CLEAN, WARM, FRESH, SPAWN, FORKSERVER], ids=str)


def told_by(fn, *args, plugins=(), **run):
    """What a call reports, and its future."""
    scheduler, told, futures = Scheduler.with_processes(1), [], []
    task = scheduler.task(fn, plugins=plugins)
    scheduler.on_start(lambda: futures.append(task.submit(*args)))
    task.on_progress(lambda future, value: told.append(value) or futures.append(future))
    scheduler.run(timeout=100, on_exception="continue", **run)
    assert len(set(futures)) == 1
    return told, futures[0]


def in_thread(value):
    thread = threading.Thread(target=progress, args=(value,))
    thread.start()
    thread.join()


def in_fork(value):
    pid = os.fork()
    if pid == 0:
        progress(value)
        os._exit(0)
    os.waitpid(pid, 0)


async def in_coroutine(value):
    import asyncio

    await asyncio.sleep(0)
    progress(value)


@IN_PROCESSES
@pytest.mark.parametrize("report", [progress, in_thread, in_fork, in_coroutine])
def test_a_call_reports_from_its_threads_forks_and_coroutines(isolated, report):
    told, future = told_by(isolated(report, wall_time=60), {"loss": 0.5})
    assert told == [{"loss": 0.5}]
    assert future.exception() is None


@ANYWHERE
def test_values_of_any_kind_come_as_they_were_reported(isolated):
    def report():
        curve = [1.0]
        progress([None, True, 3, "text", b"bytes", curve, (Told(), test_nobody_asks)])
        curve.append(2.0)

    [[*plain, curve, (held, function)]], _ = told_by(isolated(report, wall_time=60))
    assert plain == [None, True, 3, "text", b"bytes"]
    assert curve == [1.0]  # as it was then
    assert type(held) is Told
    assert function is test_nobody_asks or isolated is THREAD  # where it is a copy


class Told:
    """A class of the script."""


def test_nobody_asks():
    """Without a callback nothing is pickled: any value will do."""
    scheduler = Scheduler.with_processes(1)
    scheduler.on_start(lambda: scheduler.submit(progress, threading.Lock))
    scheduler.on_start(lambda: scheduler.submit(lambda: progress(threading.Lock())))
    assert scheduler.run(timeout=60).code == "exhausted"
    assert limit(lambda: progress(threading.Lock()), wall_time=30)() is None


@ANYWHERE
def test_a_value_that_cannot_be_told_is_an_error_of_the_call_that_says_why(isolated):
    def report(value):
        progress("before")
        progress(value())

    for value, kind, words in (
        (threading.Lock, TypeError, r"cannot tell this lock: it cannot be pickled \(.*lock"),
        (lambda: bytes(70_000), ValueError, r"70\d\d\d bytes, and 65536 are the most"),
    ):
        told, future = told_by(isolated(report, wall_time=60), value)
        assert told == ["before"]
        with pytest.raises(kind, match=words):
            future.result()


def test_a_value_of_64_kib_is_told():
    told, _ = told_by(limit(lambda: progress(b"x" * 65_000), wall_time=30))
    assert told == [b"x" * 65_000]


class Unloadable:
    def __reduce__(self):
        return os.stat, ("/there is no such file",)


def test_a_value_that_cannot_be_unpickled_is_handled_as_what_a_callback_raises():
    scheduler = Scheduler.with_processes(1)
    scheduler.on_start(lambda: scheduler.submit(lambda: progress(Unloadable())))
    scheduler.on_future_progress(lambda *_: pytest.fail("it was told"))
    with pytest.raises(exceptions.CallPicklingError, match="no such file") as raised:
        scheduler.run(timeout=60)
    assert raised.value.part == "progress"


@pytest.mark.parametrize(
    ("way", "error"),
    [
        (lambda: os._exit(3), exceptions.ExitError),
        (lambda: os.kill(os.getpid(), 9), exceptions.CrashError),
        (lambda: time.sleep(100), exceptions.WallTimeBreach),
        (lambda: 1 / 0, ZeroDivisionError),
    ],
)
@IN_PROCESSES
def test_what_was_reported_just_before_the_end_is_told_however_it_ends(isolated, way, error):
    def report():
        progress(1)
        progress("last")
        way()

    # That of the one that is to go over it leaves time to report on a busy machine, too.
    wall_time = 5 if error is exceptions.WallTimeBreach else 100
    told, future = told_by(isolated(report, wall_time=wall_time))
    assert told[-1] == "last"
    assert isinstance(future.exception(), error)


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"cpu_time": 0.5, "grace_period": 5}, exceptions.CpuTimeBreach),
        ({"cpu_time": 0.5, "isolation": "thread"}, exceptions.CpuTimeBreach),
    ],
)
def test_a_warning_that_comes_while_a_value_is_pickled_stays_one(limits, error):
    def report():
        curve = dict.fromkeys(range(300), 1.0)
        while True:
            progress(curve)

    _, future = told_by(limit(report, **limits))
    assert isinstance(future.exception(), error)


def test_it_goes_with_captured_output_and_a_grace_period():
    def report():
        print("printed")
        progress("told")

    told, future = told_by(limit(report, wall_time=30, capture_output=True, grace_period=1))
    assert (told, future.usage.stdout) == (["told"], "printed\n")


@pytest.mark.parametrize("make", [Scheduler.with_processes, Scheduler.with_threads])
def test_a_callback_slower_than_values_come_is_told_the_latest(make):
    n = 300_000
    scheduler, told = make(1), []

    def report():
        for i in range(n):
            progress(i)

    @scheduler.on_future_progress
    def be_slow(future, value):
        told.append(value)
        time.sleep(0.2)

    scheduler.on_start(lambda: scheduler.submit(report))
    began = time.monotonic()
    scheduler.run(timeout=250)
    assert told == sorted(set(told))
    assert told[-1] == n - 1
    assert len(told) <= (time.monotonic() - began) / 0.2 + 1


def test_values_come_several_times_a_second_and_not_at_each_report(tmp_path):
    scheduler, told, began = Scheduler.with_threads(1), [], []

    def report():
        began.append(time.monotonic())
        while not (tmp_path / "enough").exists():
            progress(time.monotonic())

    @scheduler.on_future_progress
    def note(future, value):
        told.append(time.monotonic())
        if len(told) == 10:
            (tmp_path / "enough").touch()

    scheduler.on_start(lambda: scheduler.submit(report))
    scheduler.run(timeout=100)
    # Not from the first one on: it may have been told late.
    assert told[9] - began[0] >= 9 * 0.05


def test_a_callback_that_raises_ends_the_run_as_any_other(tmp_path):
    scheduler = Scheduler.with_processes(1)

    @scheduler.on_future_progress
    def fail(future, value):
        raise LookupError(value)

    def report():
        progress("lost")
        wait_for(tmp_path / "never")

    scheduler.on_start(lambda: scheduler.submit(report))
    with pytest.raises(LookupError, match="lost"):
        scheduler.run(timeout=100, wait=False)


@pytest.mark.parametrize("action", ["raise", "continue"])
def test_what_a_callback_raises_at_each_value_is_logged_once_at_most(action, tmp_path, caplog):
    scheduler, told = Scheduler.with_processes(1), []

    def report():
        n = 0
        while not (tmp_path / "enough").exists():
            progress(n := n + 1)
            time.sleep(0.01)

    @scheduler.on_future_progress
    def fail(future, value):
        told.append(value)
        if len(told) == 5:
            (tmp_path / "enough").touch()
        raise LookupError(value)

    task = scheduler.task(report)
    task.on_progress(lambda *_: int("no number"))
    scheduler.on_start(task.submit)
    errors = []
    try:
        scheduler.run(timeout=100, on_exception=action)
    except LookupError as error:
        errors.append(error)
    assert len(told) >= 5
    logged = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert logged == {"raise": [ValueError], "continue": [LookupError, ValueError]}[action]
    assert [error.args[0] for error in errors] == {"raise": told[:1], "continue": []}[action]


def test_each_attempt_of_a_call_that_is_retried_reports_and_the_future_is_the_same(tmp_path):
    def report(mark):
        n = 1 + Path(mark).exists()
        Path(mark).touch()
        progress(f"attempt {n}")
        if n == 1:
            raise LookupError

    scheduler, seen = Scheduler.with_processes(1), []
    task = scheduler.task(
        report, plugins=[Limiter(max_concurrent=1), Retry(max_retries=1, on=LookupError)]
    )
    scheduler.on_start(lambda: [task.submit(str(tmp_path / name)) for name in "ab"])
    futures = []
    task.on_submitted(lambda future, _: futures.append(future))
    task.on_progress(lambda future, value: seen.append((future, value)))
    task.on("retry")(lambda future, *_: seen.append((future, "retry")))
    task.on_done(lambda future: seen.append((future, "done")))
    scheduler.run(timeout=100)
    for future in futures:
        its = [what for one, what in seen if one is future]
        assert its == ["attempt 1", "retry", "attempt 2", "done"]


def test_tasks_are_told_of_their_own_calls_and_the_scheduler_of_all():
    scheduler, told = Scheduler.with_processes(2), []
    tasks = [scheduler.task(progress, plugins=PynisherPlugin(wall_time=60)) for _ in range(2)]
    for n, task in enumerate(tasks):
        task.on_progress(lambda _, value, n=n: told.append((n, value)))
    scheduler.on_future_progress(lambda _, value: told.append((None, value)))
    scheduler.on_start(lambda: [task.submit(n) for n, task in enumerate(tasks)])
    scheduler.on_start(lambda: scheduler.submit(progress, 2))
    scheduler.run(timeout=100)
    assert sorted(told, key=str) == [(0, 0), (1, 1), (None, 0), (None, 1), (None, 2)]
    assert scheduler.FUTURE_PROGRESS not in scheduler.event_counts


def test_calls_that_are_listened_to_do_not_go_with_those_that_are_not():
    scheduler, told = Scheduler.with_processes(1), []
    task = scheduler.task(limit(progress, wall_time=60))

    @scheduler.on_start
    def submit():
        for n in range(50):
            task.submit(n)
        task.on_progress(lambda _, value: told.append(value))
        for n in range(50, 100):
            task.submit(n)

    scheduler.run(timeout=100)
    assert told == [*range(50, 100)]


def test_a_call_that_ends_other_calls_files_reports_no_more_and_harms_nobody():
    def report():
        progress(1)
        os.closerange(3, 1000)
        progress(2)

    told, future = told_by(limit(report, wall_time=30))
    assert told[-1] == 2
    assert isinstance(future.exception(), exceptions.CrashError)


def test_no_file_is_left_open():
    def n_open():
        return len([*Path("/proc/self/fd").iterdir()])

    scheduler, counts = Scheduler.with_processes(1), []
    task = scheduler.task(limit(progress, wall_time=60))
    task.on_progress(lambda *_: None)

    @task.on_result
    def next_one(future, _):
        counts.append(n_open())
        if len(counts) < 30:
            task.submit(len(counts))

    scheduler.on_start(lambda: task.submit(0))
    scheduler.run(timeout=100)
    assert counts[-1] <= counts[5]
